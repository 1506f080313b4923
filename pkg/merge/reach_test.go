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
	"github.com/causeway-mesh/causeway/pkg/route"
)

func routed(local string, reserved ...string) *State {
	s := New(local)
	r := Routing{Way: func(string) (route.Mode, route.Search) { return route.VXLAN, route.NoSearch }}
	for _, text := range reserved {
		r.Reserved = append(r.Reserved, netip.MustParsePrefix(text))
	}
	s.Route(r)
	return s
}

// machine returns a node with ranges, of which one that begins with "mesh " or
// "host " is an address of its own.
func machine(texts ...string) *node.Node {
	n := &node.Node{ClusterID: 7}
	for _, text := range texts {
		var mesh, host string
		if c, _ := fmt.Sscanf(text, "mesh %s", &mesh); c == 1 {
			n.Addresses = append(n.Addresses, node.Address{Type: node.CiliumInternalIP, IP: netip.MustParseAddr(mesh)})
		} else if c, _ := fmt.Sscanf(text, "host %s", &host); c == 1 {
			n.Addresses = append(n.Addresses, node.Address{Type: node.InternalIP, IP: netip.MustParseAddr(host)})
		} else {
			n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(text))
		}
	}
	return n
}

// reachWorld keeps what the nodes have, by all deltas.
type reachWorld struct {
	t      *testing.T
	state  *State
	ranges map[netip.Prefix]string
	peers  map[string]route.Peer
}

func newReachWorld(t *testing.T, s *State) *reachWorld {
	return &reachWorld{t: t, state: s, ranges: map[netip.Prefix]string{}, peers: map[string]route.Peer{}}
}

func (w *reachWorld) take(d Delta) {
	w.t.Helper()
	for p, r := range d.Ranges {
		if r == nil {
			if w.ranges[p] == "" {
				w.t.Errorf("%s was nobody's and is taken away", p)
			}
			delete(w.ranges, p)
			continue
		}
		if r.Prefix != p || w.ranges[p] == r.Cluster {
			w.t.Errorf("%s: told %+v, had %q", p, r, w.ranges[p])
		}
		w.ranges[p] = r.Cluster
	}
	for name, p := range d.Peers {
		if p == nil {
			delete(w.peers, name)
			continue
		}
		w.peers[name] = *p
	}
}

func (w *reachWorld) nodes(cluster string, nodes map[string]*node.Node) {
	w.t.Helper()
	w.take(w.state.Apply(cluster, Update{Nodes: nodes}))
}

func (w *reachWorld) want(want map[string]string) {
	w.t.Helper()
	got := map[string]string{}
	for p, c := range w.ranges {
		got[p.String()] = c
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Error(diff)
	}
}

