package trust_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

func TestNodes(t *testing.T) {
	t.Parallel()
	_, j := world(t)
	with := func(change func(*node.Node)) *node.Node {
		n := nodeOf("w1", "192.168.0.2")
		change(n)
		return n
	}
	for i, c := range []struct {
		node *node.Node
		want trust.Reason
	}{
		{with(func(*node.Node) {}), ""},
		{with(func(n *node.Node) { n.PodCIDRs = []netip.Prefix{prefix("10.2.1.0/24"), prefix("fd02:0:0:1::/64")} }), ""},
		{with(func(n *node.Node) { n.HealthIPs = []netip.Addr{addr("10.2.1.9"), addr("fd02::9")} }), ""},
		{with(func(n *node.Node) {
			n.Addresses = append(n.Addresses, node.Address{Type: node.CiliumInternalIP, IP: addr("10.251.0.4")})
		}), ""},
		{with(func(n *node.Node) {
			n.Addresses = append(n.Addresses, node.Address{Type: node.CiliumInternalIP, IP: addr("10.2.0.4")})
		}), ""},
		{with(func(n *node.Node) {
			n.Addresses = append(n.Addresses, node.Address{Type: node.CiliumInternalIP, IP: addr("10.250.0.4")})
		}), trust.AddressConflict},
		{nodeOf("w1", "192.168.0.1"), trust.AddressConflict},
		{nodeOf("w1", "10.3.0.1"), trust.AddressConflict},
		{nodeOf("w1", "172.16.0.1"), trust.AddressRange},
		{nodeOf("w1", "192.168.0.2", "0.0.0.0"), trust.AddressRange},
		{nodeOf("w1", "::1"), trust.AddressRange},
		{with(func(n *node.Node) { n.HealthIPs = []netip.Addr{addr("10.1.0.9")} }), trust.AddressConflict},
	} {
		if got := reasonOf(t, j.Node(c.node)); got != c.want {
			t.Errorf("%d: %q, want %q", i, got, c.want)
		}
	}
}

