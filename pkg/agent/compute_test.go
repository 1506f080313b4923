package agent

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/service"
)

var web = service.Name{Namespace: "shop", Name: "web"}

func tcp(name string, port uint16) service.Port {
	return service.Port{Name: name, Protocol: service.TCP, Port: port}
}

func udp(name string, port uint16) service.Port {
	return service.Port{Name: name, Protocol: service.UDP, Port: port}
}

// view returns a view of name with one group of all clusters.
func view(name service.Name, ip string, ports ...service.Port) *service.View {
	return &service.View{
		Name:      name,
		Frontends: []service.Frontend{{IP: netip.MustParseAddr(ip), Ports: ports}},
		Groups:    []service.Group{{Clusters: []string{"east", "west"}}},
	}
}

// slice returns a slice of ready backends.
func slice(name service.Name, cluster string, ports []service.Port, ips ...string) *service.BackendSlice {
	s := &service.BackendSlice{
		BackendSliceKey: service.BackendSliceKey{Service: name, Cluster: cluster, Slice: fmt.Sprint(cluster, ports)},
		Ports:           ports,
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, service.BackendEndpoint{IP: netip.MustParseAddr(ip)})
	}
	return s
}

func offerOf(v *service.View, parts ...*service.BackendSlice) *offer {
	o := &offer{view: v}
	for _, s := range parts {
		o.set(s.BackendSliceKey, s)
	}
	return o
}

// wanted is a datapath.Service in words: address, and backends of each group.
func wanted(services []datapath.Service) map[string][][]string {
	all := map[string][][]string{}
	for _, s := range services {
		groups := [][]string{}
		for _, g := range s.Groups {
			var backends []string
			for _, b := range slices.Concat(append(g.Parts, g.Backends)...) {
				backends = append(backends, b.String())
			}
			groups = append(groups, backends)
		}
		all[s.Frontend.String()] = groups
	}
	return all
}