func TestReachOverlaps(t *testing.T) {
	w := newReachWorld(t, routed("east", "10.200.0.0/16"))
	w.nodes("east", map[string]*node.Node{"e1": machine("10.1.0.0/24", "host 192.0.2.1")})
	w.nodes("west", map[string]*node.Node{"w1": machine("10.2.0.0/24", "10.2.7.0/24"), "w2": machine("10.1.0.0/16"), "w3": machine("192.0.2.0/24"), "w4": machine("10.200.1.0/24", "0.0.0.0/1")})
	w.nodes("north", map[string]*node.Node{"n1": machine("10.2.0.0/16"), "n2": machine("10.2.7.128/25", "10.3.0.0/24")})
	first := map[string]string{"10.1.0.0/24": "east", "10.2.0.0/24": "west", "10.2.7.0/24": "west", "10.3.0.0/24": "north"}
	w.want(first)
	if want := (map[string]route.Peer{
		"west": {Cluster: "west", ID: 7, Mode: route.VXLAN}, "north": {Cluster: "north", ID: 7, Mode: route.VXLAN},
	}); !maps.Equal(w.peers, want) {
		t.Errorf("peers %v, want %v", w.peers, want)
	}
	reasons := map[string]string{}
	for _, r := range w.state.Reaches() {
		for _, refused := range r.Refused {
			reasons[r.Cluster+" "+refused.Prefix.String()] = refused.Reason
		}
	}
	if diff := cmp.Diff(map[string]string{
		"west 0.0.0.0/1":      "is prefix 0.0.0.0/1: shorter than /8 (IPv4) or /16 (IPv6): not a range for pods",
		"west 10.1.0.0/16":    "overlaps 10.1.0.0/24, where this cluster has pods",
		"west 192.0.2.0/24":   "overlaps 192.0.2.1/32, which this cluster keeps for nodes and services",
		"west 10.200.1.0/24":  "overlaps 10.200.0.0/16, which this cluster keeps for nodes and services",
		"north 10.2.0.0/16":   "overlaps 10.2.0.0/24, which cluster west had first",
		"north 10.2.7.128/25": "overlaps 10.2.7.0/24, which cluster west had first",
	}, reasons); diff != "" {
		t.Error(diff)
	}

	// Only when all that keeps it out has gone, a claim counts.
	w.nodes("west", map[string]*node.Node{"w1": machine("10.2.0.0/24")})
	w.want(map[string]string{"10.1.0.0/24": "east", "10.2.0.0/24": "west", "10.2.7.128/25": "north", "10.3.0.0/24": "north"})
	w.nodes("west", map[string]*node.Node{"w1": nil})
	w.want(map[string]string{"10.1.0.0/24": "east", "10.2.0.0/16": "north", "10.2.7.128/25": "north", "10.3.0.0/24": "north"})

	// What becomes ours is ours at once; what it was goes back when it is not.
	w.nodes("east", map[string]*node.Node{"e2": machine("10.2.9.0/24")})
	w.want(map[string]string{"10.1.0.0/24": "east", "10.2.9.0/24": "east", "10.2.7.128/25": "north", "10.3.0.0/24": "north"})
	w.nodes("east", map[string]*node.Node{"e1": nil, "e2": nil})
	w.want(map[string]string{"10.1.0.0/16": "west", "192.0.2.0/24": "west", "10.2.0.0/16": "north", "10.2.7.128/25": "north", "10.3.0.0/24": "north"})
	w.take(w.state.Remove("west"))
	w.take(w.state.Remove("north"))
	w.want(map[string]string{})
	if len(w.peers) != 0 {
		t.Errorf("peers %v", w.peers)
	}
}

// TestReachOutside: addresses of pods and nodes outside of their cluster's ranges are
// claimed one by one, and only those.
func TestReachOutside(t *testing.T) {
	w := newReachWorld(t, routed("east"))
	pods := func(texts ...string) map[netip.Prefix]*endpoint.Address {
		out := map[netip.Prefix]*endpoint.Address{}
		for _, text := range texts {
			out[netip.MustParsePrefix(text)] = &endpoint.Address{Identity: identity.Unmanaged}
		}
		return out
	}
	w.take(w.state.Apply("west", Update{
		Nodes:     map[string]*node.Node{"w1": machine("10.2.0.0/24", "mesh 10.200.0.1"), "w2": machine("10.2.1.0/24", "mesh 10.2.1.1")},
		Addresses: pods("10.2.0.5/32", "10.2.1.5/32", "10.9.0.5/32", "fd00::5/128", "10.10.0.0/16"),
	}))
	w.want(map[string]string{"10.2.0.0/24": "west", "10.2.1.0/24": "west", "10.200.0.1/32": "west", "10.9.0.5/32": "west", "fd00::5/128": "west"})
	w.nodes("west", map[string]*node.Node{"w2": nil, "w1": machine("10.2.0.0/24", "10.9.0.0/24", "mesh 10.200.0.1")})
	w.want(map[string]string{"10.2.0.0/24": "west", "10.9.0.0/24": "west", "10.200.0.1/32": "west", "10.2.1.5/32": "west", "fd00::5/128": "west"})
	w.take(w.state.Apply("west", Update{Addresses: map[netip.Prefix]*endpoint.Address{netip.MustParsePrefix("fd00::5/128"): nil}}))
	w.want(map[string]string{"10.2.0.0/24": "west", "10.9.0.0/24": "west", "10.200.0.1/32": "west", "10.2.1.5/32": "west"})
}

