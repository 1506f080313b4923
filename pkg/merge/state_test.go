package merge

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// Each combination of what the two sides say, and what the nodes of east get.
func TestGlobalSharedAffinity(t *testing.T) {
	all := map[string][]string{"east": {"10.1.0.1"}, "west": {"10.2.0.1"}}
	own := map[string][]string{"east": {"10.1.0.1"}}
	group := func(tier uint8, clusters ...string) service.Group {
		return service.Group{Clusters: clusters, Tier: tier}
	}
	for name, c := range map[string]struct {
		east, west *service.Service
		ips        map[string][]string
		groups     []service.Group
	}{
		"both":                        {svc(), svc(), all, []service.Group{group(0, "east", "west")}},
		"west not global":             {svc(), svc(notGlobal), own, []service.Group{group(0, "east")}},
		"west not shared":             {svc(), svc(notShared), own, []service.Group{group(0, "east")}},
		"west has slices only":        {svc(), nil, own, []service.Group{group(0, "east")}},
		"east not global":             {svc(notGlobal), svc(), map[string][]string{}, nil},
		"east lacks it":               {nil, svc(), map[string][]string{}, nil},
		"east not shared uses west's": {svc(notShared), svc(), all, []service.Group{group(0, "east", "west")}},
		"east headless":               {svc(headless), svc(), map[string][]string{}, nil},
		"west headless":               {svc(), svc(headless), all, []service.Group{group(0, "east", "west")}},
		"local":                       {svc(affinity(service.AffinityLocal)), svc(), all, []service.Group{group(0, "east"), group(1, "west")}},
		"remote":                      {svc(affinity(service.AffinityRemote)), svc(), all, []service.Group{group(0, "west"), group(1, "east")}},
		"remote without one":          {svc(affinity(service.AffinityRemote)), svc(notShared), own, []service.Group{group(0, "east")}},
		"west's affinity is its own":  {svc(), svc(affinity(service.AffinityLocal)), all, []service.Group{group(0, "east", "west")}},
	} {
		t.Run(name, func(t *testing.T) {
			s, n := New("east"), newNodes(t)
			n.Apply(s.Apply("east", sliceNamed("web-1", slice(pod("10.1.0.1", ready)))))
			n.Apply(s.Apply("west", sliceNamed("web-1", slice(pod("10.2.0.1", ready)))))
			n.Apply(s.Apply("east", services(c.east)))
			n.Apply(s.Apply("west", services(c.west)))
			if diff := cmp.Diff(c.ips, n.ips()); diff != "" {
				t.Errorf("backends (-want +got):\n%s", diff)
			}
			var groups []service.Group
			if v := n.views[web]; v != nil {
				groups = v.Groups
			}
			if diff := cmp.Diff(c.groups, groups); diff != "" {
				t.Errorf("groups (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	s, n := New("east"), newNodes(t)
	n.Apply(s.Apply("east", services(svc())))
	twice := pod("10.1.0.3", ready)
	twice.Addresses = append(twice.Addresses, netip.MustParseAddr("10.1.0.4"))
	n.Apply(s.Apply("east", sliceNamed("web-1", slice(
		pod("10.1.0.1", service.Condition{}),
		pod("10.1.0.2", dying),
		twice,
		pod("10.1.0.5", service.Condition{Serving: true}),
		pod("10.1.0.6", service.Condition{Terminating: true}),
		service.Endpoint{Condition: ready},
	))))
	key := service.BackendSliceKey{Service: web, Cluster: "east", Slice: "web-1"}
	want := &service.BackendSlice{
		BackendSliceKey: key,
		Ports:           []service.Port{http8080},
		Endpoints: []service.BackendEndpoint{
			{IP: netip.MustParseAddr("10.1.0.2"), State: service.BackendTerminating, Node: "node-1", Pod: "pod-10.1.0.2"},
			{IP: netip.MustParseAddr("10.1.0.3"), State: service.BackendReady, Node: "node-1", Pod: "pod-10.1.0.3"},
		},
	}
	if diff := cmp.Diff(want, n.slices[key], byAddr); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	n.Apply(s.Apply("east", sliceNamed("web-1", slice(pod("10.1.0.1", service.Condition{})))))
	if len(n.slices) != 0 {
		t.Errorf("a slice without a usable endpoint is still there: %v", n.ips())
	}
}

// A peer that publishes no slices is read by its service values, one that
// begins or ceases to publish them changes over at once.
func TestServiceValueBackends(t *testing.T) {
	s, n := New("east"), newNodes(t)
	n.Apply(s.Apply("east", services(svc(backends("10.9.9.9"))))) // the own cluster's are in slices only
	n.Apply(s.Apply("west", services(svc(backends("10.2.0.1", "10.2.0.2")))))
	expect := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(map[string][]string{"west": want}, n.ips()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	expect("10.2.0.1", "10.2.0.2")

	d := s.Apply("west", sliceNamed("web-1", slice(pod("10.2.0.2", ready))))
	if len(d.Services.Slices) != 2 || len(d.Services.Views) != 0 {
		t.Errorf("change to slices: %d slices and %d views changed, want 2 and 0", len(d.Services.Slices), len(d.Services.Views))
	}
	n.Apply(d)
	expect("10.2.0.2")

	d = s.Apply("west", services(svc(backends("10.2.0.3"))))
	if !d.Empty() {
		t.Errorf("the service value changed the backends though there are slices: %+v", d)
	}
	n.Apply(s.Apply("west", sliceNamed("web-1", nil)))
	expect("10.2.0.3")
}

func TestServiceValuePortSets(t *testing.T) {
	s, n := New("east"), newNodes(t)
	n.Apply(s.Apply("east", services(svc())))
	other := svc(backends("10.2.0.1", "10.2.0.2", "10.2.0.3"))
	other.Backends[1].Ports = []service.Port{{Name: "http", Protocol: service.TCP, Port: 9000}}
	n.Apply(s.Apply("west", services(other)))
	got := map[uint16]int{}
	for _, sl := range n.slices {
		got[sl.Ports[0].Port] += len(sl.Endpoints)
	}
	if diff := cmp.Diff(map[uint16]int{8080: 2, 9000: 1}, got); diff != "" {
		t.Errorf("endpoints by port (-want +got):\n%s", diff)
	}
}

func TestLargeSlicesAreCut(t *testing.T) {
	s, n := New("east"), newNodes(t)
	n.Apply(s.Apply("east", services(svc())))
	endpoints := many(250)
	n.Apply(s.Apply("west", services(svc())))
	n.Apply(s.Apply("west", sliceNamed("web-1", slice(endpoints...))))
	sizes := map[int]int{}
	for key, sl := range n.slices {
		sizes[key.Part] = len(sl.Endpoints)
	}
	if diff := cmp.Diff(map[int]int{0: 100, 1: 100, 2: 50}, sizes); diff != "" {
		t.Errorf("endpoints by part (-want +got):\n%s", diff)
	}

	changed := append([]service.Endpoint(nil), endpoints...)
	changed[150].Condition = service.Condition{}
	d := s.Apply("west", sliceNamed("web-1", slice(changed...)))
	if len(d.Services.Slices) != 1 {
		t.Errorf("one endpoint changed %d parts, want 1", len(d.Services.Slices))
	}
	n.Apply(d)
	n.Apply(s.Apply("west", sliceNamed("web-1", slice(endpoints[:120]...))))
	if len(n.slices) != 2 {
		t.Errorf("%d parts for 120 endpoints, want 2", len(n.slices))
	}
}

// A slice may be given to another service, of which the key alone says nothing.
func TestSliceChangesHands(t *testing.T) {
	s, n := New("east"), newNodes(t)
	api := service.Name{Namespace: "shop", Name: "api"}
	n.Apply(s.Apply("east", Update{Services: map[service.Name]*service.Service{web: svc(), api: svc()}}))
	n.Apply(s.Apply("east", sliceNamed("x", slice(pod("10.1.0.1", ready)))))
	moved := slice(pod("10.1.0.1", ready))
	moved.Service = "api"
	n.Apply(s.Apply("east", sliceNamed("x", moved)))
	for key := range n.slices {
		if key.Service != api {
			t.Errorf("slice is still %v's", key.Service)
		}
	}
	lost := slice(pod("10.1.0.1", ready))
	lost.Service = ""
	n.Apply(s.Apply("east", sliceNamed("x", lost)))
	if len(n.slices) != 0 {
		t.Errorf("a slice of no service is used: %v", n.slices)
	}
	n.Apply(s.Apply("east", sliceNamed("x", nil)))
	if got := s.Counts()["east"].Slices; got != 0 {
		t.Errorf("%d slices counted, want 0", got)
	}
}

func TestCountsAndRemove(t *testing.T) {
	s, n := New("east"), newNodes(t)
	u := services(svc())
	u.Slices = sliceNamed("web-1", slice(pod("10.2.0.1", ready))).Slices
	u.Nodes = map[string]*node.Node{"a": {}, "b": {}}
	u.Addresses = map[netip.Prefix]*endpoint.Address{netip.MustParsePrefix("10.2.0.1/32"): {}}
	u.Identities = map[identity.Number]*identity.Identity{70000: {}, 70001: {}, 70002: {}}
	n.Apply(s.Apply("west", u))
	n.Apply(s.Apply("west", Update{Nodes: map[string]*node.Node{"b": nil, "c": nil}}))
	want := map[string]Counts{"west": {Nodes: 1, Addresses: 1, Identities: 3, Services: 1, Slices: 1}}
	if diff := cmp.Diff(want, s.Counts()); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}

	n.Apply(s.Apply("east", services(svc())))
	n.Apply(s.Remove("west"))
	n.Apply(s.Remove("west"))
	n.Apply(s.Remove("north"))
	if diff := cmp.Diff(map[string]Counts{"east": {Services: 1}}, s.Counts()); diff != "" {
		t.Errorf("counts after the removal (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]service.Group{{Clusters: []string{"east"}}}, n.views[web].Groups); diff != "" || len(n.slices) != 0 {
		t.Errorf("nodes keep %d slices of the removed cluster; groups (-want +got):\n%s", len(n.slices), diff)
	}
	n.Apply(s.Remove("east"))
	if len(s.clusters)+len(s.services) != 0 {
		t.Errorf("an empty state keeps %d clusters and %d services", len(s.clusters), len(s.services))
	}
}

func BenchmarkOneEndpointOfTenThousand(b *testing.B) {
	s := New("east")
	s.Apply("east", services(svc()))
	s.Apply("west", services(svc()))
	endpoints := many(10_000)
	for i := range 100 {
		s.Apply("west", sliceNamed(fmt.Sprintf("web-%d", i), slice(endpoints[100*i:100*i+100]...)))
	}
	up, down := slice(endpoints[:100]...), slice(endpoints[:99]...)
	for i := 0; b.Loop(); i++ {
		next := up
		if i%2 == 0 {
			next = down
		}
		if d := s.Apply("west", sliceNamed("web-0", next)); len(d.Services.Slices) != 1 {
			b.Fatalf("%d slices changed, want 1", len(d.Services.Slices))
		}
	}
}
