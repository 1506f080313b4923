package packet

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func addrs(all ...string) []netip.Addr {
	var list []netip.Addr
	for _, s := range all {
		list = append(list, addr(s))
	}
	return list
}

func prefixes(all ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range all {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

// The world of these tests: this node is n1 of east, cluster 1; west is cluster
// 2, south cluster 3. Pods have the identity of their place.
const (
	eastPod  = identity.Number(1<<16 | 0x100)
	westPod  = identity.Number(2<<16 | 0x200)
	southPod = identity.Number(3<<16 | 0x300)
)

func self() *route.Self {
	return &route.Self{
		Cluster: "east", ID: 1, Node: "n1", Mesh: addrs("10.200.0.1", "fd00:200::1"),
		Pods: prefixes("10.1.0.0/16", "fd00:1::/64"), Underlay: addrs("192.0.2.1", "2001:db8::1"),
	}
}

func key(cluster, name string) node.Key { return node.Key{Cluster: cluster, Name: name} }

// world is the complete state.
func world() Change {
	return Change{
		Self: self(), Size: 255,
		Nodes: []Node{
			{Key: key("east", "n1"), Cluster: 1, Underlay: addrs("192.0.2.1", "2001:db8::1"), Mesh: addrs("10.200.0.1", "fd00:200::1")},
			{Key: key("east", "n2"), Cluster: 1, Underlay: addrs("192.0.2.4"), Mesh: addrs("10.200.0.2")},
			{Key: key("west", "n1"), Cluster: 2, Underlay: addrs("192.0.2.2", "2001:db8::2"), Mesh: addrs("10.201.0.1", "fd00:201::1")},
			{Key: key("west", "n2"), Cluster: 2, Underlay: addrs("2001:db8::22"), Mesh: addrs("10.201.0.2")},
			{Key: key("south", "n1"), Cluster: 3, Underlay: addrs("192.0.2.3"), Mesh: addrs("10.202.0.1")},
		},
		Addresses: []Address{
			{Addr: addr("10.1.0.5"), Cluster: 1, Identity: eastPod, Host: addr("192.0.2.1")},
			{Addr: addr("fd00:1::5"), Cluster: 1, Identity: eastPod, Host: addr("2001:db8::1")},
			{Addr: addr("10.1.1.5"), Cluster: 1, Identity: eastPod, Host: addr("192.0.2.4")}, // on n2
			{Addr: addr("10.1.9.9"), Cluster: 1, Identity: eastPod},                          // nobody knows where
			{Addr: addr("192.0.2.1"), Cluster: 1, Identity: eastPod, Host: addr("192.0.2.1")},
			{Addr: addr("2001:db8::1"), Cluster: 1, Identity: eastPod, Host: addr("192.0.2.1")},
			{Addr: addr("10.2.0.7"), Cluster: 2, Identity: westPod, Host: addr("192.0.2.2")},
			{Addr: addr("fd00:2::7"), Cluster: 2, Identity: westPod, Host: addr("2001:db8::2")},
			{Addr: addr("10.2.2.7"), Cluster: 2, Identity: westPod, Host: addr("2001:db8::22")},
			{Addr: addr("10.2.9.9"), Cluster: 2, Identity: westPod},
			{Addr: addr("10.2.9.8"), Cluster: 2, Identity: westPod, Host: addr("192.0.2.3")}, // on a node of south's
			{Addr: addr("10.2.9.7"), Cluster: 2, Identity: westPod, Host: addr("192.0.2.99")},
			{Addr: addr("10.2.9.6"), Cluster: 2, Identity: westPod, Host: addr("192.0.2.1")}, // on this node, says west
			{Addr: addr("10.3.0.8"), Cluster: 3, Identity: southPod, Host: addr("192.0.2.3")},
		},
		Ranges: []Range{
			{netip.MustParsePrefix("10.2.0.0/16"), 2},
			{netip.MustParsePrefix("fd00:2::/64"), 2},
			{netip.MustParsePrefix("10.3.0.0/16"), 3},
			{netip.MustParsePrefix("10.2.128.0/24"), 3},
		},
	}
}

func config(t testing.TB) Config {
	t.Helper()
	return Config{
		BPFFS: sandbox.BPFFS(t) + "/causeway", Device: "mesh0", MapCapacity: 4096,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func open(t testing.TB, c Config) *Plane {
	t.Helper()
	p, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func apply(t testing.TB, p *Plane, c Change) {
	t.Helper()
	if err := p.Apply(c); err != nil {
		t.Fatal(err)
	}
}

// prepared returns a plane with the world in it.
func prepared(t testing.TB) *Plane {
	t.Helper()
	p := open(t, config(t))
	apply(t, p, world())
	t.Cleanup(func() {
		if err := p.Remove(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// counts returns the packets by direction and reason, without zeroes.
func counts(t testing.TB, p *Plane) map[Direction]map[Reason]uint64 {
	t.Helper()
	all, err := p.Counts()
	if err != nil {
		t.Fatal(err)
	}
	by := map[Direction]map[Reason]uint64{ToMesh: {}, FromMesh: {}}
	for _, c := range all {
		if c.Packets > 0 {
			by[c.Direction][c.Reason] = c.Packets
		}
	}
	return by
}

// moved returns the one reason of which there are more than before.
func moved(t testing.TB, p *Plane, d Direction, before map[Direction]map[Reason]uint64) (Reason, error) {
	t.Helper()
	now, found, more := counts(t, p), Reason(0), uint64(0)
	for direction, by := range now {
		for r, n := range by {
			if n != before[direction][r] {
				more += n - before[direction][r]
				found = r
				if direction != d {
					return r, errors.New("counted in the other direction")
				}
			}
		}
	}
	if more != 1 {
		return found, errors.New("not counted once")
	}
	return found, nil
}