// TestNoReach: without Route the nodes are told nothing.
func TestNoReach(t *testing.T) {
	s := New("east")
	if d := s.Apply("west", Update{Nodes: map[string]*node.Node{"w1": machine("10.2.0.0/24")}}); len(d.Ranges)+len(d.Peers) != 0 {
		t.Errorf("%v", d)
	}
	if got := s.Reaches(); got != nil {
		t.Errorf("%v", got)
	}
}

// reachModel is the rules again, written to be read.
type reachModel struct {
	nodes     map[string]map[string]*node.Node
	addresses map[string]map[netip.Prefix]bool
	claims    []*rangeClaim // in the order in which they came
}

// wanted returns what a cluster claims.
func (m *reachModel) wanted(cluster string) map[netip.Prefix]bool {
	out := map[netip.Prefix]bool{}
	var singles []netip.Prefix
	for _, n := range m.nodes[cluster] {
		for _, p := range n.PodCIDRs {
			out[p] = true
		}
		for _, a := range n.Addresses {
			if cluster != "east" && a.Type == node.CiliumInternalIP {
				singles = append(singles, netip.PrefixFrom(a.IP, 32))
			}
		}
	}
	singles = append(singles, slices.Collect(maps.Keys(m.addresses[cluster]))...)
	ranges := maps.Clone(out)
	for _, p := range singles {
		covered := false
		for r := range ranges {
			covered = covered || r.Overlaps(p)
		}
		if !covered {
			out[p] = true
		}
	}
	return out
}

// reserved returns the addresses of the own nodes.
func (m *reachModel) reserved() map[netip.Prefix]bool {
	out := map[netip.Prefix]bool{}
	for _, n := range m.nodes["east"] {
		for _, a := range n.Addresses {
			out[netip.PrefixFrom(a.IP, 32)] = true
		}
	}
	return out
}

func (m *reachModel) step(cluster string) {
	m.bring(cluster, m.wanted(cluster))
	if cluster == "east" {
		m.bring(reserved, m.reserved())
	}
	for _, c := range m.claims {
		if !c.held && len(m.rivals(c)) == 0 {
			c.held = true
		}
	}
}

func (m *reachModel) bring(cluster string, wanted map[netip.Prefix]bool) {
	for p := range wanted {
		if slices.ContainsFunc(m.claims, func(c *rangeClaim) bool { return c.cluster == cluster && c.prefix == p }) {
			continue
		}
		c := &rangeClaim{prefix: p, cluster: cluster}
		rivals := m.rivals(c)
		c.held = len(rivals) == 0 || mine(cluster)
		if mine(cluster) {
			for _, r := range rivals {
				r.held = false
			}
		}
		m.claims = append(m.claims, c)
	}
	m.claims = slices.DeleteFunc(m.claims, func(c *rangeClaim) bool { return c.cluster == cluster && !wanted[c.prefix] })
}

func mine(cluster string) bool { return cluster == "east" || cluster == reserved }

func (m *reachModel) rivals(c *rangeClaim) (out []*rangeClaim) {
	for _, other := range m.claims {
		if other.held && other.cluster != c.cluster && (!mine(other.cluster) || !mine(c.cluster)) && other.prefix.Overlaps(c.prefix) {
			out = append(out, other)
		}
	}
	return out
}

