package merge

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/service"
)

func TestExplain(t *testing.T) {
	for name, c := range map[string]struct {
		east, west         *service.Service
		eastEnd, westEnd   []service.Endpoint
		eastWhy, westWhy   string // "" is used
		westPorts          []service.Port
		eastTier, westTier uint8
		eastLeaving        bool
	}{
		"both": {east: svc(), west: svc()},
		"local": {
			east: svc(affinity(service.AffinityLocal)), west: svc(),
			westWhy: "affinity local: local backends healthy", westTier: 1,
		},
		"local, none ready": {
			east: svc(affinity(service.AffinityLocal)), west: svc(), eastEnd: []service.Endpoint{pod("10.1.0.1", dying)},
			eastWhy: "no ready backend", westTier: 1,
		},
		"remote": {
			east: svc(affinity(service.AffinityRemote)), west: svc(),
			eastWhy: "affinity remote: remote backends healthy", eastTier: 1,
		},
		"not global here":    {east: svc(notGlobal), west: svc(), eastWhy: "not global here", westWhy: "not global here"},
		"headless":           {east: svc(headless), west: svc(), eastWhy: "headless: clients ask DNS, there is no address to translate", westWhy: "headless: clients ask DNS, there is no address to translate"},
		"not global in west": {east: svc(), west: svc(notGlobal), westWhy: "not global in west"},
		"not shared":         {east: svc(), west: svc(notShared), westWhy: "not shared by west"},
		"port names": {
			east: svc(), west: svc(), westPorts: []service.Port{{Name: "web", Protocol: service.TCP, Port: 80}},
			westWhy: "port names differ",
		},
		"all leaving": {
			east: svc(), west: svc(), eastEnd: []service.Endpoint{pod("10.1.0.1", dying)}, westEnd: []service.Endpoint{},
			westWhy: "no ready backend", eastLeaving: true,
		},
		"no backend":   {east: svc(), west: svc(), westEnd: []service.Endpoint{}, westWhy: "no ready backend"},
		"other family": {east: svc(), west: svc(), westEnd: []service.Endpoint{pod("fd00::1", ready)}, westWhy: "no backend of the service's address family"},
	} {
		t.Run(name, func(t *testing.T) {
			s := New("east")
			if c.eastEnd == nil {
				c.eastEnd = []service.Endpoint{pod("10.1.0.1", ready)}
			}
			if c.westEnd == nil {
				c.westEnd = []service.Endpoint{pod("10.2.0.1", ready)}
			}
			west := slice(c.westEnd...)
			if c.westPorts != nil {
				west.Ports = c.westPorts
			}
			s.Apply("west", services(c.west))
			s.Apply("west", sliceNamed("web-1", west))
			s.Apply("east", services(c.east))
			s.Apply("east", sliceNamed("web-1", slice(c.eastEnd...)))
			x, ok := s.Explain(web)
			if !ok || len(x.Clusters) != 2 {
				t.Fatalf("Explain = %+v, %v", x, ok)
			}
			east, got := x.Clusters[0], x.Clusters[1]
			if east.Cluster != "east" || east.Reason != c.eastWhy || east.Used != (c.eastWhy == "") || east.Tier != c.eastTier || east.Terminating != c.eastLeaving {
				t.Errorf("east: %+v, want reason %q, tier %d", east, c.eastWhy, c.eastTier)
			}
			if got.Cluster != "west" || got.Reason != c.westWhy || got.Used != (c.westWhy == "") || got.Tier != c.westTier {
				t.Errorf("west: %+v, want reason %q, tier %d", got, c.westWhy, c.westTier)
			}
		})
	}
}

func TestExplainBackends(t *testing.T) {
	s := New("east")
	s.Apply("west", services(svc(backends("10.2.0.9"))))
	s.Apply("aaa", services(svc()))
	s.Apply("aaa", sliceNamed("web-1", slice(pod("10.3.0.3", service.Condition{}), pod("10.3.0.1", dying), pod("10.3.0.2", ready), service.Endpoint{})))
	s.Apply("bbb", sliceNamed("web-1", slice(pod("10.4.0.1", ready)))) // slices, but no service
	got, ok := s.Explain(web)
	why := "no such service here"
	ports := []service.Port{http8080}
	want := Explanation{Name: web, Clusters: []ClusterBackends{
		{Cluster: "aaa", Reason: why, Backends: []Backend{
			{IP: pod("10.3.0.1", ready).Addresses[0], Ports: ports, Node: "node-1", Pod: "pod-10.3.0.1", State: StateTerminating},
			{IP: pod("10.3.0.2", ready).Addresses[0], Ports: ports, Node: "node-1", Pod: "pod-10.3.0.2", State: StateReady},
			{IP: pod("10.3.0.3", ready).Addresses[0], Ports: ports, Node: "node-1", Pod: "pod-10.3.0.3", State: StateNotReady},
		}},
		{Cluster: "west", Reason: why, Backends: []Backend{
			{IP: pod("10.2.0.9", ready).Addresses[0], Ports: ports, State: StateReady},
		}},
	}}
	if diff := cmp.Diff(want, got, byAddr); diff != "" || !ok {
		t.Errorf("ok = %v (-want +got):\n%s", ok, diff)
	}
	if _, ok := s.Explain(service.Name{Namespace: "shop", Name: "none"}); ok {
		t.Error("a service that nobody has is explained")
	}
}

// A service is listed when anybody means it to be global.
func TestServices(t *testing.T) {
	s := New("east")
	name := func(n string) service.Name { return service.Name{Namespace: "shop", Name: n} }
	s.Apply("west", Update{Services: map[service.Name]*service.Service{name("b"): svc(), name("c"): svc(notGlobal)}})
	s.Apply("east", Update{Services: map[service.Name]*service.Service{
		name("a"): svc(notShared), name("c"): svc(notGlobal), {Namespace: "a", Name: "z"}: svc(),
	}})
	want := []service.Name{{Namespace: "a", Name: "z"}, name("a"), name("b")}
	if diff := cmp.Diff(want, s.Services()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
