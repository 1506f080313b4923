package merge

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// model is the rules again, written to be read: it keeps the last value of
// each key and computes everything anew.
type model struct {
	local    string
	services map[string]map[service.Name]*service.Service
	slices   map[string]map[SliceName]*service.Slice

	nodes      map[string]map[string]*node.Node
	identities map[string]map[identity.Number]*identity.Identity
	addresses  map[string]map[netip.Prefix]*endpoint.Address
	// Who claims what, in the order in which they did.
	numbers  map[identity.Number][]string
	prefixes map[netip.Prefix][]string
}

func newModel(local string) *model {
	return &model{
		local:    local,
		services: map[string]map[service.Name]*service.Service{},
		slices:   map[string]map[SliceName]*service.Slice{},

		nodes:      map[string]map[string]*node.Node{},
		identities: map[string]map[identity.Number]*identity.Identity{},
		addresses:  map[string]map[netip.Prefix]*endpoint.Address{},
		numbers:    map[identity.Number][]string{},
		prefixes:   map[netip.Prefix][]string{},
	}
}

func (m *model) apply(cluster string, u Update) {
	if m.services[cluster] == nil {
		m.services[cluster] = map[service.Name]*service.Service{}
		m.slices[cluster] = map[SliceName]*service.Slice{}
		m.nodes[cluster] = map[string]*node.Node{}
		m.identities[cluster] = map[identity.Number]*identity.Identity{}
		m.addresses[cluster] = map[netip.Prefix]*endpoint.Address{}
	}
	keep(m.services[cluster], u.Services)
	keep(m.slices[cluster], u.Slices)
	keep(m.nodes[cluster], u.Nodes)
	keep(m.identities[cluster], u.Identities)
	keep(m.addresses[cluster], u.Addresses)
	queue(m.numbers, cluster, u.Identities)
	queue(m.prefixes, cluster, u.Addresses)
}

func queue[K comparable, V any](claims map[K][]string, cluster string, changes map[K]*V) {
	for key, value := range changes {
		has := slices.Contains(claims[key], cluster)
		if value != nil && !has {
			claims[key] = append(claims[key], cluster)
		}
		if value == nil {
			claims[key] = slices.DeleteFunc(claims[key], func(c string) bool { return c == cluster })
		}
	}
}

// winner is the own cluster, else the first; "" when nobody claims.
func (m *model) winner(claims []string) string {
	switch {
	case slices.Contains(claims, m.local):
		return m.local
	case len(claims) > 0:
		return claims[0]
	}
	return ""
}

func (m *model) remove(cluster string) {
	gone := func(c string) bool { return c == cluster }
	for key, claims := range m.numbers {
		m.numbers[key] = slices.DeleteFunc(claims, gone)
	}
	for key, claims := range m.prefixes {
		m.prefixes[key] = slices.DeleteFunc(claims, gone)
	}
	delete(m.services, cluster)
	delete(m.slices, cluster)
	delete(m.nodes, cluster)
	delete(m.identities, cluster)
	delete(m.addresses, cluster)
}

func keep[K comparable, V any](have, changes map[K]*V) {
	maps.Copy(have, changes)
	maps.DeleteFunc(have, func(_ K, v *V) bool { return v == nil })
}

func (m *model) delta() Delta {
	d := Delta{
		Services: m.views(), Nodes: map[node.Key]*node.Node{},
		Identities: map[identity.Number]*identity.Identity{}, Addresses: map[netip.Prefix]*endpoint.Owner{},
	}
	for cluster, known := range m.nodes {
		for name, n := range known {
			d.Nodes[node.Key{Cluster: cluster, Name: name}] = &node.Node{Cluster: cluster, Name: name, Addresses: n.Addresses}
		}
	}
	for number, claims := range m.numbers {
		if c := m.winner(claims); c != "" {
			d.Identities[number] = &identity.Identity{Number: number, Labels: m.identities[c][number].Labels}
		}
	}
	for prefix, claims := range m.prefixes {
		if c := m.winner(claims); c != "" {
			a := m.addresses[c][prefix]
			d.Addresses[prefix] = &endpoint.Owner{Cluster: c, Identity: a.Identity, Pod: a.Pod}
		}
	}
	return d
}

// check compares what the nodes have with what the model says. Who is behind an
// address may lag where what was said does not fit together: an address whose
// identity is not there is what it was, or nothing, and an identity that went
// stays while an address has it.
func (m *model) check(t *testing.T, n *nodes) {
	t.Helper()
	want, got := m.delta(), n.delta()
	known := func(i identity.Number) bool { return i < identity.MinLocal || got.Identities[i] != nil }
	users := map[identity.Number]bool{}
	for prefix, owner := range got.Addresses {
		users[owner.Identity] = true
		if !known(owner.Identity) {
			t.Errorf("the nodes have %s with identity %d, which they do not know", prefix, owner.Identity)
		}
		w := want.Addresses[prefix]
		if w != nil && *w != *owner && !known(w.Identity) && w.Cluster == owner.Cluster {
			want.Addresses[prefix] = owner
		}
	}
	for prefix, owner := range want.Addresses {
		if got.Addresses[prefix] == nil && !known(owner.Identity) {
			delete(want.Addresses, prefix)
		}
	}
	for number, i := range got.Identities {
		if want.Identities[number] == nil && users[number] {
			want.Identities[number] = i
		}
	}
	if diff := cmp.Diff(want, got, byAddr, byPrefix); diff != "" {
		t.Fatalf("(-model +nodes):\n%s", diff)
	}
}

