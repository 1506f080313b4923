package merge

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// Mirrored returns the remote backends of a service that the own cluster's
// Kubernetes is to be told, and false when it is to be told of none: the service is
// not here, not global, or does not ask for it. With affinity local, ports on which
// the own cluster has a ready backend of a family are left out.
func (s *State) Mirrored(name service.Name) (service.Mirrored, bool) {
	e := s.services[name]
	if e == nil {
		return service.Mirrored{}, false
	}
	own := e.own(s.local)
	if own == nil || !own.Global || own.Mirror == nil {
		return service.Mirrored{}, false
	}
	b := mirrorBuilder{want: own.Mirror, sets: map[mirrorKey]map[netip.Addr]service.Endpoint{}, ports: map[mirrorKey][]service.Port{}, unusable: map[string]map[netip.Addr]bool{}}
	if own.Affinity == service.AffinityLocal {
		b.own = localPorts(own.Mirror, e.offers[s.local])
	}
	for cluster, o := range e.offers {
		if cluster == s.local || !exported(o) {
			continue
		}
		for _, slice := range s.sources(cluster, o) {
			b.add(cluster, slice)
		}
	}
	return service.Mirrored{Name: name, UID: own.UID, Headless: own.Headless, Sets: b.finish(), Unusable: b.refused()}, true
}

// MirrorNames returns the services of which Mirrored has something to say, in no order.
func (s *State) MirrorNames() []service.Name {
	var names []service.Name
	for name, e := range s.services {
		if own := e.own(s.local); own != nil && own.Global && own.Mirror != nil {
			names = append(names, name)
		}
	}
	return names
}

// Unmet is a global service whose ports are called like none of the remote backends'.
type Unmet struct {
	UID      string // the own cluster's Service
	Clusters []string
	// Here and There are the ports, There those of the first of the clusters.
	Here, There []service.Port
}

// Unmet returns a global service of the own cluster of which others share ready
// backends, and false unless no port of any of them meets one of the service by name:
// then nobody is ever sent there, which is hardly what was meant.
func (s *State) Unmet(name service.Name) (Unmet, bool) {
	e := s.services[name]
	if e == nil {
		return Unmet{}, false
	}
	own := e.own(s.local)
	if own == nil || !own.Global {
		return Unmet{}, false
	}
	u := Unmet{UID: own.UID, Here: portsOf(own)}
	if len(u.Here) == 0 {
		return Unmet{}, false
	}
	for _, cluster := range slices.Sorted(maps.Keys(e.offers)) {
		o := e.offers[cluster]
		if cluster == s.local || !exported(o) {
			continue
		}
		for _, slice := range s.sources(cluster, o) {
			if !slices.ContainsFunc(slice.Endpoints, func(e service.Endpoint) bool { return e.Condition.Ready }) {
				continue
			}
			if len(service.MeetPorts(u.Here, slice.Ports)) > 0 {
				return Unmet{}, false
			}
			if !slices.Contains(u.Clusters, cluster) {
				u.Clusters = append(u.Clusters, cluster)
			}
			if u.Clusters[0] == cluster && slices.CompareFunc(slice.Ports, u.There, service.ComparePorts) > 0 {
				u.There = slice.Ports
			}
		}
	}
	return u, len(u.Clusters) > 0
}

func portsOf(s *service.Service) []service.Port {
	switch {
	case len(s.Frontends) > 0:
		return s.Frontends[0].Ports
	case s.Mirror != nil:
		return s.Mirror.Ports
	}
	return nil
}

// mirrorKey is what the endpoints of a set have in common.
type mirrorKey struct {
	cluster string
	ipv6    bool
	ports   string
}

// localKey is a port in a family.
type localKey struct {
	ipv6     bool
	name     string
	protocol service.Protocol
}

// localPorts returns where the own cluster has a ready backend; a service without
// ports has one at the zero port.
func localPorts(want *service.Mirror, o *offer) map[localKey]bool {
	have := map[localKey]bool{}
	for _, slice := range o.slices {
		ports := met(want, slice)
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if !e.Condition.Ready || len(e.Addresses) == 0 {
				continue
			}
			for _, p := range ports {
				have[localKey{e.Addresses[0].Is6(), p.Name, p.Protocol}] = true
			}
		}
	}
	return have
}