// A node loses ranges and lesser addresses that it may not have, and stays; it has
// them when it is judged again and may.
func TestNodesLoseParts(t *testing.T) {
	t.Parallel()
	b, j := world(t)
	s := judge(b, "south", 3)
	if err := s.Node(nodeOf("s1", "192.168.0.3")); err != nil {
		t.Fatal(err)
	}
	pods := []netip.Prefix{prefix("10.2.1.0/24"), prefix("fd02:0:0:1::/64")}
	const hostname, external = node.AddressType("Hostname"), node.ExternalIP
	for _, c := range []struct {
		pods string
		kind node.AddressType
		ip   string
		want trust.Reason
	}{
		{pods: "10.2.7.0/24"},
		{pods: "10.1.0.0/24", want: trust.AddressConflict},
		{pods: "10.1.0.128/25", want: trust.AddressConflict},
		{pods: "10.3.4.0/24", want: trust.AddressConflict},
		{pods: "10.2.0.0/15", want: trust.AddressConflict},
		{pods: "0.0.0.0/0", want: trust.AddressRange},
		{pods: "169.254.1.0/24", want: trust.AddressRange},
		{pods: "10.4.0.0/24", want: trust.AddressRange},
		{kind: external, ip: "198.51.100.1"},
		{kind: external, ip: "192.168.0.1"},
		{kind: external, ip: "192.168.0.3"},
		{kind: hostname, ip: "192.168.0.5"},
		{kind: hostname, ip: "fe80::1", want: trust.AddressRange},
		{kind: hostname, ip: "240.0.0.1", want: trust.AddressRange},
		{kind: hostname, ip: "192.168.0.1", want: trust.AddressConflict},
		{kind: hostname, ip: "192.168.0.3", want: trust.AddressConflict},
		{ip: "10.2.0.9"},
		{ip: "192.168.0.9", want: trust.AddressRange}, // an ingress in a range of nodes
	} {
		n := nodeOf("w1", "192.168.0.2")
		n.PodCIDRs = slices.Clone(pods)
		switch {
		case c.pods != "":
			n.PodCIDRs = append([]netip.Prefix{prefix(c.pods)}, pods...)
		case c.kind != "":
			n.Addresses = append(n.Addresses, node.Address{Type: c.kind, IP: addr(c.ip)})
		default:
			n.IngressIPs = []netip.Addr{addr(c.ip)}
		}
		parts := func() int { return len(n.PodCIDRs) + len(n.Addresses) + len(n.IngressIPs) }
		all := parts()
		if err := j.Node(n); err != nil {
			t.Errorf("%+v costs the node: %v", c, err)
			continue
		}
		lost := j.Dropped()
		if c.want == "" && (len(lost) != 0 || parts() != all) {
			t.Errorf("%+v is lost: %v", c, lost)
		}
		if c.want != "" && (len(lost) != 1 || reasonOf(t, lost[0]) != c.want || parts() != all-1) {
			t.Errorf("%+v is not lost: %v, %+v", c, lost, n)
		}
		remote := &endpoint.Address{Prefix: prefix("192.168.0.2/32"), Identity: identity.RemoteNode}
		if got := reasonOf(t, j.Address(remote)); got != "" {
			t.Errorf("%+v: the node's address is %q", c, got)
		}
		if c.kind != "" {
			a := &endpoint.Address{Prefix: netip.PrefixFrom(addr(c.ip), addr(c.ip).BitLen()), Identity: identity.RemoteNode}
			if got := reasonOf(t, j.Address(a)); (got == "") != (c.kind == hostname && c.want == "") {
				t.Errorf("%+v is a node's address: %q", c, got)
			}
		}
	}
	n := nodeOf("w1", "192.168.0.2")
	n.Addresses = append(n.Addresses, node.Address{Type: hostname, IP: addr("192.168.0.3")})
	s.DropNode("s1")
	if err := j.Node(n); err != nil || len(j.Dropped()) != 0 {
		t.Errorf("what is free again is lost: %v", err)
	}
	if reasonOf(t, s.Node(nodeOf("s1", "192.168.0.3"))) != trust.AddressConflict {
		t.Error("two have one address")
	}
}

// Nobody makes us remember more than so many parts of a node.
func TestNodesAreBounded(t *testing.T) {
	t.Parallel()
	_, j := world(t)
	for count, want := range map[int]trust.Reason{64: "", 65: trust.TooLarge} {
		addresses, ranges := nodeOf("w1"), nodeOf("w1", "192.168.0.2")
		for i := range count {
			a := netip.AddrFrom4([4]byte{192, 168, 7, byte(i)})
			addresses.Addresses = append(addresses.Addresses, node.Address{Type: node.InternalIP, IP: a})
			ranges.PodCIDRs = append(ranges.PodCIDRs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i), 0}), 24))
		}
		for _, n := range []*node.Node{addresses, ranges} {
			if got := reasonOf(t, j.Node(n)); got != want {
				t.Errorf("%d: %q, want %q", count, got, want)
			}
		}
	}
}

// What gateways share is nobody's, of ours neither.
func TestExternalAddressesAreShared(t *testing.T) {
	t.Parallel()
	b, j := world(t)
	ours := nodeOf("e2", "192.168.0.20")
	ours.Addresses = append(ours.Addresses, node.Address{Type: node.ExternalIP, IP: addr("192.168.0.2")})
	b.Own(map[string]*node.Node{"e2": ours})
	j.Refresh()
	if err := j.Node(nodeOf("w1", "192.168.0.2")); err != nil {
		t.Error(err)
	}
}