func (m *model) views() service.Delta {
	d := service.Delta{Views: map[service.Name]*service.View{}, Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
	for name, own := range m.services[m.local] {
		if !own.Global || len(own.Frontends) == 0 {
			continue
		}
		remote := []string{}
		for cluster, known := range m.services {
			if s := known[name]; cluster != m.local && s != nil && s.Global && s.Shared {
				remote = append(remote, cluster)
			}
		}
		slices.Sort(remote)
		d.Views[name] = &service.View{Name: name, Frontends: own.Frontends, Groups: m.groups(own.Affinity, remote)}
		for _, cluster := range append(remote, m.local) {
			m.backends(cluster, name, d.Slices)
		}
	}
	return d
}

func (m *model) groups(a service.Affinity, remote []string) []service.Group {
	all := append([]string{m.local}, remote...)
	slices.Sort(all)
	switch {
	case a == service.AffinityNone || len(remote) == 0:
		return []service.Group{{Clusters: all}}
	case a == service.AffinityLocal:
		return []service.Group{{Clusters: []string{m.local}}, {Clusters: remote, Tier: 1}}
	default:
		return []service.Group{{Clusters: remote}, {Clusters: []string{m.local}, Tier: 1}}
	}
}

func (m *model) backends(cluster string, name service.Name, out map[service.BackendSliceKey]*service.BackendSlice) {
	found := false
	for key, sl := range m.slices[cluster] {
		if key.Namespace != name.Namespace || sl.Service != name.Name {
			continue
		}
		found = true
		for i, e := range sl.Endpoints {
			b := service.BackendEndpoint{IP: e.Addresses[0], Node: e.Node, Pod: e.TargetName}
			if !e.Condition.Ready {
				b.State = service.BackendTerminating
			}
			if e.Condition.Ready || e.Condition.Serving && e.Condition.Terminating {
				addTo(out, service.BackendSliceKey{Service: name, Cluster: cluster, Slice: key.Name, Part: i / 100}, sl.Ports, b)
			}
		}
	}
	if found || cluster == m.local {
		return
	}
	counts := map[string]int{}
	for _, b := range m.services[cluster][name].Backends {
		set := portSet(b.Ports)
		addTo(out, service.BackendSliceKey{Service: name, Cluster: cluster, Slice: set, Part: counts[set] / 100}, b.Ports,
			service.BackendEndpoint{IP: b.IP})
		counts[set]++
	}
}

func addTo(out map[service.BackendSliceKey]*service.BackendSlice, key service.BackendSliceKey, ports []service.Port, b service.BackendEndpoint) {
	if out[key] == nil {
		out[key] = &service.BackendSlice{BackendSliceKey: key, Ports: ports}
	}
	out[key].Endpoints = append(out[key].Endpoints, b)
}

// world draws changes from a small world, so that they meet.
type world struct{ *rand.Rand }

func (w world) cluster() string {
	return []string{"east", "west", "wes", "north"}[w.IntN(4)] // one is another's prefix
}

func (w world) name() service.Name {
	return service.Name{Namespace: []string{"shop", "shop2"}[w.IntN(2)], Name: []string{"web", "api"}[w.IntN(2)]}
}

func (w world) ports() []service.Port {
	return [][]service.Port{{http}, {http8080}, {{Protocol: service.TCP, Port: 80}}, {http, {Name: "m", Protocol: service.UDP, Port: 9}}}[w.IntN(4)]
}

func (w world) service(name service.Name) *service.Service {
	s := &service.Service{
		Name:     name,
		Global:   w.IntN(4) > 0,
		Shared:   w.IntN(3) > 0,
		Affinity: []service.Affinity{service.AffinityNone, service.AffinityLocal, service.AffinityRemote}[w.IntN(3)],
	}
	for i := range w.IntN(3) {
		s.Frontends = append(s.Frontends, service.Frontend{IP: netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), Ports: w.ports()})
	}
	for range w.IntN(3) * w.IntN(90) {
		s.Backends = append(s.Backends, service.Backend{IP: w.ip(), Ports: w.ports()})
	}
	return s
}

func (w world) ip() netip.Addr {
	if w.IntN(3) == 0 {
		return netip.MustParseAddr(fmt.Sprintf("fd00::%x", 1+w.IntN(200)))
	}
	return netip.AddrFrom4([4]byte{10, 0, 0, byte(w.IntN(200))})
}

