package feed

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/pkg/service"
)

func empty() service.Delta {
	return service.Delta{Views: map[service.Name]*service.View{}, Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
}

func TestRoundTrip(t *testing.T) {
	v := view("web", "east", "west")
	v.Frontends = append(v.Frontends, service.Frontend{IP: netip.MustParseAddr("fd00::7"), Ports: []service.Port{{Protocol: service.UDP, Port: 65535}}})
	v.Groups = append(v.Groups, service.Group{Clusters: []string{"north"}, Tier: 255, Weight: 65535})
	v.Session, v.NodeLocal = 3*time.Hour, true
	v.External = []service.Frontend{{IP: netip.MustParseAddr("192.0.2.7"), Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80}}}}
	s := slice("web", 7, "10.1.0.1", "fd00::1")
	s.Endpoints[1].State = service.BackendTerminating
	want := empty()
	want.Views[v.Name], want.Slices[s.BackendSliceKey] = v, s
	want.Views[service.Name{Namespace: "shop", Name: "gone"}] = nil
	want.Slices[slice("gone", 1).BackendSliceKey] = nil

	got := empty()
	for _, c := range newServer().encode(merge.Delta{Services: want}) {
		add(t, c.encoded, &got)
	}
	if diff := cmp.Diff(want, got, byAddr); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What subscribers are spared is found by comparing encodings.
func TestEncodingIsStable(t *testing.T) {
	first, err := encodeSlice(slice("web", 0, "10.1.0.1", "10.1.0.2"))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, _ := encodeSlice(slice("web", 0, "10.1.0.1", "10.1.0.2")); string(again) != string(first) {
			t.Fatal("two encodings of the same slice")
		}
	}
}