// met returns the ports of a slice that the service has; the zero port for a service
// that has none.
func met(want *service.Mirror, slice *service.Slice) []service.Port {
	if len(want.Ports) == 0 {
		return []service.Port{{}}
	}
	return service.MeetPorts(want.Ports, slice.Ports)
}

// mirrorBuilder collects endpoints into sets.
type mirrorBuilder struct {
	want  *service.Mirror
	own   map[localKey]bool // ports that need no remote backend
	sets  map[mirrorKey]map[netip.Addr]service.Endpoint
	ports map[mirrorKey][]service.Port
	// unusable are by cluster, each once.
	unusable map[string]map[netip.Addr]bool
}

func (b *mirrorBuilder) add(cluster string, slice *service.Slice) {
	all := met(b.want, slice)
	for _, ipv6 := range []bool{false, true} {
		if ipv6 && !b.want.IPv6 || !ipv6 && !b.want.IPv4 {
			continue
		}
		var ports []service.Port
		for _, p := range all {
			if !b.own[localKey{ipv6, p.Name, p.Protocol}] {
				ports = append(ports, p)
			}
		}
		if len(ports) == 0 {
			continue
		}
		if len(b.want.Ports) == 0 {
			ports = nil
		}
		key := mirrorKey{cluster, ipv6, service.PortsKey(ports)}
		for i := range slice.Endpoints {
			b.endpoint(key, ports, &slice.Endpoints[i])
		}
	}
}

// endpoint adds one of the key's family. Of two with one address, which a change may
// leave for a moment, the one that is ready counts. An address that Kubernetes takes
// in no object is left out, whatever a peer says.
func (b *mirrorBuilder) endpoint(key mirrorKey, ports []service.Port, e *service.Endpoint) {
	if len(e.Addresses) == 0 || e.Addresses[0].Is6() != key.ipv6 {
		return
	}
	if !service.Mirrorable(e.Addresses[0]) {
		if b.unusable[key.cluster] == nil {
			b.unusable[key.cluster] = map[netip.Addr]bool{}
		}
		b.unusable[key.cluster][e.Addresses[0]] = true
		return
	}
	if b.sets[key] == nil {
		b.sets[key], b.ports[key] = map[netip.Addr]service.Endpoint{}, ports
	}
	ip := e.Addresses[0]
	made := service.Endpoint{Addresses: e.Addresses[:1:1], Condition: e.Condition, Hostname: e.Hostname}
	if have, twice := b.sets[key][ip]; twice && !better(made, have) {
		return
	}
	b.sets[key][ip] = made
}

// better orders endpoints of one address, so that the outcome hangs on no order.
func better(a, b service.Endpoint) bool {
	rank := func(e service.Endpoint) int {
		switch {
		case e.Condition.Ready:
			return 0
		case e.Condition.Serving:
			return 1
		}
		return 2
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Hostname, b.Hostname)) < 0
}

func (b *mirrorBuilder) finish() []service.MirrorSet {
	keys := slices.SortedFunc(maps.Keys(b.sets), func(x, y mirrorKey) int {
		family := 0
		if x.ipv6 != y.ipv6 {
			family = -1
			if x.ipv6 {
				family = 1
			}
		}
		return cmp.Or(cmp.Compare(x.cluster, y.cluster), family, cmp.Compare(x.ports, y.ports))
	})
	var sets []service.MirrorSet
	for _, key := range keys {
		set := service.MirrorSet{Cluster: key.cluster, IPv6: key.ipv6, Ports: b.ports[key]}
		for _, ip := range slices.SortedFunc(maps.Keys(b.sets[key]), netip.Addr.Compare) {
			set.Endpoints = append(set.Endpoints, b.sets[key][ip])
		}
		sets = append(sets, set)
	}
	return sets
}

func (b *mirrorBuilder) refused() []service.Unusable {
	var out []service.Unusable
	for _, cluster := range slices.Sorted(maps.Keys(b.unusable)) {
		all := b.unusable[cluster]
		out = append(out, service.Unusable{Cluster: cluster, Count: len(all), First: slices.MinFunc(slices.Collect(maps.Keys(all)), netip.Addr.Compare)})
	}
	return out
}
