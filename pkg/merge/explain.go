package merge

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// Explanation says where the backends of a service are, which of them the own
// cluster's clients are given, and why.
type Explanation struct {
	Name service.Name
	// Here says that the own cluster has the service; the next are what it says
	// about it, zero otherwise.
	Here      bool
	Global    bool
	Affinity  service.Affinity
	Frontends []service.Frontend
	Rules     service.Rules
	// Clusters are those that have the service, the own one first, then by name.
	Clusters []ClusterBackends
}

// ClusterBackends is one cluster's side of a service.
type ClusterBackends struct {
	Cluster string
	// Used says that new connections go to its ready backends; with Terminating,
	// to those that are on their way out, as no cluster has a ready one.
	Used        bool
	Terminating bool
	// Tier is the group's (see service.Group), 0 when there is none.
	Tier uint8
	// Reason says why it is not used; "" when it is.
	Reason string
	// Backends are all that it tells of, those that take no connection too,
	// sorted by address.
	Backends []Backend
}

// Backend is one workload that serves a service.
type Backend struct {
	IP    netip.Addr
	Ports []service.Port
	Node  string
	Pod   string
	// State is "ready", "terminating" or "not ready".
	State string
}

// The states of a Backend.
const (
	StateReady       = "ready"
	StateTerminating = "terminating"
	StateNotReady    = "not ready"
)

// Services returns the services that are global in any cluster, sorted.
func (s *State) Services() []service.Name {
	var names []service.Name
	for name, e := range s.services {
		for _, o := range e.offers {
			if o.service != nil && o.service.Global {
				names = append(names, name)
				break
			}
		}
	}
	slices.SortFunc(names, func(a, b service.Name) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return names
}

// Explain returns what is known of a service, and false when no cluster has it.
func (s *State) Explain(name service.Name) (Explanation, bool) {
	e := s.services[name]
	if e == nil {
		return Explanation{}, false
	}
	x := Explanation{Name: name}
	if own := e.own(s.local); own != nil {
		x.Here, x.Global, x.Affinity, x.Frontends = true, own.Global, own.Affinity, own.Frontends
		x.Rules = own.Rules
	}
	leaving := map[string]bool{}
	for _, cluster := range s.sorted(e) {
		o := e.offers[cluster]
		c := ClusterBackends{Cluster: cluster, Reason: s.refusal(e, cluster, o), Backends: s.backends(cluster, o)}
		if c.Reason == "" {
			c.Reason = unusable(e.view, o, service.BackendReady)
			c.Tier = tierOf(e.view, cluster)
			leaving[cluster] = unusable(e.view, o, service.BackendTerminating) == ""
		}
		x.Clusters = append(x.Clusters, c)
	}
	x.choose(leaving)
	return x, len(x.Clusters) > 0
}

func (e *entry) own(local string) *service.Service {
	if o := e.offers[local]; o != nil {
		return o.service
	}
	return nil
}

// sorted returns the clusters that have the service, not only slices of one.
func (s *State) sorted(e *entry) []string {
	clusters := slices.SortedFunc(maps.Keys(e.offers), func(a, b string) int {
		switch {
		case a == s.local:
			return -1
		case b == s.local:
			return 1
		}
		return cmp.Compare(a, b)
	})
	return slices.DeleteFunc(clusters, func(c string) bool { return e.offers[c].service == nil })
}

// refusal says why a cluster's backends are not for the nodes at all, "" when
// they are.
func (s *State) refusal(e *entry, cluster string, o *offer) string {
	own := e.own(s.local)
	switch {
	case own == nil:
		return "no such service here"
	case !own.Global:
		return "not global here"
	case len(own.Frontends) == 0:
		return "headless: clients ask DNS, there is no address to translate"
	case cluster == s.local:
		return ""
	case !o.service.Global:
		return "not global in " + cluster
	case !o.service.Shared:
		return "not shared by " + cluster
	}
	return ""
}

// unusable says why none of a cluster's backends in a state takes a connection to
// any port of the service, "" when one does.
func unusable(view *service.View, o *offer, state service.BackendState) string {
	ready, family := false, false
	for _, parts := range o.parts {
		for _, part := range parts {
			for _, b := range part.Endpoints {
				if b.State != state {
					continue
				}
				ready = true
				for _, f := range slices.Concat(view.Frontends, view.External) {
					if f.IP.Is4() != b.IP.Is4() {
						continue
					}
					family = true
					if meets(f.Ports, part.Ports) {
						return ""
					}
				}
			}
		}
	}
	switch {
	case !ready:
		return "no ready backend"
	case !family:
		return "no backend of the service's address family"
	}
	return "port names differ"
}

func meets(front, back []service.Port) bool {
	return slices.ContainsFunc(front, func(p service.Port) bool {
		_, ok := service.MatchPort(p, front, back)
		return ok
	})
}

func tierOf(view *service.View, cluster string) uint8 {
	for _, g := range view.Groups {
		if slices.Contains(g.Clusters, cluster) {
			return g.Tier
		}
	}
	return 0
}

// choose marks the clusters of the lowest tier that has a usable backend as
// used; the rest stand by. With no such tier, those that are leaving are used.
func (x *Explanation) choose(leaving map[string]bool) {
	lowest, found := uint8(0), false
	for _, c := range x.Clusters {
		if c.Reason == "" && (!found || c.Tier < lowest) {
			lowest, found = c.Tier, true
		}
	}
	for i := range x.Clusters {
		c := &x.Clusters[i]
		if !found && leaving[c.Cluster] {
			c.Used, c.Terminating, c.Reason = true, true, ""
			continue
		}
		if c.Reason != "" {
			continue
		}
		if c.Used = c.Tier == lowest; !c.Used {
			c.Reason = standby(x.Affinity)
		}
	}
}

func standby(a service.Affinity) string {
	if a == service.AffinityRemote {
		return "affinity remote: remote backends healthy"
	}
	return "affinity local: local backends healthy"
}

// backends lists what a cluster tells of, whether used or not.
func (s *State) backends(cluster string, o *offer) []Backend {
	var out []Backend
	for _, slice := range s.sources(cluster, o) {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if len(e.Addresses) == 0 {
				continue
			}
			out = append(out, Backend{
				IP: e.Addresses[0], Ports: slice.Ports, Node: e.Node, Pod: podOf(e), State: describe(e.Condition),
			})
		}
	}
	slices.SortFunc(out, func(a, b Backend) int {
		return cmp.Or(a.IP.Compare(b.IP), cmp.Compare(a.Pod, b.Pod), slices.CompareFunc(a.Ports, b.Ports, comparePorts))
	})
	return out
}

func comparePorts(a, b service.Port) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
}

func describe(c service.Condition) string {
	switch state, ok := stateOf(c); {
	case !ok:
		return StateNotReady
	case state == service.BackendTerminating:
		return StateTerminating
	}
	return StateReady
}
