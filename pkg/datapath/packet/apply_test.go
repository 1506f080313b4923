package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// behind is what the maps say of an address, read as a program would.
type behind struct {
	Identity identity.Number
	Cluster  cluster.ID
	Tunnel   string // where packets for it go, "here", or "" for nowhere
}

// state is what the maps say.
type state struct {
	Addresses map[netip.Addr]behind
	Nodes     map[netip.Addr]cluster.ID // from which packets are taken
	Ranges    map[netip.Prefix]cluster.ID
}

// readState reads the maps themselves, and fails on a wrong seal.
func readState(t testing.TB, p *Plane) state {
	t.Helper()
	s := state{map[netip.Addr]behind{}, map[netip.Addr]cluster.ID{}, map[netip.Prefix]cluster.ID{}}
	var self bpf.MeshSettings
	must(t, p.maps.settings.Lookup(uint32(0), &self))
	if self.Seal != pin.Seal(&self, sealIndex(0)) {
		t.Errorf("settings have a wrong seal")
	}
	tunnel := func(index uint32) string {
		if index == 0 {
			return ""
		}
		if index == self.Hosts[0] || index == self.Hosts[1] {
			return "here"
		}
		var n bpf.MeshNode
		must(t, p.maps.node.Lookup(index, &n))
		if n.Seal != pin.Seal(&n, sealIndex(index)) {
			t.Errorf("node %d has a wrong seal", index)
		}
		if n.Cluster == 0 {
			return ""
		}
		return ip(n.Tunnel).addr().String()
	}
	add := func(a ip, v bpf.MeshAddress, seal uint64) {
		if v.Seal != pin.Seal(&v, seal) {
			t.Errorf("%v has a wrong seal", a.addr())
		}
		w := word(v.Bits)
		c := cluster.ID(uint64(w) >> bpf.MeshPacketLayoutADDRESS_CLUSTER_SHIFT & uint64(maxCluster))
		s.Addresses[a.addr()] = behind{identity.Number(w) & maxIdentity, c, tunnel(w.host())}
	}
	must(t, pin.Read(p.maps.v4, func(k uint32, v bpf.MeshAddress) { add(ipOfV4(k), v, sealIndex(k)) }))
	must(t, pin.Read(p.maps.v6, func(k bpf.MeshAddressKey, v bpf.MeshAddress) { add(k.Address, v, sealIP(k.Address)) }))
	must(t, pin.Read(p.maps.host, func(k bpf.MeshAddressKey, v bpf.MeshHost) {
		if v.Seal != pin.Seal(&v, sealIP(k.Address)) {
			t.Errorf("host %v has a wrong seal", ip(k.Address).addr())
		}
		if v.Cluster != 0 {
			s.Nodes[ip(k.Address).addr()] = cluster.ID(v.Cluster)
		}
	}))
	must(t, pin.Read(p.maps.ranges, func(k bpf.MeshRangeKey, v bpf.MeshRange) { s.Ranges[decodeRange(k)] = cluster.ID(v.Cluster) }))
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// model is what was told, and nothing else.
type model struct {
	self      *route.Self
	nodes     map[node.Key]Node
	addresses map[netip.Addr]Address
	ranges    map[netip.Prefix]cluster.ID
}

func newModel() *model {
	return &model{nodes: map[node.Key]Node{}, addresses: map[netip.Addr]Address{}, ranges: map[netip.Prefix]cluster.ID{}}
}

func (m *model) apply(c Change) {
	if c.Self != nil {
		m.self = c.Self
	}
	for _, k := range c.GoneNodes {
		delete(m.nodes, k)
	}
	for _, n := range c.Nodes {
		m.nodes[n.Key] = n
	}
	for _, a := range c.GoneAddresses {
		delete(m.addresses, a)
	}
	for _, a := range c.Addresses {
		m.addresses[a.Addr] = a
	}
	for _, r := range c.GoneRanges {
		delete(m.ranges, r)
	}
	for _, r := range c.Ranges {
		m.ranges[r.Prefix] = r.Cluster
	}
}

// state works out what the maps should say, one thing after the other.
func (m *model) state() state {
	s := state{map[netip.Addr]behind{}, map[netip.Addr]cluster.ID{}, m.ranges}
	nodes := map[netip.Addr]Node{}
	for k, n := range m.nodes {
		if m.self == nil || k != key(m.self.Cluster, m.self.Node) {
			for _, a := range n.Underlay {
				nodes[a] = n
			}
		}
	}
	own := map[netip.Addr]bool{}
	if m.self != nil {
		for _, a := range m.self.Underlay {
			own[a] = true
		}
	}
	leads := func(host netip.Addr) string {
		n, known := nodes[host]
		switch {
		case own[host]:
			return "here"
		case !known || m.self == nil || n.Cluster == m.self.ID:
			return ""
		}
		if to := tunnelTo(m.self, n); to.IsValid() {
			return to.String()
		}
		return ""
	}
	for _, a := range m.addresses {
		if a.Addr != a.Host {
			s.Addresses[a.Addr] = behind{a.Identity, a.Cluster, leads(a.Host)}
		}
	}
	meshOf := func(n Node) {
		for _, a := range n.Mesh {
			host := netip.Addr{}
			if len(n.Underlay) > 0 {
				host = n.Underlay[0]
			}
			s.Addresses[a] = behind{identity.RemoteNode, n.Cluster, leads(host)}
		}
	}
	for k, n := range m.nodes {
		if m.self == nil || k != key(m.self.Cluster, m.self.Node) {
			meshOf(n)
		}
	}
	if m.self != nil {
		meshOf(Node{Cluster: m.self.ID, Underlay: m.self.Underlay, Mesh: m.self.Mesh})
	}
	for a, n := range nodes {
		delete(s.Addresses, a)
		if m.self != nil && n.Cluster != m.self.ID {
			s.Nodes[a] = n.Cluster
		}
	}
	for a := range own {
		delete(s.Addresses, a)
		delete(s.Nodes, a)
	}
	return s
}

func TestWorld(t *testing.T) {
	p := prepared(t)
	m := newModel()
	m.apply(world())
	if diff := cmp.Diff(m.state(), readState(t, p), cmpAddr()); diff != "" {
		t.Error(diff)
	}
}

func cmpAddr() cmp.Option {
	return cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

// draw returns a random change among few things, so that they meet often. Each
// node has an underlay and a mesh address of its own, some of them also in use
// by pods: what a node says of its own address counts.
func draw(r *rand.Rand) Change {
	var c Change
	underlay := func(i int) []netip.Addr {
		v4, v6 := netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), addr(fmt.Sprintf("2001:db8::%x", 0x10+i))
		return [][]netip.Addr{{v4}, {v6}, {v4, v6}}[r.IntN(3)]
	}
	for _, i := range r.Perm(6)[:r.IntN(3)] {
		n := Node{Key: key("c", fmt.Sprint(i)), Cluster: cluster.ID(1 + i%3), Underlay: underlay(i)}
		if r.IntN(3) > 0 {
			n.Mesh = []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 0, byte(i)})}
		}
		c.Nodes = append(c.Nodes, n)
	}
	seen := map[netip.Addr]bool{}
	for range r.IntN(6) {
		a := Address{Cluster: cluster.ID(1 + r.IntN(3)), Identity: identity.Number(256 + r.IntN(4))}
		switch r.IntN(4) {
		case 0:
			a.Addr = netip.AddrFrom4([4]byte{10, 9, 0, byte(r.IntN(6))}) // maybe a mesh address
		case 1:
			a.Addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + r.IntN(6))}) // maybe a node's
		case 2:
			a.Addr = addr(fmt.Sprintf("fd00:9::%x", r.IntN(8)+1))
		default:
			a.Addr = netip.AddrFrom4([4]byte{10, 9, 1, byte(r.IntN(8))})
		}
		if r.IntN(5) > 0 {
			hosts := underlay(r.IntN(6))
			a.Host = hosts[r.IntN(len(hosts))]
		}
		if seen[a.Addr] {
			continue
		}
		seen[a.Addr] = true
		if r.IntN(4) == 0 {
			c.GoneAddresses = append(c.GoneAddresses, a.Addr)
		} else {
			c.Addresses = append(c.Addresses, a)
		}
	}
	if r.IntN(3) == 0 {
		c.GoneNodes = append(c.GoneNodes, key("c", fmt.Sprint(r.IntN(6))))
	}
	p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(100 + r.IntN(3)), 0, 0}), 16)
	switch r.IntN(4) {
	case 0:
		c.Ranges = append(c.Ranges, Range{p, cluster.ID(1 + r.IntN(3))})
	case 1:
		c.GoneRanges = append(c.GoneRanges, p)
	case 2:
		c.Self = &route.Self{Cluster: "c", ID: 1, Node: "0", Underlay: underlay(0)}
		if r.IntN(2) == 0 {
			c.Self.Mesh = addrs("10.9.0.0")
		}
	}
	return c
}

