package trust_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func addr(text string) netip.Addr { return netip.MustParseAddr(text) }

// declared are claims of west, in pairs of class and range.
func declared(since time.Time, pairs ...string) []trust.Claim {
	var out []trust.Claim
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, trust.Claim{Class: trust.Class(pairs[i]), Range: prefix(pairs[i+1]), Origin: trust.Declared, Since: since})
	}
	return out
}

func nodeOf(name string, ips ...string) *node.Node {
	n := &node.Node{Name: name, ClusterID: 2}
	for _, ip := range ips {
		n.Addresses = append(n.Addresses, node.Address{Type: node.InternalIP, IP: addr(ip)})
	}
	return n
}

// world is a Book of a cluster with a node and a mesh range, and a peer, west,
// with id 2 that declared what it has.
func world(t *testing.T) (*trust.Book, *trust.Judge) {
	t.Helper()
	b := trust.NewBook([]netip.Prefix{prefix("10.250.0.0/24")}, []netip.Prefix{prefix("10.96.0.0/12")})
	ours := nodeOf("e1", "192.168.0.1")
	ours.PodCIDRs = []netip.Prefix{prefix("10.1.0.0/24"), prefix("fd01::/64")}
	b.Own(map[string]*node.Node{"e1": ours})
	b.Claims("south", declared(time.Unix(1, 0), "pods", "10.3.0.0/16", "nodes", "192.168.0.0/16"), nil, func() {})
	b.Claims("west", declared(time.Unix(2, 0), "pods", "10.2.0.0/16", "pods", "fd02::/48", "pods", "10.96.4.0/24", "nodes", "192.168.0.0/16",
		"mesh", "10.251.0.0/24", "external", "203.0.113.0/24"), nil, func() {})
	return b, judge(b, "west", 2)
}

func judge(b *trust.Book, peer string, id cluster.ID) *trust.Judge {
	j := trust.NewJudge(trust.JudgeConfig{Book: b, Peer: peer, Size: cluster.Size255, Rules: trust.Rules{Quotas: trust.DefaultQuotas()}})
	j.Begin(id)
	j.Refresh()
	return j
}

func reasonOf(t *testing.T, err error) trust.Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	var r *trust.Refusal
	if !errors.As(err, &r) || r.Error() == "" || !slices.Contains(trust.Reasons(), r.Reason) {
		t.Fatalf("not a refusal with a reason: %v", err)
	}
	return r.Reason
}

// first is the first identity of west, which Cilium may give.
var first = func() identity.Number { n, _ := identity.Block(2, cluster.Size255); return n }()