// A bytes field of Batch must be on the wire what a repeated Resource would be.
func TestResourceIsAMessage(t *testing.T) {
	encoded, err := encodeView(view("web", "east"))
	if err != nil {
		t.Fatal(err)
	}
	var r feedpb.Resource
	if err := proto.Unmarshal(encoded, &r); err != nil || r.GetView().GetService().GetName() != "web" {
		t.Errorf("decoded %v, %v", &r, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	endpoints := func(ip []byte) *feedpb.Resource {
		return &feedpb.Resource{Resource: &feedpb.Resource_Slice{Slice: &feedpb.BackendSlice{Endpoints: []*feedpb.Endpoint{{Ip: ip}}}}}
	}
	resourceOf := func(v *feedpb.View) *feedpb.Resource {
		return &feedpb.Resource{Resource: &feedpb.Resource_View{View: v}}
	}
	for name, r := range map[string]*feedpb.Resource{
		"no kind":         {},
		"address":         endpoints([]byte{1, 2, 3}),
		"no address":      endpoints(nil),
		"frontend":        resourceOf(&feedpb.View{Frontends: []*feedpb.Frontend{{Ip: make([]byte, 5)}}}),
		"frontend port":   resourceOf(&feedpb.View{Frontends: []*feedpb.Frontend{{Ip: make([]byte, 4), Ports: []*feedpb.Port{{Port: 65536}}}}}),
		"tier":            resourceOf(&feedpb.View{Groups: []*feedpb.Group{{Tier: 256}}}),
		"weight":          resourceOf(&feedpb.View{Groups: []*feedpb.Group{{Weight: 65536}}}),
		"port of a slice": {Resource: &feedpb.Resource_Slice{Slice: &feedpb.BackendSlice{Ports: []*feedpb.Port{{Port: 1 << 20}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			encoded, err := proto.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if r, err := decode(encoded); !errors.Is(err, errMalformed) || r.value != nil {
				t.Errorf("decode = %v with %+v, want errMalformed and nothing", err, r)
			}
		})
	}
	if _, err := decode([]byte{0xff}); !errors.Is(err, errMalformed) {
		t.Errorf("decode of no protobuf = %v, want errMalformed", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range newServer().encode(everything()) {
		f.Add(c.encoded)
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		first, err := decode(encoded)
		if err != nil {
			return
		}
		var again []byte
		switch v := first.value.(type) {
		case nil:
			again, err = encodeDeletion(first.name)
		case *service.View:
			again, err = encodeView(v)
		case *service.BackendSlice:
			again, err = encodeSlice(v)
		case *node.Node:
			again, err = encodeNode(v)
		case *identity.Identity:
			again, err = encodeIdentity(v)
		case *endpoint.Owner:
			again, err = encodeAddress(first.name.(netip.Prefix), v)
		case *route.Peer:
			again, err = encodePeer(v)
		case *route.Range:
			again, err = encodeRange(v)
		default:
			t.Fatalf("a %T", v)
		}
		if err != nil {
			t.Fatalf("encode what was decoded: %v", err)
		}
		second, err := decode(again)
		if err != nil {
			t.Fatalf("decode of what was decoded: %v", err)
		}
		if diff := cmp.Diff(first, second, byAddr, byPrefix, cmp.AllowUnexported(resource{}, key{})); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
		readsAsGenerated(t, again)
	})
}

// What cannot be encoded costs only itself.
func TestNotUTF8(t *testing.T) {
	s := newServer()
	bad := slice("bad", 0, "10.1.0.1")
	bad.Endpoints[0].Node = "\xff"
	good := slice("good", 0, "10.1.0.1")
	apply(s, slicesOf(bad, good))
	if n := s.table.shelves[Slice].count; n != 1 {
		t.Errorf("%d slices, want the good one only", n)
	}
	bad.Endpoints[0].Node = "n"
	apply(s, slicesOf(bad))
	bad.Endpoints[0].Node = "\xff"
	apply(s, slicesOf(bad))
	badKey := slice("\xff", 0, "10.1.0.1")
	apply(s, slicesOf(badKey))
	apply(s, service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{badKey.BackendSliceKey: nil}})
	if n := s.table.shelves[Slice].count; n != 1 {
		t.Errorf("%d slices, want the good one only", n)
	}
}

// Subscribers that look now and then have in the end what one has that saw all.
func TestTableAgainstModel(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := newServer()
		s.table.minTombstones = 1 + r.IntN(5)
		model := map[service.BackendSliceKey]*service.BackendSlice{}
		type subscriber struct {
			n     uint64
			state service.Delta
		}
		subscribers := make([]subscriber, 5)
		for i := range subscribers {
			subscribers[i].state = empty()
		}
		for step := range 300 {
			d := service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
			for range r.IntN(4) {
				sl := slice(fmt.Sprint("s", r.IntN(8)), 0, fmt.Sprintf("10.0.0.%d", r.IntN(3)))
				d.Slices[sl.BackendSliceKey] = sl
				if r.IntN(2) == 0 {
					d.Slices[sl.BackendSliceKey] = nil
				}
			}
			put(model, d.Slices)
			apply(s, d)
			i := r.IntN(20) // some look seldom
			if i >= len(subscribers) {
				continue
			}
			sub := &subscribers[i]
			var u update
			u.enough = math.MaxInt
			if !s.table.since(sub.n, allKinds(), &u) {
				sub.state, u = empty(), update{}
				s.table.all(Slice, &u)
			}
			batch := empty()
			for _, encoded := range u.resources {
				add(t, encoded, &batch)
			}
			if len(batch.Slices) != len(u.resources) {
				t.Fatalf("seed %d, step %d: a resource stands twice in one change", seed, step)
			}
			put(sub.state.Slices, batch.Slices)
			sub.n = s.table.n
			if diff := cmp.Diff(model, sub.state.Slices, byAddr); diff != "" {
				t.Fatalf("seed %d, step %d (-want +got):\n%s", seed, step, diff)
			}
		}
	}
}

func TestTable(t *testing.T) {
	tab := newTable()
	set := func(name, text string) change {
		return change{key: sliceKey(slice(name, 0).BackendSliceKey), encoded: []byte(text)}
	}
	since := func(n uint64) ([][]byte, bool) {
		u := update{enough: math.MaxInt}
		ok := tab.since(n, allKinds(), &u)
		return u.resources, ok
	}
	gone := func(name string) change { c := set(name, "gone"); c.deleted = true; return c }

	if tab.apply([]change{gone("a")}) || tab.n != 0 {
		t.Error("deleting what is not there is a change")
	}
	if !tab.apply([]change{set("a", "1"), set("b", "1")}) || tab.apply([]change{set("a", "1")}) || tab.n != 1 {
		t.Errorf("revision %d, want 1: a repeated value is no change", tab.n)
	}
	tab.apply([]change{set("a", "2")})
	if got, _ := since(1); len(got) != 1 || string(got[0]) != "2" {
		t.Errorf("since 1: %q, want the new a only", got)
	}
	for i := range minTombstones + 10 {
		name := fmt.Sprint("x", i)
		tab.apply([]change{set(name, "1")})
		tab.apply([]change{gone(name)})
	}
	if tab.gone.length != minTombstones || len(tab.deleted) != minTombstones || tab.shelves[Slice].count != 2 {
		t.Errorf("%d deletions and %d resources are kept, want %d and 2", len(tab.deleted), tab.shelves[Slice].count, minTombstones)
	}
	if _, ok := since(2); ok {
		t.Error("what was forgotten is known")
	}
	if got, ok := since(tab.n); !ok || len(got) != 0 {
		t.Errorf("since now: %d resources, %v", len(got), ok)
	}
}

// everything is a change of each kind.
func everything() merge.Delta {
	prefix, host := netip.MustParsePrefix("10.1.0.1/32"), netip.MustParseAddr("172.18.0.2")
	return merge.Delta{
		Services: service.Delta{Views: viewsOf(view("web", "east")).Views, Slices: slicesOf(slice("web", 1, "10.1.0.1")).Slices},
		Nodes: map[node.Key]*node.Node{
			{Cluster: "west", Name: "n1"}: {
				Cluster: "west", Name: "n1", ClusterID: 2, PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
				Addresses: []node.Address{{Type: node.InternalIP, IP: host}},
			},
			{Cluster: "west", Name: "gone"}: nil,
		},
		Identities: map[identity.Number]*identity.Identity{70000: {Number: 70000, Labels: "k8s:app=web;"}, 70001: nil},
		Addresses: map[netip.Prefix]*endpoint.Owner{
			prefix:                               {Cluster: "west", Identity: 70000, HostIP: host, Namespace: "shop", Pod: "web-0"},
			netip.MustParsePrefix("fd00::/64"):   {Cluster: "west", Identity: 70000},
			netip.MustParsePrefix("10.1.0.2/32"): nil,
		},
	}
}

// Who is who comes through whole, and so do deletions.
func TestRoundTripOfWho(t *testing.T) {
	want := everything()
	want.Services = service.Delta{}
	got := merge.Delta{
		Nodes: map[node.Key]*node.Node{}, Identities: map[identity.Number]*identity.Identity{}, Addresses: map[netip.Prefix]*endpoint.Owner{},
	}
	for _, c := range newServer().encode(want) {
		r, err := decode(c.encoded)
		if err != nil || r.key != c.key {
			t.Fatalf("decode %+v: %+v, %v", c.key, r.key, err)
		}
		switch name := r.name.(type) {
		case node.Key:
			got.Nodes[name], _ = r.value.(*node.Node)
		case identity.Number:
			got.Identities[name], _ = r.value.(*identity.Identity)
		case netip.Prefix:
			got.Addresses[name], _ = r.value.(*endpoint.Owner)
		}
	}
	if diff := cmp.Diff(want, got, byAddr, byPrefix); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func add(t *testing.T, encoded []byte, d *service.Delta) {
	t.Helper()
	r, err := decode(encoded)
	if err != nil {
		t.Fatal(err)
	}
	r.addTo(d)
}
