package observe

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
)

// seen leaves the Event out.
type seen struct {
	From, To            Party
	Cluster, TunnelNode string
	Identity, Known     []string
}

func TestNames(t *testing.T) {
	n := names{read: BookOf(newEngine())}
	in, out, host, nobody := dropped(80), dropped(80), dropped(80), Event{Direction: ToMesh}
	out.Direction, out.Source, out.Destination = ToMesh, in.Destination, in.Source
	host.Source = netip.MustParseAddrPort("192.0.2.2:1")
	host.Identity, host.Known, host.Tunnel = 6, 0, netip.MustParseAddr("192.0.9.9")
	east := Party{Cluster: "east", Node: "n1", Namespace: "shop", Pod: "east-0"}
	west := Party{Cluster: "west", Node: "n1", Namespace: "shop", Pod: "west-0"}
	want := []seen{
		{From: west, To: east, Cluster: "west", TunnelNode: "n1", Identity: []string{"k8s:app=west-app"}},
		{From: east, To: west, Cluster: "west", TunnelNode: "n1", Identity: []string{"k8s:app=west-app"}},
		{From: Party{Cluster: "west", Node: "n2"}, To: east, Cluster: "west", Identity: []string{"reserved:remote-node="}},
		{},
	}
	var got []seen
	for _, s := range n.resolve("n1", []Event{in, out, host, nobody}) {
		got = append(got, seen{s.From, s.To, s.Cluster, s.TunnelNode, s.IdentityLabels, s.KnownLabels})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An address of two nodes is one's only in its cluster; nodes that come later
// are known later.
func TestNodesThatChange(t *testing.T) {
	engine := newEngine()
	n := names{read: BookOf(engine)}
	e := dropped(80)
	e.Tunnel = netip.MustParseAddr("192.0.2.1")
	engine.Apply("north", merge.Update{Nodes: map[string]*node.Node{
		"twin": {ClusterID: 3, Addresses: []node.Address{{Type: node.InternalIP, IP: e.Tunnel}}},
	}})
	tunnel := func(id cluster.ID) string {
		e.ClusterID = id
		return n.resolve("n1", []Event{e})[0].TunnelNode
	}
	if got := []string{tunnel(0), tunnel(2)}; !cmp.Equal(got, []string{"", "n1"}) {
		t.Errorf("the twins are %q", got)
	}
	engine.Apply("west", merge.Update{Nodes: map[string]*node.Node{"n1": nil}})
	if got := tunnel(2); got != "n1" {
		t.Errorf("at once: %q", got)
	}
	n.made = n.made.Add(-nodesFor - time.Second)
	if got := []string{tunnel(0), tunnel(2)}; !cmp.Equal(got, []string{"twin", "twin"}) {
		t.Errorf("later: %q", got)
	}
}