func TestAddresses(t *testing.T) {
	t.Parallel()
	b, j := world(t)
	s := judge(b, "south", 3)
	for j, n := range map[*trust.Judge]*node.Node{j: nodeOf("w1", "192.168.0.2"), s: nodeOf("s1", "192.168.0.3")} {
		if err := j.Node(n); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		address, host string
		number        identity.Number
		want          trust.Reason
	}{
		{"10.2.0.1/32", "192.168.0.2", first, ""},
		{"10.2.0.1/32", "192.168.0.9", first, ""}, // a node that is not told of yet
		{"10.2.0.1/32", "", first + 60_000, ""},
		{"fd02::1/128", "192.168.0.2", first, ""},
		{"10.2.7.0/24", "", first, ""},
		{"10.2.0.1/32", "", identity.Unmanaged, ""},
		{"10.2.0.1/32", "", identity.Init, ""},
		{"192.168.0.2/32", "", identity.Host, ""},
		{"192.168.0.2/32", "", identity.RemoteNode, ""},
		{"192.168.0.2/32", "", identity.Health, ""},

		{"10.2.0.1/32", "", identity.None, trust.Identity},
		{"10.2.0.1/32", "", identity.World, trust.Identity},
		{"10.2.0.1/32", "", identity.KubeAPIServer, trust.Identity},
		{"10.2.0.1/32", "", identity.WorldIPv4, trust.Identity},
		{"10.2.0.1/32", "", 255, trust.Identity},
		{"10.2.0.1/32", "", first - 1, trust.Identity},
		{"10.2.0.1/32", "", 1<<16 + 300, trust.Identity}, // ours
		{"10.2.0.1/32", "", 3<<16 + 300, trust.Identity}, // south's
		{"10.2.0.1/32", "", 1<<24 + 1, trust.Identity},   // local to a node
		{"10.2.0.1/32", "", identity.Host, trust.Identity},
		{"10.2.0.1/32", "", identity.Health, trust.Identity},
		{"10.2.0.1/32", "", identity.Ingress, trust.Identity},
		{"10.2.0.1/32", "", identity.RemoteNode, trust.Identity},
		{"192.168.0.3/32", "", identity.RemoteNode, trust.Identity},
		{"192.168.0.0/24", "", identity.RemoteNode, trust.Identity},

		{"10.4.0.1/32", "", first, trust.AddressRange},
		{"192.168.0.7/32", "", first, trust.AddressRange}, // a pod where nodes are
		{"10.0.0.0/8", "", first, trust.AddressConflict},
		{"0.0.0.0/0", "", first, trust.AddressRange},
		{"::/0", "", first, trust.AddressRange},
		{"127.0.0.1/32", "", first, trust.AddressRange},
		{"169.254.169.254/32", "", first, trust.AddressRange},
		{"224.0.0.1/32", "", first, trust.AddressRange},
		{"255.255.255.255/32", "", first, trust.AddressRange},
		{"fe80::1/128", "", first, trust.AddressRange},
		{"ff02::1/128", "", first, trust.AddressRange},
		{"::ffff:10.2.0.1/128", "", first, trust.AddressRange},
		{"10.1.0.5/32", "", first, trust.AddressConflict},
		{"fd01::5/128", "", first, trust.AddressConflict},
		{"192.168.0.1/32", "", first, trust.AddressConflict},
		{"10.250.0.7/32", "", first, trust.AddressConflict},
		{"10.96.4.1/32", "", first, trust.AddressConflict}, // claimed, and kept by us
		{"10.3.0.1/32", "", first, trust.AddressConflict},
		{"192.168.0.3/32", "", first, trust.AddressRange},

		{"10.2.0.1/32", "192.168.0.1", first, trust.AddressConflict},
		{"10.2.0.1/32", "192.168.0.3", first, trust.AddressConflict},
		{"10.2.0.1/32", "172.16.0.1", first, trust.AddressRange},
		{"10.2.0.1/32", "127.0.0.1", first, trust.AddressRange},
		{"10.2.0.1/32", "10.2.0.2", first, trust.AddressRange},
	} {
		a := &endpoint.Address{Prefix: prefix(c.address), Identity: c.number}
		if c.host != "" {
			a.HostIP = addr(c.host)
		}
		if got := reasonOf(t, j.Address(a)); got != c.want {
			t.Errorf("%s on %q with %d: %q, want %q", c.address, c.host, c.number, got, c.want)
		}
		if c.want == "" && c.number == identity.Host && a.Identity != identity.RemoteNode {
			t.Errorf("host is taken over as %d", a.Identity)
		}
	}
	for n, want := range map[identity.Number]trust.Reason{
		first: "", 2<<16 + 65_535: "", first - 1: trust.Identity, 3 << 16: trust.Identity, 7: trust.Identity, 1<<16 + 256: trust.Identity,
	} {
		if got := reasonOf(t, j.Identity(&identity.Identity{Number: n})); got != want {
			t.Errorf("identity %d: %q, want %q", n, got, want)
		}
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	_, j := world(t)
	for backend, want := range map[string]trust.Reason{
		"10.2.0.1": "", "192.168.0.9": "", "203.0.113.7": "", "fd02::1": "",
		"10.1.0.1": trust.AddressConflict, "10.3.0.1": trust.AddressConflict, "192.168.0.1": trust.AddressConflict,
		"10.96.0.1": trust.AddressConflict, "8.8.8.8": trust.AddressRange, "127.0.0.1": trust.AddressRange, "10.251.0.4": trust.AddressRange,
	} {
		s := &service.Service{Name: service.Name{Namespace: "shop", Name: "web"}, Backends: []service.Backend{{IP: addr("10.2.0.1")}, {IP: addr(backend)}}}
		if got := reasonOf(t, j.Service(s)); got != want {
			t.Errorf("service with %s: %q, want %q", backend, got, want)
		}
		sl := &service.Slice{Namespace: "shop", Endpoints: []service.Endpoint{{Addresses: []netip.Addr{addr(backend)}}}}
		if got := reasonOf(t, j.Slice(sl)); got != want {
			t.Errorf("slice with %s: %q, want %q", backend, got, want)
		}
	}
	if got := reasonOf(t, j.Slice(&service.Slice{Namespace: "shop", ClusterID: 3})); got != trust.WrongCluster {
		t.Errorf("a slice with south's id: %q", got)
	}
	j.Rules(trust.Rules{Namespaces: []string{"shop"}, Services: trust.Selector{MatchLabels: map[string]string{"export": "yes"}}, Quotas: trust.DefaultQuotas()})
	for _, c := range []struct {
		namespace, label string
		want             trust.Reason
	}{{"shop", "yes", ""}, {"shop", "no", trust.ImportRule}, {"data", "yes", trust.ImportRule}} {
		s := &service.Service{Name: service.Name{Namespace: c.namespace, Name: "web"}, Labels: map[string]string{"export": c.label}}
		if got := reasonOf(t, j.Service(s)); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
		if got := reasonOf(t, j.Slice(&service.Slice{Namespace: c.namespace})); (got == "") != (c.namespace == "shop") {
			t.Errorf("a slice in %s: %q", c.namespace, got)
		}
	}
}

// What changes while something is judged, and concerns that alone, is found after.
func TestOutdated(t *testing.T) {
	t.Parallel()
	b, j := world(t)
	told := 0
	b.Claims("west", declared(time.Unix(2, 0), "pods", "10.2.0.0/16", "nodes", "192.168.0.0/16"), nil, func() { told++ })
	j.Refresh()
	if j.Outdated() {
		t.Error("outdated though nothing changed")
	}
	b.Own(map[string]*node.Node{"e2": nodeOf("e2", "172.16.0.1")})
	if err := j.Address(&endpoint.Address{Prefix: prefix("10.2.0.1/32"), Identity: first}); err != nil || j.Outdated() {
		t.Errorf("outdated by what does not concern it: %v", err)
	}
	b.Own(map[string]*node.Node{"e3": nodeOf("e3", "192.168.0.30")})
	if j.Outdated() {
		t.Error("outdated by a node that it did not name")
	}
	if err := j.Node(nodeOf("w1", "192.168.0.30")); err != nil {
		t.Fatal(err)
	}
	if told != 0 || !j.Outdated() {
		t.Errorf("told %d times, and what was judged by what is no more stays", told)
	}
	j.Refresh()
	if j.Outdated() || reasonOf(t, j.Node(nodeOf("w1", "192.168.0.30"))) != trust.AddressConflict {
		t.Error("judged by what was")
	}
	b.Claims("north", declared(time.Unix(1, 0), "pods", "10.2.4.0/24"), nil, func() {})
	if !j.Outdated() {
		t.Error("not outdated by another one's claim")
	}
	b.Remove("west")
	if j.Outdated() {
		t.Error("a peer that is gone is outdated")
	}
}

// What was refused is told of when it is free, also when the peer's claims changed
// meanwhile and nothing was judged anew.
func TestRefusedIsRememberedUntilJudgedAnew(t *testing.T) {
	t.Parallel()
	b := trust.NewBook(nil, nil)
	b.Own(map[string]*node.Node{"e1": {PodCIDRs: []netip.Prefix{prefix("10.7.0.0/24")}}})
	told := 0
	stale := func() { told++ }
	b.Claims("west", nil, trust.Classes(), stale)
	j := judge(b, "west", 2)
	a := &endpoint.Address{Prefix: prefix("10.7.0.1/32"), Identity: first}
	if reasonOf(t, j.Address(a)) != trust.AddressConflict {
		t.Error("what is ours is the peer's")
	}
	b.Claims("west", declared(time.Unix(1, 0), "pods", "10.2.0.0/16", "nodes", "192.168.0.0/16"), nil, stale)
	b.Own(map[string]*node.Node{"e1": nil})
	if told != 1 {
		t.Errorf("told %d times that what it was refused is free", told)
	}
	j.Anew()
	b.Own(map[string]*node.Node{"e1": {PodCIDRs: []netip.Prefix{prefix("10.7.0.0/24")}}})
	if told != 1 {
		t.Error("told of what it did not name since all was judged anew")
	}
}

// What an address may be depends on the nodes that there are, and is said.
func TestTouched(t *testing.T) {
	t.Parallel()
	_, j := world(t)
	health := func() trust.Reason {
		return reasonOf(t, j.Address(&endpoint.Address{Prefix: prefix("10.2.0.9/32"), Identity: identity.Health}))
	}
	if health() != trust.Identity || !j.WasSpecial() {
		t.Error("a health address without its node")
	}
	n := nodeOf("w1", "192.168.0.2")
	n.HealthIPs = []netip.Addr{addr("10.2.0.9")}
	if err := j.Node(n); err != nil || health() != "" || !slices.Contains(j.Touched(), addr("10.2.0.9")) {
		t.Errorf("a health address with its node: %v", err)
	}
	if err := j.Node(n); err != nil || len(j.Touched()) != 0 {
		t.Errorf("a node that is said again touches something: %v", err)
	}
	j.DropNode("w1")
	if health() != trust.Identity || !slices.Contains(j.Touched(), addr("10.2.0.9")) {
		t.Error("a health address whose node is gone")
	}
}

// Where nothing is agreed the first word counts; what comes later waits.
func TestObserved(t *testing.T) {
	t.Parallel()
	b := trust.NewBook(nil, nil)
	b.Own(map[string]*node.Node{"e1": {PodCIDRs: []netip.Prefix{prefix("10.2.9.0/24")}}})
	b.Claims("west", nil, trust.Classes(), func() {})
	j := judge(b, "west", 2)
	pod := func(text string) trust.Reason {
		return reasonOf(t, j.Address(&endpoint.Address{Prefix: prefix(text), Identity: first}))
	}
	if pod("10.2.0.1/32") != "" || pod("10.2.9.1/32") != trust.AddressConflict || pod("0.0.0.0/0") != trust.AddressRange {
		t.Error("the first word is not taken as far as it may be")
	}
	if err := j.Node(nodeOf("w1", "192.168.0.2")); err != nil {
		t.Error(err)
	}
	got := j.Observed()
	want := []trust.Claim{
		{Class: trust.Pods, Range: prefix("10.2.0.0/16"), Origin: trust.Observed},
		{Class: trust.Nodes, Range: prefix("192.168.0.0/16"), Origin: trust.Observed},
	}
	if !slices.Equal(got, want) {
		t.Errorf("observed %v", got)
	}
	told := 0
	b.Claims("west", got, []trust.Class{trust.Mesh}, func() { told++ })
	j.Refresh()
	if pod("10.2.77.1/32") != "" || pod("10.4.0.1/32") != trust.AddressRange || pod("10.4.0.2/32") != trust.AddressRange {
		t.Error("the first word is not what is agreed")
	}
	if n, more := j.Grown(); n != 1 || !more {
		t.Errorf("%d ranges wait, new: %t", n, more)
	}
	if _, more := j.Grown(); more {
		t.Error("there are more although nothing was said")
	}
	if g := j.Growth(); len(g) != 1 || g[0].Range != prefix("10.4.0.0/16") || g[0].Class != trust.Pods {
		t.Errorf("%v waits", g)
	}
	if told != 0 {
		t.Error("a peer was told of what it is told")
	}
	j.Settle()
	if len(j.Growth()) != 0 {
		t.Error("what was decided on waits")
	}
}

// Nobody makes us remember more than so many ranges.
func TestGrowthIsBounded(t *testing.T) {
	t.Parallel()
	_, j := world(t)
	for i := range 5000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>8), byte(i), 0, 1}), 32)
		if got := reasonOf(t, j.Address(&endpoint.Address{Prefix: p, Identity: first})); got != trust.AddressRange {
			t.Fatalf("%s: %q", p, got)
		}
	}
	if n := len(j.Growth()); n == 0 || n > 1024 {
		t.Errorf("%d ranges wait", n)
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	_, j := world(t)
	j.Rules(trust.Rules{Quotas: trust.Quotas{Nodes: 10, Addresses: 1, Identities: 1, Services: 1, Slices: 1, Bytes: 1000}})
	for i := range 10 {
		if err := j.Admit(wire.Nodes, 50, -1); err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
		j.Count(wire.Nodes, 50, -1)
	}
	if reasonOf(t, j.Admit(wire.Nodes, 50, -1)) != trust.Quota || j.Admit(wire.Nodes, 60, 50) != nil {
		t.Error("the eleventh node, or a change of the tenth")
	}
	if reasonOf(t, j.Admit(wire.Services, 501, -1)) != trust.Quota || j.Admit(wire.Services, 500, -1) != nil {
		t.Error("the last byte")
	}
	if j.Room() {
		t.Error("there is room at once")
	}
	j.Discount(wire.Nodes, 50)
	if !j.Room() || j.Room() {
		t.Error("that there is room is said once")
	}
}