// TestReachModel: whatever three clusters say in whatever order, the nodes have what
// the model says.
func TestReachModel(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 1))
		w := newReachWorld(t, routed("east"))
		m := &reachModel{nodes: map[string]map[string]*node.Node{}, addresses: map[string]map[netip.Prefix]bool{}}
		for range 150 {
			cluster := []string{"east", "west", "north"}[random.IntN(3)]
			if m.nodes[cluster] == nil {
				m.nodes[cluster], m.addresses[cluster] = map[string]*node.Node{}, map[netip.Prefix]bool{}
			}
			if random.IntN(25) == 0 {
				w.take(w.state.Remove(cluster))
				delete(m.nodes, cluster)
				delete(m.addresses, cluster)
			} else {
				u := drawReach(random)
				for name, n := range u.Nodes {
					m.nodes[cluster][name] = n
					if n == nil {
						delete(m.nodes[cluster], name)
					}
				}
				for p, a := range u.Addresses {
					m.addresses[cluster][p] = true
					if a == nil {
						delete(m.addresses[cluster], p)
					}
				}
				w.take(w.state.Apply(cluster, u))
			}
			m.step(cluster)
			want := map[netip.Prefix]string{}
			refused := 0
			for _, c := range m.claims {
				if c.held && c.cluster != reserved {
					want[c.prefix] = c.cluster
				} else if !c.held {
					refused++
				}
			}
			if !maps.Equal(want, w.ranges) {
				t.Fatalf("seed %d: %s", seed, cmp.Diff(fmt.Sprint(want), fmt.Sprint(w.ranges)))
			}
			got := 0
			for _, r := range w.state.Reaches() {
				got += r.Counts.Refused
			}
			for name := range w.state.routing.ranges.refused {
				if w.state.routing.peers[name].Cluster == "" {
					got += len(w.state.routing.ranges.refused[name]) // of a cluster without nodes
				}
			}
			if got != refused {
				t.Fatalf("seed %d: %d claims are refused, want %d", seed, got, refused)
			}
		}
	}
}

// drawReach returns an update of a few nodes and addresses, out of so few that they
// often overlap.
func drawReach(random *rand.Rand) Update {
	addr := func() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(2)), byte(random.IntN(16))}) }
	u := Update{Nodes: map[string]*node.Node{}, Addresses: map[netip.Prefix]*endpoint.Address{}}
	for range random.IntN(3) {
		n := &node.Node{ClusterID: 7}
		for range random.IntN(3) {
			n.PodCIDRs = append(n.PodCIDRs, netip.PrefixFrom(addr(), 23+random.IntN(9)).Masked())
		}
		for range random.IntN(2) {
			n.Addresses = append(n.Addresses, node.Address{Type: node.CiliumInternalIP, IP: addr()})
		}
		if random.IntN(3) == 0 {
			n = nil
		}
		u.Nodes[fmt.Sprint("n", random.IntN(4))] = n
	}
	for range random.IntN(6) {
		a := &endpoint.Address{Identity: identity.Unmanaged}
		if random.IntN(2) == 0 {
			a = nil
		}
		u.Addresses[netip.PrefixFrom(addr(), 32)] = a
	}
	return u
}

// TestReroute: what is found out later of the way to a cluster reaches the nodes, once.
func TestReroute(t *testing.T) {
	s := New("east")
	mode, search := route.VXLAN, route.Unfit
	s.Route(Routing{Way: func(string) (route.Mode, route.Search) { return mode, search }})
	w := newReachWorld(t, s)
	w.nodes("west", map[string]*node.Node{"w1": machine("10.2.0.0/24")})
	mode, search = route.Native, route.Fit
	d := s.Reroute("west")
	if p := d.Peers["west"]; p == nil || p.Mode != route.Native || p.Search != route.Fit || len(d.Ranges) > 0 {
		t.Errorf("%+v", d)
	}
	for _, cluster := range []string{"west", "north", "east"} {
		if d := s.Reroute(cluster); !d.Empty() {
			t.Errorf("%s again: %+v", cluster, d)
		}
	}
	if d := New("east").Reroute("west"); !d.Empty() {
		t.Errorf("where nobody asked for routes: %+v", d)
	}
}