// TestModel applies random changes and compares the maps with what all of them
// together should give. Now and then another process goes on, which is told
// everything again, and prunes.
func TestModel(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 20))
	c := config(t)
	p := open(t, c)
	m := newModel()
	for round := range 400 {
		change := draw(r)
		apply(t, p, change)
		m.apply(change)
		if round%40 == 39 {
			must(t, p.Close())
			p = open(t, c)
			gone := draw(r) // what went while nobody looked
			gone.Addresses, gone.Nodes, gone.Ranges, gone.Self = nil, nil, nil, nil
			m.apply(gone)
			apply(t, p, m.change())
			must(t, p.Prune(m.keep()))
		}
		if diff := cmp.Diff(m.state(), readState(t, p), cmpAddr()); diff != "" {
			t.Fatalf("round %d: %+v\n%s", round, change, diff)
		}
		for _, use := range p.Use() {
			if use.Name == bpf.MeshMapHost && use.Entries > 13 {
				t.Fatalf("round %d: %d hosts", round, use.Entries)
			}
		}
	}
}

// change returns everything that the model knows.
func (m *model) change() Change {
	c := Change{Self: m.self}
	for _, n := range m.nodes {
		c.Nodes = append(c.Nodes, n)
	}
	for _, a := range m.addresses {
		c.Addresses = append(c.Addresses, a)
	}
	for p, id := range m.ranges {
		c.Ranges = append(c.Ranges, Range{p, id})
	}
	return c
}

