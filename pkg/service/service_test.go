package service_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/service"
)

var compareAddresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

func sortedPorts() []service.Port {
	return []service.Port{
		{Name: "", Protocol: service.TCP, Port: 9},
		{Name: "a", Protocol: service.SCTP, Port: 9},
		{Name: "a", Protocol: service.TCP, Port: 1},
		{Name: "a", Protocol: service.TCP, Port: 10},
		{Name: "a", Protocol: service.TCP, Port: 10, AppProtocol: "http"},
		{Name: "b", Protocol: service.TCP, Port: 1},
	}
}

func sortedService() *service.Service {
	return &service.Service{
		Frontends: []service.Frontend{
			{IP: ip("10.0.0.9"), Ports: sortedPorts()},
			{IP: ip("10.0.0.10"), Ports: sortedPorts()},
			{IP: ip("fd00::1")},
		},
		Backends: []service.Backend{
			{IP: ip("9.0.0.0"), Ports: sortedPorts(), ForZones: []string{"b", "a"}},
			{IP: ip("10.0.0.1")},
			{IP: ip("::2")},
		},
	}
}

func sortedSlice() *service.Slice {
	endpoint := func(target string, addresses ...string) service.Endpoint {
		e := service.Endpoint{TargetName: target}
		for _, text := range addresses {
			e.Addresses = append(e.Addresses, ip(text))
		}
		return e
	}
	return &service.Slice{
		Ports: sortedPorts(),
		Endpoints: []service.Endpoint{
			endpoint("z", "10.0.0.9"),
			endpoint("a", "10.0.0.10"),
			endpoint("b", "10.0.0.10"),
			endpoint("a", "10.0.0.10", "10.0.0.3"),
			endpoint("a", "10.0.0.11", "10.0.0.1"),
		},
	}
}

func shuffle[T any](random *rand.Rand, list []T) {
	random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// TestSort: whatever order lists come in, they leave in one, and what has an
// order of its own keeps it.
func TestSort(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		s := sortedService()
		shuffle(random, s.Frontends)
		shuffle(random, s.Backends)
		for _, f := range s.Frontends {
			shuffle(random, f.Ports)
		}
		for _, b := range s.Backends {
			shuffle(random, b.Ports)
		}
		s.Sort()
		if diff := cmp.Diff(sortedService(), s, compareAddresses); diff != "" {
			t.Fatalf("service (-want +got):\n%s", diff)
		}
		slice := sortedSlice()
		shuffle(random, slice.Ports)
		shuffle(random, slice.Endpoints)
		slice.Sort()
		if diff := cmp.Diff(sortedSlice(), slice, compareAddresses); diff != "" {
			t.Fatalf("slice (-want +got):\n%s", diff)
		}
	}
}

// TestSortWithoutAddresses: what is invalid is still sorted, not a panic.
func TestSortWithoutAddresses(t *testing.T) {
	s := &service.Slice{Endpoints: []service.Endpoint{{TargetName: "b"}, {TargetName: "a", TargetUID: "2"}, {TargetName: "a", TargetUID: "1"}}}
	s.Sort()
	want := []service.Endpoint{{TargetName: "a", TargetUID: "1"}, {TargetName: "a", TargetUID: "2"}, {TargetName: "b"}}
	if diff := cmp.Diff(want, s.Endpoints, compareAddresses); diff != "" {
		t.Error(diff)
	}
}

func TestNames(t *testing.T) {
	if got := (service.Name{Namespace: "shop", Name: "web"}).String(); got != "shop/web" {
		t.Errorf("got %q", got)
	}
	s := &service.Slice{Namespace: "shop", Name: "web-abc", Service: "web"}
	if got := s.ServiceName(); got != (service.Name{Namespace: "shop", Name: "web"}) {
		t.Errorf("got %v", got)
	}
}

func TestDeltaEmpty(t *testing.T) {
	for _, c := range []struct {
		delta service.Delta
		want  bool
	}{
		{service.Delta{}, true},
		{service.Delta{Views: map[service.Name]*service.View{}}, true},
		// A deletion is a change.
		{service.Delta{Views: map[service.Name]*service.View{{}: nil}}, false},
		{service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{{}: nil}}, false},
	} {
		if got := c.delta.Empty(); got != c.want {
			t.Errorf("%v: %t, want %t", c.delta, got, c.want)
		}
	}
}