func TestServices(t *testing.T) {
	http := []service.Port{tcp("http", 8080)}
	terminating := slice(web, "east", http, "10.1.0.1", "10.1.0.2")
	terminating.Endpoints[1].State = service.BackendTerminating
	dual := view(web, "10.96.0.1", tcp("http", 80))
	dual.Frontends = append(dual.Frontends, service.Frontend{IP: netip.MustParseAddr("fd00::96"), Ports: dual.Frontends[0].Ports})
	local := view(web, "10.96.0.1", tcp("http", 80))
	local.Groups = []service.Group{{Clusters: []string{"east"}}, {Clusters: []string{"west"}, Tier: 1}}
	external := view(web, "10.96.0.1", tcp("http", 80))
	external.External = []service.Frontend{
		{IP: netip.MustParseAddr("192.0.2.1"), Ports: external.Frontends[0].Ports},
		{IP: netip.MustParseAddr("2001:db8::1"), Ports: external.Frontends[0].Ports},
	}
	nodeLocal := view(web, "10.96.0.1", tcp("http", 80))
	nodeLocal.NodeLocal, nodeLocal.External = true, external.External[:1]
	spread := func(cluster string) *service.BackendSlice { // both clusters have a node n1
		ip := map[string]string{"east": "10.1.0.", "west": "10.2.0."}[cluster]
		s := slice(web, cluster, http, ip+"1", ip+"2")
		s.Endpoints[0].Node, s.Endpoints[1].Node = "n1", "n2"
		return s
	}
	headless := view(web, "10.96.0.1")
	headless.Frontends = nil
	tests := []struct {
		name  string
		offer *offer
		want  map[string][][]string
	}{
		{"no view", offerOf(nil, slice(web, "east", http, "10.1.0.1")), nil},
		{"headless", offerOf(headless, slice(web, "east", http, "10.1.0.1")), nil},
		{"no slice", offerOf(view(web, "10.96.0.1", tcp("http", 80))), map[string][][]string{"10.96.0.1:80/tcp": {nil}}},
		{
			"both clusters",
			offerOf(view(web, "10.96.0.1", tcp("http", 80)), slice(web, "east", http, "10.1.0.1"), slice(web, "west", []service.Port{tcp("http", 9090)}, "10.2.0.1")),
			map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080", "10.2.0.1:9090"}}},
		},
		{
			"tiers",
			offerOf(local, slice(web, "east", http, "10.1.0.1"), slice(web, "west", http, "10.2.0.1")),
			map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}, {"10.2.0.1:8080"}}},
		},
		{
			"a cluster in no group",
			offerOf(view(web, "10.96.0.1", tcp("http", 80)), slice(web, "north", http, "10.3.0.1")),
			map[string][][]string{"10.96.0.1:80/tcp": {nil}},
		},
		{
			"not ready",
			offerOf(view(web, "10.96.0.1", tcp("http", 80)), terminating),
			map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}},
		},
		{
			"many ports, by name",
			offerOf(view(web, "10.96.0.1", tcp("http", 80), tcp("admin", 81), tcp("gone", 82), udp("dns", 53)),
				slice(web, "east", []service.Port{tcp("admin", 9090), udp("http", 1), tcp("http", 8080)}, "10.1.0.1")),
			map[string][][]string{
				"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}, "10.96.0.1:81/tcp": {{"10.1.0.1:9090"}}, "10.96.0.1:82/tcp": {nil}, "10.96.0.1:53/udp": {nil},
			},
		},
		{
			"udp",
			offerOf(view(web, "10.96.0.1", tcp("dns-tcp", 53), udp("dns", 53), service.Port{Name: "sctp", Protocol: service.SCTP, Port: 54}),
				slice(web, "east", []service.Port{tcp("dns-tcp", 5353), udp("dns", 5300), {Name: "sctp", Protocol: service.SCTP, Port: 54}}, "10.1.0.1")),
			map[string][][]string{"10.96.0.1:53/tcp": {{"10.1.0.1:5353"}}, "10.96.0.1:53/udp": {{"10.1.0.1:5300"}}},
		},
		{
			"external addresses",
			offerOf(external, slice(web, "east", http, "10.1.0.1", "fd00:1::1")),
			map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}, "192.0.2.1:80/tcp": {{"10.1.0.1:8080"}}, "[2001:db8::1]:80/tcp": {{"[fd00:1::1]:8080"}}},
		},
		{
			"own node alone, but for external addresses",
			offerOf(nodeLocal, spread("east"), spread("west")),
			map[string][][]string{
				"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}},
				"192.0.2.1:80/tcp": {{"10.1.0.1:8080", "10.1.0.2:8080", "10.2.0.1:8080", "10.2.0.2:8080"}},
			},
		},
		{
			"unnamed meets unnamed",
			offerOf(view(web, "10.96.0.1", tcp("", 80)), slice(web, "east", []service.Port{tcp("", 8080)}, "10.1.0.1")),
			map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}},
		},
		{
			"unnamed meets no named one",
			offerOf(view(web, "10.96.0.1", tcp("", 80)), slice(web, "east", http, "10.1.0.1")),
			map[string][][]string{"10.96.0.1:80/tcp": {nil}},
		},
		{
			"unnamed meets no two",
			offerOf(view(web, "10.96.0.1", tcp("", 80)), slice(web, "east", []service.Port{tcp("", 8080), udp("", 53)}, "10.1.0.1")),
			map[string][][]string{"10.96.0.1:80/tcp": {nil}},
		},
		{
			"families stay apart",
			offerOf(dual, slice(web, "east", http, "10.1.0.1"), slice(web, "west", http, "fd00:1::1")),
			map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}, "[fd00::96]:80/tcp": {{"[fd00:1::1]:8080"}}},
		},
		{
			"no address of a workload",
			offerOf(view(web, "10.96.0.1", tcp("http", 80)), slice(web, "west", http, "127.0.0.1", "0.0.0.0", "224.0.0.1", "10.2.0.1")),
			map[string][][]string{"10.96.0.1:80/tcp": {{"10.2.0.1:8080"}}},
		},
		{
			"mapped addresses are IPv4",
			offerOf(view(web, "::ffff:10.96.0.1", tcp("http", 80)), slice(web, "west", http, "::ffff:10.2.0.1")),
			map[string][][]string{"10.96.0.1:80/tcp": {{"10.2.0.1:8080"}}},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := wanted(test.offer.services(self{"east", "n1"}))
			sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b })
			if diff := cmp.Diff(test.want, got, sorted, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServiceSettings(t *testing.T) {
	v := view(web, "10.96.0.1", tcp("http", 80))
	v.External = []service.Frontend{{IP: netip.MustParseAddr("192.0.2.1"), Ports: v.Frontends[0].Ports}}
	v.NodeLocal, v.Session = true, time.Hour
	s := slice(web, "east", []service.Port{tcp("http", 8080)}, "10.1.0.1", "10.1.0.2", "10.1.0.3")
	for i := range s.Endpoints {
		s.Endpoints[i].State, s.Endpoints[i].Node = service.BackendTerminating, "n1"
	}
	s.Endpoints[1].Node = "n2"
	got := offerOf(v, s).services(self{"east", "n1"})
	want := []datapath.Service{
		{Refuse: true, Session: time.Hour, Terminating: addrPorts("10.1.0.1:8080", "10.1.0.3:8080")},
		{Session: time.Hour, Terminating: addrPorts("10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080")},
	}
	ignore := cmpopts.IgnoreFields(datapath.Service{}, "Frontend", "Groups")
	if diff := cmp.Diff(want, got, ignore, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
}

func addrPorts(texts ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, text := range texts {
		all = append(all, netip.MustParseAddrPort(text))
	}
	return all
}

// Of a large service, what did not change is handed over as it was.
func TestShares(t *testing.T) {
	s := newState(self{"east", "n1"})
	ports := []service.Port{tcp("http", 8080)}
	parts := func() map[*netip.AddrPort]bool {
		all := map[*netip.AddrPort]bool{}
		for _, part := range s.services(web)[0].Groups[0].Parts {
			all[&part[0]] = true
		}
		return all
	}
	made := func(n, first int) *service.BackendSlice {
		b := slice(web, "east", ports, fmt.Sprintf("10.1.%d.%d", n, first), fmt.Sprintf("10.1.%d.2", n))
		b.Part = n
		return b
	}
	d := delta(view(web, "10.96.0.1", tcp("http", 80)))
	for n := range 6 {
		b := made(n, 1)
		d.Slices[b.BackendSliceKey] = b
	}
	s.apply(d)
	before := parts()
	if len(before) != 6 {
		t.Fatalf("%d parts", len(before))
	}
	s.apply(delta(made(3, 9)))
	kept := 0
	after := parts()
	for p := range after {
		if before[p] {
			kept++
		}
	}
	if kept != 5 || len(after) != 6 {
		t.Errorf("%d of %d parts are as they were, want 5 of 6", kept, len(after))
	}
	for n := range 4 {
		s.apply(delta(made(n, 1).BackendSliceKey))
	}
	if got := s.services(web)[0].Groups[0]; len(got.Parts) != 0 || len(got.Backends) != 4 || s.offers[web].shares != nil {
		t.Errorf("a small service: %+v", got)
	}
}

func TestFold(t *testing.T) {
	groups := make([]datapath.Group, 10)
	for i := range groups {
		groups[i] = datapath.Group{Tier: uint8(i), Weight: uint16(i), Backends: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 80)}}
	}
	if got := fold(groups[:8]); len(got) != 8 || len(got[7].Backends) != 1 {
		t.Errorf("eight fit: %v", got)
	}
	got := fold(groups)
	if len(got) != datapath.MaxGroups || got[7].Tier != 7 || got[7].Weight != 7+8+9 || len(got[7].Backends) != 3 {
		t.Errorf("got %v", got)
	}
	if len(groups[7].Backends) != 1 {
		t.Error("the input was changed")
	}
}

