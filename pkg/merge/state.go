// Package merge computes, from what the own and the remote clusters say, what
// the nodes of the own cluster need: a View of each global service and the
// backends behind it, and who is behind each address. It is pure: the result
// depends on the last value of each key alone, not on the order in which kinds
// and clusters spoke, but for an address that more than one of the others claims:
// the first has it.
package merge

import (
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// State is the merged state of a mesh as one cluster sees it. The cost of a
// change is that of what changed: the slice, and for a Service its View. State
// is not safe for concurrent use; Engine is.
type State struct {
	local    string
	clusters map[string]*member
	services map[service.Name]*entry
	// identities and addresses mean one thing in the whole mesh.
	identities *holdings[identity.Number, identity.Identity]
	addresses  *holdings[netip.Prefix, endpoint.Owner]
	means      meanings
	rulings    []Ruling
	touched    []service.Name
	routing    *routing // nil while nobody asks for it
}

// member is what one cluster has said, by key; the values of identities and
// addresses are in the State's holdings.
type member struct {
	nodes      map[string]*node.Node
	addresses  map[netip.Prefix]struct{}
	identities map[identity.Number]struct{}
	services   map[service.Name]struct{}
	// slices holds the service that each slice belongs to: a slice that is
	// deleted or changes hands no longer says where it was.
	slices map[SliceName]service.Name
}

// Counts is how much of each kind a cluster has.
type Counts struct {
	Nodes      int
	Addresses  int
	Identities int
	Services   int
	Slices     int
}

// New returns an empty state for the cluster of that name.
func New(local string) *State {
	s := &State{
		local:      local,
		clusters:   map[string]*member{},
		services:   map[service.Name]*entry{},
		identities: newHoldings[identity.Number](local, func(a, b identity.Identity) bool { return a == b }),
		addresses:  newHoldings[netip.Prefix](local, func(a, b endpoint.Owner) bool { return a == b }),
		means:      newMeanings(),
	}
	s.addresses.ruled = func(prefix netip.Prefix, cluster, holder string) {
		s.rulings = append(s.rulings, Ruling{Cluster: cluster, Prefix: prefix, Holder: holder})
	}
	return s
}

// Route makes the state say how the own cluster's nodes reach the others. It is
// called before the first Apply, or not at all.
func (s *State) Route(r Routing) { s.routing = newRouting(s.local, r) }

// Local returns the name of the cluster that the state is computed for.
func (s *State) Local() string { return s.local }

// Apply takes a change of one cluster's state and returns what it changes for
// the nodes; nothing that stays equal is in it. A key of the Update wins over
// the value's own cluster and name.
func (s *State) Apply(cluster string, u Update) Delta {
	m := s.member(cluster)
	s.rulings = nil
	var old []*node.Node
	if s.routing != nil {
		old = before(m, u.Nodes)
	}
	delta := Delta{Nodes: changeNodes(cluster, m.nodes, u.Nodes)}
	s.applyWho(cluster, m, u, &delta)
	if s.routing != nil {
		s.routing.apply(cluster, m, old, u, &delta)
	}

	touched := touches{}
	s.touched = nil
	for name, svc := range u.Services {
		s.setService(m, cluster, name, svc, touched)
	}
	for name, slice := range u.Slices {
		s.setSlice(m, cluster, name, slice, touched)
	}
	for name, t := range touched {
		s.refresh(cluster, name, t, &delta.Services)
		s.touched = append(s.touched, name)
	}
	if m.empty() {
		delete(s.clusters, cluster)
	}
	return delta
}

// Rulings returns whose claims to addresses the last Apply or Remove decided
// otherwise than before.
func (s *State) Rulings() []Ruling { return s.rulings }

// Touched returns the services of which the last Apply or Remove changed something,
// in no order.
func (s *State) Touched() []service.Name { return s.touched }

// Remove forgets a cluster and returns what that changes for the nodes. It is
// the same as deleting every key of it.
func (s *State) Remove(cluster string) Delta {
	delta, _ := s.removeSome(cluster, math.MaxInt)
	return delta
}

// removeSome forgets as many keys of a cluster at most, in an order in which
// nothing refers to what is gone, and reports whether there are more.
func (s *State) removeSome(cluster string, most int) (delta Delta, more bool) {
	m := s.clusters[cluster]
	if m == nil {
		s.rulings, s.touched = nil, nil
		return Delta{}, false
	}
	var u Update
	u.Services = some[*service.Service](m.services, &most)
	u.Slices = some[*service.Slice](m.slices, &most)
	u.Addresses = some[*endpoint.Address](m.addresses, &most)
	u.Nodes = some[*node.Node](m.nodes, &most)
	u.Identities = some[*identity.Identity](m.identities, &most)
	delta = s.Apply(cluster, u)
	return delta, s.clusters[cluster] != nil
}

// some returns the changes that delete keys of known, and takes them off most.
func some[V any, K comparable, W any](known map[K]W, most *int) map[K]V {
	var none V
	out := make(map[K]V, min(len(known), *most))
	for key := range known {
		if *most == 0 {
			break
		}
		*most--
		out[key] = none
	}
	return out
}

// Counts returns how much each cluster has; one that has nothing is not in it.
func (s *State) Counts() map[string]Counts {
	counts := make(map[string]Counts, len(s.clusters))
	for name, m := range s.clusters {
		counts[name] = Counts{
			Nodes:      len(m.nodes),
			Addresses:  len(m.addresses),
			Identities: len(m.identities),
			Services:   len(m.services),
			Slices:     len(m.slices),
		}
	}
	return counts
}

// Nodes returns the names of a cluster's nodes, sorted.
func (s *State) Nodes(cluster string) []string {
	m := s.clusters[cluster]
	if m == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(m.nodes))
}