// The verdict on what is declared is that of a naive model, whatever came before.
func TestAgainstModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		random := func(least int) netip.Prefix {
			a := netip.AddrFrom4([4]byte{10, byte(r.IntN(8)), byte(r.IntN(4)), byte(r.IntN(256))})
			return netip.PrefixFrom(a, least+r.IntN(33-least)).Masked()
		}
		b := trust.NewBook(nil, nil)
		var own, west, south []netip.Prefix
		for range 4 {
			own, west, south = append(own, random(20)), append(west, random(14)), append(south, random(14))
		}
		b.Own(map[string]*node.Node{"e1": {PodCIDRs: own}})
		claims := func(since int64, of []netip.Prefix) (out []trust.Claim) {
			for _, p := range of {
				out = append(out, trust.Claim{Class: trust.Pods, Range: p, Origin: trust.Declared, Since: time.Unix(since, 0)})
			}
			return out
		}
		b.Claims("south", claims(2, south), nil, func() {})
		b.Claims("west", claims(1, west), nil, func() {})
		for name, mine := range map[string][]netip.Prefix{"west": west, "south": south} {
			j := judge(b, name, 2)
			for range 300 {
				p := random(16)
				want := model(name, p, own, west, south, mine)
				got := reasonOf(t, j.Address(&endpoint.Address{Prefix: p, Identity: first}))
				if got != want {
					t.Fatalf("seed %d: %s says %s: %q, want %q; own %v, west %v, south %v", seed, name, p, got, want, own, west, south)
				}
			}
		}
	}
}

