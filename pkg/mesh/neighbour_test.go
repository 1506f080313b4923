package mesh

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// TestNeighbours: who can be asked whether packets arrive follows what the feed
// says of nodes, ranges and this node's pods.
func TestNeighbours(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	addrs := func(texts ...string) (out []netip.Addr) {
		for _, text := range texts {
			out = append(out, netip.MustParseAddr(text))
		}
		return out
	}
	want := &probe.Neighbours{Cluster: "east", Node: "e1", Mesh: addrs("10.200.1.1"), Pods: addrs("10.1.0.5"), ID: 1, Peers: []probe.Peer{
		{Cluster: "west", Mode: route.VXLAN, ID: 2, Nodes: []probe.Node{{Name: "w1", Mesh: addrs("10.200.2.1")}}},
	}}
	is := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, r.asked.Load(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	r.say(feed.Reach{All: true, Whole: true}, two)
	is("at first")

	// Of the pods on this node one is enough, of others none counts.
	one, elsewhere := prefix("10.1.0.4/32"), prefix("10.1.0.3/32")
	r.say(feed.Reach{Addresses: []netip.Prefix{one, elsewhere}}, func(s *told) {
		s.addresses[one] = &endpoint.Owner{Cluster: "east", Identity: 65800, HostIP: netip.MustParseAddr("192.0.2.11")}
		s.addresses[elsewhere] = &endpoint.Owner{Cluster: "east", Identity: 65800, HostIP: netip.MustParseAddr("192.0.2.12")}
	})
	want.Pods = addrs("10.1.0.4")
	is("with another pod")
	r.say(feed.Reach{Addresses: []netip.Prefix{one, prefix("10.1.0.5/32")}}, func(s *told) {
		delete(s.addresses, one)
		delete(s.addresses, prefix("10.1.0.5/32"))
	})
	want.Pods = []netip.Addr{}
	is("without pods")

	r.say(feed.Reach{Nodes: true}, func(s *told) { s.setNode(machine("west", "w0", 2, "192.0.2.22", "")) })
	want.Peers[0].Nodes = []probe.Node{{Name: "w0"}, {Name: "w1", Mesh: addrs("10.200.2.1")}}
	is("with a node that has no mesh address")

	r.say(feed.Reach{Ranges: []netip.Prefix{prefix("10.200.2.1/32")}}, func(s *told) { delete(s.ranges, prefix("10.200.2.1/32")) })
	want.Peers[0].Nodes[1].Mesh = nil
	is("with a mesh address outside of the peer's ranges")

	r.say(feed.Reach{Nodes: true}, func(s *told) { s.setNode(machine("east", "e1", 1, "192.0.2.11", "")) })
	want = nil
	is("without a part in it")
}
