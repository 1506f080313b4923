package merge

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
)

func whoIsWho() *State {
	s := New("east")
	host := netip.MustParseAddr("172.18.0.2")
	s.Apply("west", Update{
		Nodes: map[string]*node.Node{"n1": {Addresses: []node.Address{{Type: node.InternalIP, IP: host}}}},
		Identities: map[identity.Number]*identity.Identity{
			131328: {Labels: "k8s:app=web;any:tier=front;"},
		},
		Addresses: map[netip.Prefix]*endpoint.Address{
			netip.MustParsePrefix("10.2.0.1/32"): {HostIP: host, Identity: 131328, Namespace: "shop", Pod: "web-0", ServiceAccount: "sa"},
			netip.MustParsePrefix("10.2.9.0/24"): {Identity: 131329},
			netip.MustParsePrefix("fd00::1/128"): {HostIP: netip.MustParseAddr("172.18.0.3"), Identity: identity.Unmanaged},
		},
	})
	return s
}

func TestDirectory(t *testing.T) {
	var got [][]any
	for _, e := range whoIsWho().Directory().Entries(Filter{}) {
		got = append(got, []any{e.Address(), e.Cluster, e.Node, e.Namespace, e.Pod, int(e.Identity), e.LabelList()})
	}
	want := [][]any{
		{"10.2.0.1", "west", "n1", "shop", "web-0", 131328, []string{"k8s:app=web", "any:tier=front"}},
		{"10.2.9.0/24", "west", "", "", "", 131329, []string(nil)},
		{"172.18.0.2", "west", "n1", "", "", 6, []string{"reserved:remote-node="}},
		{"fd00::1", "west", "172.18.0.3", "", "", 3, []string{"reserved:unmanaged="}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFilter(t *testing.T) {
	d := whoIsWho().Directory()
	for _, c := range []struct {
		within string
		f      Filter
		want   []string
	}{
		{"10.2.0.1", Filter{}, []string{"10.2.0.1"}},
		{"10.2.9.77", Filter{}, []string{"10.2.9.0/24"}},
		{"10.2.0.0/16", Filter{}, []string{"10.2.0.1", "10.2.9.0/24"}},
		{"", Filter{Cluster: "north"}, nil},
		{"", Filter{Node: "n1"}, []string{"10.2.0.1", "172.18.0.2"}},
		{"", Filter{Namespace: "shop", Pod: "web-0"}, []string{"10.2.0.1"}},
		{"", Filter{Identity: 3}, []string{"fd00::1"}},
		{"", Filter{Labels: []string{"app=web", "any:tier=front"}}, []string{"10.2.0.1"}},
		{"", Filter{Labels: []string{"k8s:tier=front"}}, nil},
		{"", Filter{Labels: []string{"app=we"}}, nil},
	} {
		f, err := ParseFilter(c.f, c.within)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range d.Entries(f) {
			got = append(got, e.Address())
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%q %+v (-want +got):\n%s", c.within, c.f, diff)
		}
	}
	for _, bad := range []string{"10.2.0", "10.2.0.0/33"} {
		if _, err := ParseFilter(Filter{}, bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := ParseFilter(Filter{Labels: []string{"=x"}}, ""); err == nil {
		t.Error("a label without a key is taken")
	}
}