func TestClaims(t *testing.T) {
	a, b := service.Name{Namespace: "a", Name: "z"}, service.Name{Namespace: "b", Name: "a"}
	f := datapath.Frontend{Addr: netip.MustParseAddrPort("10.96.0.1:80"), Protocol: datapath.TCP}
	claim := []datapath.Service{{Frontend: f}}
	c := newClaims(0)
	wantOwner := func(want service.Name) {
		t.Helper()
		if got, ok := c.owner(f); got != want || ok != (want != service.Name{}) {
			t.Errorf("owner is %v, %v; want %v", got, ok, want)
		}
	}
	wantOwner(service.Name{})
	c.set(b, claim)
	wantOwner(b)
	c.set(a, claim)
	c.set(a, claim) // again
	wantOwner(a)
	if released := c.set(a, nil); len(released) != 1 || released[0] != f {
		t.Errorf("released %v", released)
	}
	wantOwner(b)
	c.set(b, nil)
	wantOwner(service.Name{})
	if len(c.byFrontend)+len(c.byService) != 0 {
		t.Errorf("left: %+v", c)
	}
}

// TestOfferSet compares with a map what is left after each of many changes.
func TestOfferSet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	o, model := &offer{}, map[service.BackendSliceKey]*service.BackendSlice{}
	for range 500 {
		key := service.BackendSliceKey{
			Service: service.Name{Namespace: "shop", Name: "web"}, Cluster: string('a' + rune(random.IntN(3))),
			Slice: string('x' + rune(random.IntN(3))), Part: random.IntN(2),
		}
		if random.IntN(3) == 0 {
			o.set(key, nil)
			delete(model, key)
		} else {
			s := &service.BackendSlice{BackendSliceKey: key}
			o.set(key, s)
			model[key] = s
		}
		if len(o.slices) != len(model) {
			t.Fatalf("%d slices, want %d", len(o.slices), len(model))
		}
		for i, s := range o.slices {
			if model[s.BackendSliceKey] != s || i > 0 && compareKeys(o.slices[i-1].BackendSliceKey, s.BackendSliceKey) >= 0 {
				t.Fatalf("slice %d is %+v, which is out of order or another", i, s)
			}
		}
	}
}
