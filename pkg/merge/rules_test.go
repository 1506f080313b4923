package merge

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// What the own cluster's service says about its clients stands in the view, and
// each change of it makes a new one; what a peer says of its own clients does not.
func TestRules(t *testing.T) {
	name := service.Name{Namespace: "shop", Name: "web"}
	front := []service.Frontend{{IP: netip.MustParseAddr("10.96.0.1"), Ports: []service.Port{{Protocol: service.TCP, Port: 80}}}}
	external := []service.Frontend{{IP: netip.MustParseAddr("192.0.2.1"), Ports: front[0].Ports}}
	s := New("east")
	give := func(cluster string, r service.Rules) *service.View {
		d := s.Apply(cluster, Update{Services: map[service.Name]*service.Service{name: {
			Name: name, Cluster: cluster, Global: true, Shared: true, Frontends: front, Rules: r,
		}}})
		return d.Services.Views[name]
	}
	if v := give("east", service.Rules{}); v == nil || !v.Rules.Equal(service.Rules{}) {
		t.Fatalf("%+v", v)
	}
	for _, r := range []service.Rules{
		{Session: time.Hour},
		{Session: time.Hour, NodeLocal: true},
		{Session: time.Hour, NodeLocal: true, External: external},
		{External: external},
		{},
	} {
		v := give("east", r)
		if v == nil {
			t.Fatalf("%+v changes nothing", r)
		}
		if diff := cmp.Diff(r, v.Rules, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Error(diff)
		}
		if again := give("east", r); again != nil {
			t.Errorf("said again, %+v is a change", r)
		}
	}
	if v := give("west", service.Rules{Session: time.Hour, NodeLocal: true}); v == nil || !v.Rules.Equal(service.Rules{}) {
		t.Errorf("a peer's rules count: %+v", v)
	}
}
