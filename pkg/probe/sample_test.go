package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/route"
)

func nodesOf(peer, n int) []Node {
	var out []Node
	for i := range n {
		out = append(out, Node{Name: fmt.Sprintf("n%d", i), Mesh: []netip.Addr{
			netip.AddrFrom4([4]byte{10, byte(peer), byte(i >> 8), byte(i)}),
		}})
	}
	return out
}

func large(node string, peers, nodes int) *Neighbours {
	n := &Neighbours{Cluster: "east", Node: node, Mesh: []netip.Addr{ourMesh}}
	for i := range peers {
		n.Peers = append(n.Peers, Peer{Cluster: fmt.Sprintf("p%d", i), Mode: route.VXLAN, Nodes: nodesOf(i, nodes)})
	}
	return n
}

func TestSampleIsBounded(t *testing.T) {
	for _, test := range []struct{ peers, nodes, want, least int }{
		{1, 3, 3, 3}, {1, 5000, PerPeer, PerPeer}, {4, 100, 4 * PerPeer, PerPeer}, {20, 100, Paths, 3}, {100, 10, Paths, 0}, {0, 0, 0, 0},
	} {
		got := sample(large("e1", test.peers, test.nodes))
		each := map[string]int{}
		for _, target := range got {
			each[target.cluster]++
		}
		least := PerPeer
		for i := range test.peers {
			least = min(least, each[fmt.Sprintf("p%d", i)])
		}
		if test.peers == 0 {
			least = 0
		}
		if len(got) != test.want || least != test.least {
			t.Errorf("%d peers of %d nodes: %d targets, at least %d a peer; want %d and %d", test.peers, test.nodes, len(got), least, test.want, test.least)
		}
	}
}

// A node that goes, or comes, changes the choice by one; nodes of ours choose
// different ones, so that together they ask all.
func TestSampleIsSteadyAndSpread(t *testing.T) {
	n := large("e1", 1, 100)
	before := sample(n)
	gone := before[3].node
	n.Peers[0].Nodes = slices.DeleteFunc(n.Peers[0].Nodes, func(n Node) bool { return n.Name == gone })
	after := sample(n)
	stay := 0
	for _, target := range after {
		if slices.Contains(before, target) {
			stay++
		}
	}
	if stay != PerPeer-1 {
		t.Errorf("%d of %d stay", stay, PerPeer)
	}
	asked := map[string]int{}
	for i := range 200 {
		for _, target := range sample(large(fmt.Sprintf("e%d", i), 1, 100)) {
			asked[target.node]++
		}
	}
	if len(asked) != 100 {
		t.Errorf("%d of 100 nodes are asked by 200", len(asked))
	}
	for node, times := range asked { // 16 on average
		if times > 48 {
			t.Errorf("%s is asked by %d", node, times)
		}
	}
}

func TestSampleOfFamiliesAndModes(t *testing.T) {
	our6, their6 := netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::2")
	n := &Neighbours{Cluster: "east", Node: "e1", Mesh: []netip.Addr{ourMesh, our6}, Peers: []Peer{
		{Cluster: "both", Mode: route.VXLAN, Nodes: []Node{{Name: "b", Mesh: []netip.Addr{theirMesh, their6}}}},
		{Cluster: "native", Mode: route.Native, Nodes: []Node{{Name: "n", Mesh: []netip.Addr{theirMesh}}}},
		{Cluster: "six", Mode: route.VXLAN, Nodes: []Node{{Name: "s", Mesh: []netip.Addr{their6}}, {Name: "none"}}},
	}}
	want := []target{
		{cluster: "both", node: "b", from: ourMesh, to: theirMesh},
		{cluster: "six", node: "s", from: our6, to: their6},
		{cluster: "both", node: "b", from: our6, to: their6},
	}
	if diff := cmp.Diff(want, sample(n), cmp.AllowUnexported(target{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