func (w world) slice(name SliceName) *service.Slice {
	s := &service.Slice{Namespace: name.Namespace, Service: []string{"web", "api", ""}[w.IntN(3)], Ports: w.ports()}
	n := w.IntN(4)
	if w.IntN(6) == 0 {
		n = 95 + w.IntN(120)
	}
	for range n {
		c := service.Condition{Ready: w.IntN(3) > 0, Serving: w.IntN(2) > 0, Terminating: w.IntN(2) > 0}
		e := pod(w.ip().String(), c)
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func (w world) update() Update {
	u := Update{Services: map[service.Name]*service.Service{}, Slices: map[SliceName]*service.Slice{}}
	for range w.IntN(3) {
		name := w.name()
		u.Services[name] = nil
		if w.IntN(4) > 0 {
			u.Services[name] = w.service(name)
		}
	}
	for range w.IntN(4) {
		name := SliceName{Namespace: w.name().Namespace, Name: fmt.Sprint("s-", w.IntN(4))}
		u.Slices[name] = nil
		if w.IntN(3) > 0 {
			u.Slices[name] = w.slice(name)
		}
	}
	w.who(&u)
	return u
}

// who adds changes of who is who, some of them of what others claim too.
func (w world) who(u *Update) {
	u.Nodes, u.Identities, u.Addresses = map[string]*node.Node{}, map[identity.Number]*identity.Identity{}, map[netip.Prefix]*endpoint.Address{}
	for range w.IntN(3) {
		name, number, prefix := fmt.Sprint("n", w.IntN(3)), identity.Number(70000+w.IntN(3)), netip.PrefixFrom(w.ip(), 32-w.IntN(2))
		if w.IntN(2) == 0 {
			prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(w.IntN(3))}), 32)
		}
		u.Nodes[name], u.Identities[number], u.Addresses[prefix] = nil, nil, nil
		if w.IntN(3) > 0 {
			u.Nodes[name] = &node.Node{Addresses: []node.Address{{IP: w.ip()}}, Labels: map[string]string{"x": fmt.Sprint(w.IntN(2))}}
			u.Identities[number] = &identity.Identity{Labels: identity.Labels(fmt.Sprintf("k8s:a=%d;", w.IntN(2)))}
			u.Addresses[prefix] = &endpoint.Address{Identity: []identity.Number{0, 1, number, 70000, 70001}[w.IntN(5)], Pod: fmt.Sprint(w.IntN(2)), ServiceAccount: fmt.Sprint(w.IntN(2))}
		}
	}
}

// The nodes have at each moment what the model says, by deltas that hold
// nothing that is no change; repeating, reordering and removing are harmless.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := world{rand.New(rand.NewPCG(seed, 1))}
			s, n, m := New("east"), newNodes(t), newModel("east")
			for step := range 60 {
				cluster, u := w.cluster(), w.update()
				if w.IntN(15) == 0 {
					m.remove(cluster)
					n.Apply(s.Remove(cluster))
				} else {
					m.apply(cluster, u)
					n.Apply(s.Apply(cluster, u))
					if again := s.Apply(cluster, u); !again.Empty() {
						t.Fatalf("step %d: the same update again changed something: %+v", step, again)
					}
				}
				m.check(t, n)
			}
			w.checkOrder(t, m)
			for cluster := range m.services {
				n.Apply(s.Remove(cluster))
			}
			if len(n.views)+len(n.slices)+len(n.nodes)+len(n.identities)+len(n.addresses)+
				len(s.clusters)+len(s.services)+len(s.identities.held)+len(s.addresses.held)+len(s.identities.others)+len(s.addresses.others)+
				len(s.means.users)+len(s.means.kept)+len(s.means.pending)+len(s.means.waiting)+len(s.means.loose) != 0 {
				t.Errorf("something is left when all clusters are removed: %+v %+v", n.delta(), s)
			}
		})
	}
}

// checkOrder gives the model's last values to a new state one by one in a
// random order.
func (w world) checkOrder(t *testing.T, m *model) {
	t.Helper()
	type single struct {
		cluster string
		u       Update
	}
	var singles []single
	for cluster, known := range m.services {
		for name, s := range known {
			singles = append(singles, single{cluster, Update{Services: map[service.Name]*service.Service{name: s}}})
		}
		for name, s := range m.slices[cluster] {
			singles = append(singles, single{cluster, Update{Slices: map[SliceName]*service.Slice{name: s}}})
		}
		for name, n := range m.nodes[cluster] {
			singles = append(singles, single{cluster, Update{Nodes: map[string]*node.Node{name: n}}})
		}
		for number, i := range m.identities[cluster] {
			singles = append(singles, single{cluster, Update{Identities: map[identity.Number]*identity.Identity{number: i}}})
		}
		for prefix, a := range m.addresses[cluster] {
			singles = append(singles, single{cluster, Update{Addresses: map[netip.Prefix]*endpoint.Address{prefix: a}}})
		}
	}
	w.Shuffle(len(singles), func(i, j int) { singles[i], singles[j] = singles[j], singles[i] })
	s, n, again := New("east"), newNodes(t), newModel("east")
	for _, one := range singles {
		n.Apply(s.Apply(one.cluster, one.u))
		again.apply(one.cluster, one.u) // who came first counts
	}
	again.check(t, n)
	if diff := cmp.Diff(m.delta().Services, n.delta().Services, byAddr); diff != "" {
		t.Errorf("in another order (-model +nodes):\n%s", diff)
	}
}