// Nodes of two peers in one network have their addresses one by one; who waits is
// told when the other goes, or when it is ours no more.
func TestNodeAddressesOneByOne(t *testing.T) {
	t.Parallel()
	b, j := world(t)
	told := 0
	b.Claims("south", declared(time.Unix(1, 0), "pods", "10.3.0.0/16", "nodes", "192.168.0.0/16"), nil, func() { told++ })
	s := judge(b, "south", 3)
	steps := []struct {
		err  error
		want trust.Reason
	}{
		{j.Node(nodeOf("w1", "192.168.0.2")), ""},
		{j.Node(nodeOf("w2", "192.168.0.2", "192.168.0.4")), ""}, // its own is not another's
		{s.Node(nodeOf("s1", "192.168.0.3")), ""},
		{s.Node(nodeOf("s1", "192.168.0.3", "192.168.0.2")), trust.AddressConflict},
	}
	for i, step := range steps {
		if got := reasonOf(t, step.err); got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
	}
	if reasonOf(t, j.Node(nodeOf("w3", "192.168.0.3"))) != trust.AddressConflict {
		t.Error("a node that is refused lost the address that it had")
	}
	j.DropNode("w1")
	if told != 0 {
		t.Error("told though another node has the address")
	}
	j.DropNode("w2")
	if told != 1 || reasonOf(t, s.Node(nodeOf("s1", "192.168.0.3", "192.168.0.2"))) != "" {
		t.Errorf("told %d times, and it is not free", told)
	}
	b.Own(map[string]*node.Node{"e2": nodeOf("e2", "192.168.0.3")})
	s.Refresh()
	if told != 2 || reasonOf(t, s.Node(nodeOf("s1", "192.168.0.3"))) != trust.AddressConflict {
		t.Errorf("told %d times that it is ours", told)
	}
	b.Own(map[string]*node.Node{"e2": nil})
	s.Refresh()
	if told != 3 || reasonOf(t, s.Node(nodeOf("s1", "192.168.0.3"))) != "" {
		t.Errorf("told %d times that it is not ours any more", told)
	}
	if reasonOf(t, j.Node(nodeOf("w3", "192.168.0.3"))) != trust.AddressConflict {
		t.Error("two have one address")
	}
	b.Remove("south")
	if reasonOf(t, j.Node(nodeOf("w3", "192.168.0.3"))) != "" {
		t.Error("a peer that is gone has an address")
	}
}

// Nodes of ours that come in a network that a peer's nodes are in concern it only if
// it named their addresses.
func TestNodesOfOurs(t *testing.T) {
	t.Parallel()
	b, _ := world(t)
	told := 0
	b.Claims("west", declared(time.Unix(2, 0), "pods", "10.2.0.0/16", "nodes", "192.168.0.0/16"), []trust.Class{trust.Mesh}, func() { told++ })
	j := judge(b, "west", 2)
	if err := j.Node(nodeOf("w1", "192.168.0.2")); err != nil {
		t.Fatal(err)
	}
	on := func(ip string) {
		a := &endpoint.Address{Prefix: prefix("10.2.0.1/32"), HostIP: addr(ip), Identity: first}
		if err := j.Address(a); err != nil {
			t.Fatal(err)
		}
	}
	come := func(name, ip string) { b.Own(map[string]*node.Node{name: nodeOf(name, ip)}) }
	on("192.168.0.2")
	if come("e2", "192.168.0.20"); told != 0 {
		t.Error("told of a node that does not concern it")
	}
	if come("e3", "192.168.0.2"); told != 1 {
		t.Error("not told that its node's address is ours")
	}
	b.Own(map[string]*node.Node{"e3": nil})
	told = 0
	j.Refresh()
	on("192.168.0.30") // no node of west's
	if come("e4", "192.168.0.30"); told != 1 {
		t.Error("not told that a host that it named is ours")
	}
	j.Refresh()
	if reasonOf(t, j.Address(&endpoint.Address{Prefix: prefix("10.2.0.1/32"), HostIP: addr("192.168.0.30"), Identity: first})) != trust.AddressConflict {
		t.Error("a host that is ours")
	}
	if come("e4", "192.168.0.31"); told != 2 {
		t.Error("not told that what it was refused is free")
	}
	told = 0
	j.Anew()
	b.Own(map[string]*node.Node{"e5": {PodCIDRs: []netip.Prefix{prefix("192.168.0.0/24")}}})
	if told != 1 {
		t.Error("not told that a range around its nodes is ours")
	}
}