func (s *State) member(cluster string) *member {
	m := s.clusters[cluster]
	if m == nil {
		m = &member{
			nodes:      map[string]*node.Node{},
			addresses:  map[netip.Prefix]struct{}{},
			identities: map[identity.Number]struct{}{},
			services:   map[service.Name]struct{}{},
			slices:     map[SliceName]service.Name{},
		}
		s.clusters[cluster] = m
	}
	return m
}

func (m *member) empty() bool {
	return len(m.nodes)+len(m.addresses)+len(m.identities)+len(m.services)+len(m.slices) == 0
}

func (s *State) setService(m *member, cluster string, name service.Name, svc *service.Service, touched touches) {
	if svc == nil {
		if _, known := m.services[name]; !known {
			return
		}
		delete(m.services, name)
	} else {
		m.services[name] = struct{}{}
	}
	o := s.offer(name, cluster)
	o.service = svc
	touched.at(name).service = true
	if len(o.slices) == 0 {
		touched.at(name).source = true // its own list is what counts
	}
}

func (s *State) setSlice(m *member, cluster string, name SliceName, slice *service.Slice, touched touches) {
	owner, known := m.slices[name]
	if known && (slice == nil || owner != ownerOf(name, slice)) {
		delete(m.slices, name)
		s.dropSlice(owner, cluster, name.Name, touched)
	}
	if slice == nil {
		return
	}
	owner = ownerOf(name, slice)
	m.slices[name] = owner
	if owner.Name == "" {
		return // belongs to no service: counted, nothing more
	}
	o := s.offer(owner, cluster)
	if len(o.slices) == 0 {
		touched.at(owner).source = true // from here on slices count, not the service's own list
	}
	o.slices[name.Name] = slice
	touched.at(owner).slices[name.Name] = struct{}{}
}

func (s *State) dropSlice(owner service.Name, cluster, slice string, touched touches) {
	if owner.Name == "" {
		return
	}
	o := s.offer(owner, cluster)
	delete(o.slices, slice)
	touched.at(owner).slices[slice] = struct{}{}
	if len(o.slices) == 0 {
		touched.at(owner).source = true
	}
}

func ownerOf(name SliceName, slice *service.Slice) service.Name {
	return service.Name{Namespace: name.Namespace, Name: slice.Service}
}

// touches collects what of which services an Update changed.
type touches map[service.Name]*touch

type touch struct {
	// service says that the service value is another.
	service bool
	// source says that all backends are to be looked at: where they come from
	// may have changed between slices and service value, or the value is it.
	source bool
	slices map[string]struct{}
}

func (t touches) at(name service.Name) *touch {
	if t[name] == nil {
		t[name] = &touch{slices: map[string]struct{}{}}
	}
	return t[name]
}