func (m *model) keep() Keep {
	return Keep{
		Node:    func(k node.Key) bool { _, ok := m.nodes[k]; return ok },
		Address: func(a netip.Addr) bool { _, ok := m.addresses[a]; return ok },
		Range:   func(p netip.Prefix) bool { _, ok := m.ranges[p]; return ok },
	}
}

// Two nodes swap their addresses, in one change or in two.
func TestSwap(t *testing.T) {
	nodes := world().Nodes
	west, south := nodes[2], nodes[4]
	west.Underlay, south.Underlay = south.Underlay, west.Underlay
	for name, changes := range map[string][]Change{
		"together":    {{Nodes: []Node{west, south}}},
		"one by one":  {{Nodes: []Node{west}}, {Nodes: []Node{south}}},
		"the other":   {{Nodes: []Node{south}}, {Nodes: []Node{west}}},
		"gone before": {{GoneNodes: []node.Key{west.Key, south.Key}}, {Nodes: []Node{south, west}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := prepared(t)
			for _, c := range changes {
				apply(t, p, c)
			}
			m := newModel()
			m.apply(world())
			m.apply(Change{Nodes: []Node{west, south}})
			if diff := cmp.Diff(m.state(), readState(t, p), cmpAddr()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Who names an address that another node has gets it when that one gives it up;
// this node's own nobody gets.
func TestClaims(t *testing.T) {
	p := prepared(t)
	thief := Node{Key: key("south", "thief"), Cluster: 3, Underlay: addrs("192.0.2.2"), Mesh: addrs("10.201.0.1")}
	bold := Node{Key: key("south", "bold"), Cluster: 3, Underlay: addrs("192.0.2.1"), Mesh: addrs("10.200.0.1")}
	apply(t, p, Change{Nodes: []Node{thief, bold}})
	s := readState(t, p)
	if s.Nodes[addr("192.0.2.2")] != 2 || s.Addresses[addr("10.201.0.1")].Cluster != 2 {
		t.Errorf("a second node has the address: %+v", s)
	}
	apply(t, p, Change{GoneNodes: []node.Key{key("west", "n1"), key("east", "n1")}})
	s = readState(t, p)
	if s.Nodes[addr("192.0.2.2")] != 3 || s.Addresses[addr("10.201.0.1")].Cluster != 3 {
		t.Errorf("the second node does not get the address: %+v", s)
	}
	if _, ok := s.Nodes[addr("192.0.2.1")]; ok || s.Addresses[addr("10.200.0.1")] != (behind{identity.RemoteNode, 1, "here"}) {
		t.Errorf("another node has our address: %+v", s)
	}
}

func TestRefusals(t *testing.T) {
	p := prepared(t)
	before := readState(t, p)
	for name, test := range map[string]struct {
		change Change
		want   error
	}{
		"address, loopback":  {Change{Addresses: []Address{{Addr: addr("127.0.0.1"), Cluster: 2, Identity: westPod}}}, route.ErrAddress},
		"address, mapped":    {Change{Addresses: []Address{{Addr: addr("::ffff:10.0.0.1"), Cluster: 2, Identity: westPod}}}, route.ErrAddress},
		"address, none":      {Change{Addresses: []Address{{Cluster: 2, Identity: westPod}}}, route.ErrAddress},
		"identity, none":     {Change{Addresses: []Address{{Addr: addr("10.2.0.7"), Cluster: 2}}}, ErrValue},
		"identity, too high": {Change{Addresses: []Address{{Addr: addr("10.2.0.7"), Cluster: 2, Identity: 1 << 24}}}, ErrValue},
		"cluster, too high":  {Change{Addresses: []Address{{Addr: addr("10.2.0.7"), Cluster: 1 << 16, Identity: westPod}}}, ErrValue},
		"node, multicast":    {Change{Nodes: []Node{{Key: key("west", "n1"), Cluster: 2, Underlay: addrs("224.0.0.1")}}}, route.ErrAddress},
		"node, no cluster":   {Change{Nodes: []Node{{Key: key("west", "n1"), Underlay: addrs("192.0.2.2")}}}, ErrValue},
		"range, all":         {Change{Ranges: []Range{{netip.MustParsePrefix("0.0.0.0/0"), 2}}}, route.ErrPrefix},
		"range, nobody's":    {Change{Ranges: []Range{{netip.MustParsePrefix("10.5.0.0/16"), 0}}}, ErrValue},
		"self":               {Change{Self: &route.Self{Cluster: "east", ID: 1}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			good := Address{Addr: addr("10.2.0.99"), Cluster: 2, Identity: westPod}
			test.change.Addresses = append(test.change.Addresses, good)
			err := p.Apply(test.change)
			if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if _, ok := readState(t, p).Addresses[good.Addr]; !ok {
				t.Error("what was good beside it is not in effect")
			}
			apply(t, p, Change{GoneAddresses: []netip.Addr{good.Addr}})
			if diff := cmp.Diff(before, readState(t, p), cmpAddr()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What does not fit costs nothing of what is there, which can still change.
func TestFull(t *testing.T) {
	c := config(t)
	c.MapCapacity = 64
	p := open(t, c)
	var all []Address
	for i := range 100 {
		all = append(all, Address{Addr: netip.AddrFrom4([4]byte{10, 2, 0, byte(i)}), Cluster: 2, Identity: westPod})
		all = append(all, Address{Addr: addr(fmt.Sprintf("fd00:2::%x", i)), Cluster: 2, Identity: westPod})
	}
	err := p.Apply(Change{Addresses: all})
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "36 of 100 IPv4") {
		t.Fatalf("%v, want %v", err, ErrFull)
	}
	for _, use := range p.Use()[:2] {
		if use.Entries != 64 || use.Capacity != 64 {
			t.Errorf("%+v", use)
		}
	}
	for i := range all {
		all[i].Identity++
	}
	if err := p.Apply(Change{Addresses: all}); !errors.Is(err, ErrFull) {
		t.Fatalf("%v, want %v", err, ErrFull)
	}
	changed := 0
	for _, b := range readState(t, p).Addresses {
		if b.Identity == westPod+1 {
			changed++
		}
	}
	if changed != 128 {
		t.Errorf("%d addresses follow, want 128", changed)
	}
	var gone []netip.Addr
	for _, a := range all[:150] {
		gone = append(gone, a.Addr)
	}
	apply(t, p, Change{GoneAddresses: gone, Addresses: all[100:]})
}

// More nodes than fit are refused, one by one.
func TestTooManyNodes(t *testing.T) {
	p := open(t, config(t))
	limit := int(hostCapacity(p.config.MapCapacity)) - 1
	nodes := make([]Node, limit+1)
	for i := range nodes {
		nodes[i] = Node{Key: key("west", fmt.Sprint(i)), Cluster: 2, Underlay: []netip.Addr{netip.AddrFrom4([4]byte{192, 0, byte(2 + i>>8), byte(i)})}}
	}
	must(t, p.Apply(Change{Self: &route.Self{Cluster: "east", ID: 1, Node: "n1"}}))
	err := p.Apply(Change{Nodes: nodes})
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), fmt.Sprintf("west/%d", limit)) {
		t.Fatalf("%v, want %v", err, ErrFull)
	}
	if got := len(readState(t, p).Nodes); got != limit {
		t.Errorf("%d nodes, want %d", got, limit)
	}
	// An index that was in use rests before it means another node.
	apply(t, p, Change{GoneNodes: []node.Key{nodes[0].Key}})
	if err := p.Apply(Change{Nodes: nodes[limit:]}); !errors.Is(err, ErrFull) {
		t.Errorf("at once: %v, want %v", err, ErrFull)
	}
	waitFor(t, func() error { return p.Apply(Change{Nodes: nodes[limit:]}) })
}

// What is in effect is not written again: an unwritable map shows it.
func TestRepeat(t *testing.T) {
	p := prepared(t)
	must(t, p.maps.v4.Freeze())
	must(t, p.maps.v6.Freeze())
	must(t, p.maps.host.Freeze())
	must(t, p.maps.node.Freeze())
	must(t, p.maps.settings.Freeze())
	apply(t, p, world())
	if err := p.Apply(Change{GoneAddresses: addrs("10.2.0.7")}); err == nil {
		t.Error("the map can be written")
	}
	if _, ok := readState(t, p).Addresses[addr("10.2.0.7")]; !ok {
		t.Error("the address is gone")
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	c := config(t)
	c.Registerer = registry
	p := open(t, c)
	apply(t, p, world())
	got := values(t, registry)
	for name, want := range map[string]float64{
		"causeway_packet_map_entries range": 4, "causeway_packet_map_capacity_entries address_v4": 4096,
		"causeway_packet_map_entries address_v6": 4, "causeway_packet_packets_total from_mesh late": 0,
		"causeway_packet_attached_programs tcx": 0, "causeway_packet_attached_programs clsact": 0,
		"causeway_packet_repairs_total pin": 0, "causeway_packet_self_test_failed": 0,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (%v), want %v", name, value, ok, want)
		}
	}
}

// values returns all metrics by name and labels.
func values(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	must(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return got
}

// Of many errors the first ones stand for all.
func TestManyErrors(t *testing.T) {
	p := open(t, config(t))
	err := p.Apply(Change{Addresses: make([]Address, 1000)})
	if !errors.Is(err, route.ErrAddress) || strings.Count(err.Error(), "\n") != manyErrors || !strings.HasSuffix(err.Error(), "and 990 more like these") {
		t.Errorf("%v", err)
	}
}

func TestKeyOfIPv4(t *testing.T) {
	a := ipOf(addr("10.1.0.5"))
	if got := a.v4(); got != binary.NativeEndian.Uint32([]byte{10, 1, 0, 5}) || ipOfV4(got) != a {
		t.Errorf("%#x", got)
	}
}
