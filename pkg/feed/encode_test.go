package feed

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/service"
)

func empty() service.Delta {
	return service.Delta{Views: map[service.Name]*service.View{}, Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
}

func TestRoundTrip(t *testing.T) {
	v := view("web", "east", "west")
	v.Frontends = append(v.Frontends, service.Frontend{IP: netip.MustParseAddr("fd00::7"), Ports: []service.Port{{Protocol: service.UDP, Port: 65535}}})
	v.Groups = append(v.Groups, service.Group{Clusters: []string{"north"}, Tier: 255, Weight: 65535})
	s := slice("web", 7, "10.1.0.1", "fd00::1")
	s.Endpoints[1].State = service.BackendTerminating
	want := empty()
	want.Views[v.Name], want.Slices[s.BackendSliceKey] = v, s
	want.Views[service.Name{Namespace: "shop", Name: "gone"}] = nil
	want.Slices[slice("gone", 1).BackendSliceKey] = nil

	got := empty()
	for _, c := range newServer().encode(want) {
		if err := decode(c.encoded, &got); err != nil {
			t.Fatalf("decode %+v: %v", c.key, err)
		}
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
			d := empty()
			if err := decode(encoded, &d); !errors.Is(err, errMalformed) || !d.Empty() {
				t.Errorf("decode = %v with %+v, want errMalformed and nothing", err, d)
			}
		})
	}
	d := empty()
	if err := decode([]byte{0xff}, &d); !errors.Is(err, errMalformed) {
		t.Errorf("decode of no protobuf = %v, want errMalformed", err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range newServer().encode(service.Delta{Views: viewsOf(view("web", "east")).Views, Slices: slicesOf(slice("web", 1, "10.1.0.1")).Slices}) {
		f.Add(c.encoded)
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		d := empty()
		if decode(encoded, &d) != nil {
			return
		}
		again := empty()
		for _, c := range newServer().encode(d) {
			if err := decode(c.encoded, &again); err != nil {
				t.Fatalf("decode of what was decoded: %v", err)
			}
		}
		if diff := cmp.Diff(d, again, byAddr); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}

// What cannot be encoded costs only itself.
func TestNotUTF8(t *testing.T) {
	s := newServer()
	bad := slice("bad", 0, "10.1.0.1")
	bad.Endpoints[0].Node = "\xff"
	good := slice("good", 0, "10.1.0.1")
	s.Apply(slicesOf(bad, good))
	if n := s.table.kinds["slice"]; n != 1 {
		t.Errorf("%d slices, want the good one only", n)
	}
	bad.Endpoints[0].Node = "n"
	s.Apply(slicesOf(bad))
	bad.Endpoints[0].Node = "\xff"
	s.Apply(slicesOf(bad))
	badKey := slice("\xff", 0, "10.1.0.1")
	s.Apply(slicesOf(badKey))
	s.Apply(service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{badKey.BackendSliceKey: nil}})
	if n := s.table.kinds["slice"]; n != 1 {
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
			s.Apply(d)
			i := r.IntN(20) // some look seldom
			if i >= len(subscribers) {
				continue
			}
			sub := &subscribers[i]
			resources, snapshot := s.table.since(sub.n)
			if snapshot {
				sub.state = empty()
			}
			batch := empty()
			for _, encoded := range resources {
				if err := decode(encoded, &batch); err != nil {
					t.Fatal(err)
				}
			}
			if len(batch.Slices) != len(resources) {
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
		return change{key: key{slice: slice(name, 0).BackendSliceKey}, encoded: []byte(text)}
	}
	gone := func(name string) change { c := set(name, "gone"); c.deleted = true; return c }

	if tab.apply([]change{gone("a")}) || tab.n != 0 {
		t.Error("deleting what is not there is a change")
	}
	if !tab.apply([]change{set("a", "1"), set("b", "1")}) || tab.apply([]change{set("a", "1")}) || tab.n != 1 {
		t.Errorf("revision %d, want 1: a repeated value is no change", tab.n)
	}
	tab.apply([]change{set("a", "2")})
	if got, _ := tab.since(1); len(got) != 1 || string(got[0]) != "2" {
		t.Errorf("since 1: %q, want the new a only", got)
	}
	for i := range minTombstones + 10 {
		name := fmt.Sprint("x", i)
		tab.apply([]change{set(name, "1")})
		tab.apply([]change{gone(name)})
	}
	if tab.gone.Len() != minTombstones || len(tab.cells) != minTombstones+2 {
		t.Errorf("%d deletions and %d cells are kept, want %d and 2 more", tab.gone.Len(), len(tab.cells), minTombstones)
	}
	if got, snapshot := tab.since(2); !snapshot || len(got) != 2 {
		t.Errorf("since what is forgotten: %d resources, snapshot %v; want the 2 there are", len(got), snapshot)
	}
	if got, snapshot := tab.since(tab.n); snapshot || len(got) != 0 {
		t.Errorf("since now: %d resources, snapshot %v", len(got), snapshot)
	}
}