// Among many peers that claim much, what becomes free is
// said to those that may use it, and to no others.
func TestManyPeers(t *testing.T) {
	t.Parallel()
	b := trust.NewBook(nil, nil)
	told := make([]int, 80)
	peer := func(i int) string { return fmt.Sprint("p", i) }
	claims := func(i, of int) (out []trust.Claim) {
		for k := range 8 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(of), byte(k * 16), 0}), 20)
			out = append(out, trust.Claim{Class: trust.Pods, Range: p, Origin: trust.Declared, Since: time.Unix(int64(i), 0)})
		}
		return out
	}
	for i := range told {
		b.Claims(peer(i), claims(i, i), nil, func() { told[i]++ })
	}
	b.Claims("late", claims(1000, 7), nil, func() {})
	if n := len(b.Lost("late")); n != 8 {
		t.Errorf("%d claims are lost", n)
	}
	j := judge(b, "late", 2)
	a := &endpoint.Address{Prefix: prefix("10.7.0.1/32"), Identity: first}
	if reasonOf(t, j.Address(a)) != trust.AddressConflict {
		t.Error("a range that another had first")
	}
	b.Remove(peer(7))
	if j.Refresh(); reasonOf(t, j.Address(a)) != "" || len(b.Lost("late")) != 0 {
		t.Error("the first one is gone, and the range is not free")
	}
	if i := slices.IndexFunc(told, func(n int) bool { return n != 0 }); i >= 0 {
		t.Errorf("%s was told, whom nothing concerns", peer(i))
	}
}

