package merge

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
)

func TestOwner(t *testing.T) {
	s := whoIsWho()
	got, ok := s.Owner(netip.MustParseAddr("10.2.0.1"))
	want := endpoint.Owner{Cluster: "west", Identity: 131328, HostIP: netip.MustParseAddr("172.18.0.2"), Namespace: "shop", Pod: "web-0"}
	if !ok || got != want {
		t.Errorf("got %+v, %t", got, ok)
	}
	for _, a := range []string{"10.2.9.1", "10.2.0.2", "172.18.0.2", "::ffff:10.2.0.1"} {
		if got, ok := s.Owner(netip.MustParseAddr(a)); ok {
			t.Errorf("%s is %+v", a, got)
		}
	}
}

// What an identity means stays known while an address has it.
func TestLabels(t *testing.T) {
	s := whoIsWho()
	for _, state := range []string{"said", "kept"} {
		for n, want := range map[identity.Number]identity.Labels{
			131328: "k8s:app=web;any:tier=front;", 131329: "", identity.Unmanaged: "reserved:unmanaged=;", identity.None: "",
		} {
			if got := s.Labels(n); got != want {
				t.Errorf("%s: %d is %q, want %q", state, n, got, want)
			}
		}
		s.Apply("west", Update{Identities: map[identity.Number]*identity.Identity{131328: nil}})
	}
}

func TestAllNodes(t *testing.T) {
	s := whoIsWho()
	s.Apply("east", Update{Nodes: map[string]*node.Node{"n1": {}}})
	got := map[node.Key]string{}
	nodes := s.AllNodes()
	for key, n := range nodes {
		got[key] = n.Cluster + "/" + n.Name
	}
	want := map[node.Key]string{{Cluster: "east", Name: "n1"}: "east/n1", {Cluster: "west", Name: "n1"}: "west/n1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	clear(nodes)
	if len(s.AllNodes()) != 2 {
		t.Error("the map is the state's own")
	}
}
