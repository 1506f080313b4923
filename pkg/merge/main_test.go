package merge

import (
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	http     = service.Port{Name: "http", Protocol: service.TCP, Port: 80}
	http8080 = service.Port{Name: "http", Protocol: service.TCP, Port: 8080}
	web      = service.Name{Namespace: "shop", Name: "web"}
	ready    = service.Condition{Ready: true, Serving: true}
	dying    = service.Condition{Serving: true, Terminating: true}
	byAddr   = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	byPrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
)

// nodes is what the nodes have after the deltas that it was given. It fails
// the test when a delta holds what the nodes have already.
type nodes struct {
	t      *testing.T
	views  map[service.Name]*service.View
	slices map[service.BackendSliceKey]*service.BackendSlice
	// who is who
	nodes      map[node.Key]*node.Node
	identities map[identity.Number]*identity.Identity
	addresses  map[netip.Prefix]*endpoint.Owner
}

func newNodes(t *testing.T) *nodes {
	return &nodes{
		t: t, views: map[service.Name]*service.View{}, slices: map[service.BackendSliceKey]*service.BackendSlice{},
		nodes: map[node.Key]*node.Node{}, identities: map[identity.Number]*identity.Identity{}, addresses: map[netip.Prefix]*endpoint.Owner{},
	}
}

func (n *nodes) Apply(d Delta) {
	n.t.Helper()
	put(n.t, n.views, d.Services.Views)
	put(n.t, n.slices, d.Services.Slices)
	put(n.t, n.nodes, d.Nodes)
	put(n.t, n.identities, d.Identities)
	put(n.t, n.addresses, d.Addresses)
}

func put[K comparable, V any](t *testing.T, have, changes map[K]*V) {
	t.Helper()
	for key, value := range changes {
		if cmp.Equal(have[key], value, byAddr, byPrefix) {
			t.Errorf("delta holds %v, which is no change: %+v", key, value)
		}
		if value == nil {
			delete(have, key)
		} else {
			have[key] = value
		}
	}
}

func (n *nodes) delta() Delta {
	return Delta{
		Services: service.Delta{Views: maps.Clone(n.views), Slices: maps.Clone(n.slices)},
		Nodes:    maps.Clone(n.nodes), Identities: maps.Clone(n.identities), Addresses: maps.Clone(n.addresses),
	}
}

// svc is shop/web as a cluster has it, global and shared.
func svc(change ...func(*service.Service)) *service.Service {
	s := &service.Service{
		Name:      web,
		Frontends: []service.Frontend{{IP: netip.MustParseAddr("10.96.0.7"), Ports: []service.Port{http}}},
		Global:    true,
		Shared:    true,
		Affinity:  service.AffinityNone,
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func notGlobal(s *service.Service) { s.Global, s.Shared = false, false }
func notShared(s *service.Service) { s.Shared = false }
func headless(s *service.Service)  { s.Frontends, s.Headless = nil, true }
func affinity(a service.Affinity) func(*service.Service) {
	return func(s *service.Service) { s.Affinity = a }
}

func backends(ips ...string) func(*service.Service) {
	return func(s *service.Service) {
		for _, ip := range ips {
			s.Backends = append(s.Backends, service.Backend{IP: netip.MustParseAddr(ip), Ports: []service.Port{http8080}})
		}
	}
}

func pod(ip string, c service.Condition) service.Endpoint {
	return service.Endpoint{
		Addresses:  []netip.Addr{netip.MustParseAddr(ip)},
		Condition:  c,
		Node:       "node-1",
		TargetKind: "Pod",
		TargetName: "pod-" + ip,
	}
}

// slice is a slice of shop/web.
func slice(endpoints ...service.Endpoint) *service.Slice {
	return &service.Slice{Namespace: "shop", Service: "web", Endpoints: endpoints, Ports: []service.Port{http8080}}
}

func many(n int) []service.Endpoint {
	out := make([]service.Endpoint, n)
	for i := range out {
		out[i] = pod(fmt.Sprintf("10.%d.%d.%d", 1+i>>16, i>>8&255, i&255), ready)
	}
	return out
}

func services(s *service.Service) Update {
	return Update{Services: map[service.Name]*service.Service{web: s}}
}

func sliceNamed(name string, s *service.Slice) Update {
	return Update{Slices: map[SliceName]*service.Slice{{Namespace: "shop", Name: name}: s}}
}

// ips returns the addresses that the nodes have of shop/web, by cluster.
func (n *nodes) ips() map[string][]string {
	out := map[string][]string{}
	for key, s := range n.slices {
		for _, e := range s.Endpoints {
			out[key.Cluster] = append(out[key.Cluster], e.IP.String())
		}
	}
	return out
}