// model decides by looking at everything. West claimed first: what of south's
// overlaps one of its ranges is not south's.
func model(name string, p netip.Prefix, own, west, south, mine []netip.Prefix) trust.Reason {
	touches := func(of []netip.Prefix) bool { return slices.ContainsFunc(of, p.Overlaps) }
	valid := slices.DeleteFunc(slices.Clone(south), func(s netip.Prefix) bool { return slices.ContainsFunc(west, s.Overlaps) })
	others := west
	if name == "west" {
		others = valid
	} else {
		mine = valid
	}
	inside := slices.ContainsFunc(mine, func(m netip.Prefix) bool { return m.Bits() <= p.Bits() && m.Contains(p.Addr()) })
	switch {
	case touches(own), touches(others):
		return trust.AddressConflict
	case !inside:
		return trust.AddressRange
	}
	return ""
}

func BenchmarkAddress(b *testing.B) {
	book := trust.NewBook(nil, nil)
	nodes := map[string]*node.Node{}
	for i := range 5000 {
		n := nodeOf(fmt.Sprint("e", i), fmt.Sprintf("172.16.%d.%d", i>>8, i&255))
		n.PodCIDRs = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 + i>>8), byte(i), 0}), 24)}
		nodes[n.Name] = n
	}
	book.Own(nodes)
	book.Claims("west", declared(time.Unix(1, 0), "pods", "10.2.0.0/16", "nodes", "192.168.0.0/16"), nil, func() {})
	j := judge(book, "west", 2)
	a := &endpoint.Address{Prefix: prefix("10.2.0.1/32"), HostIP: addr("192.168.0.2"), Identity: first}
	b.ReportAllocs()
	for b.Loop() {
		if err := j.Address(a); err != nil {
			b.Fatal(err)
		}
	}
}
