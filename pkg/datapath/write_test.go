package datapath

import (
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// The draws of each group follow from tiers, weights and counts.
func TestEncodeService(t *testing.T) {
	of := func(tier uint8, weight uint16, count int) group {
		g := group{tier: tier, weight: weight}
		for i := range count {
			g.slots = append(g.slots, backend{targetOf(addrPort(i)), uint32(i + 1)})
		}
		return g
	}
	tests := []struct {
		name    string
		groups  []group
		until   []uint32
		inlined uint16
	}{
		{"none", nil, nil, 0},
		{"empty", []group{of(0, 0, 0)}, []uint32{0}, 0},
		{"one", []group{of(0, 0, 3)}, []uint32{3}, 3},
		{"more than fit in the value", []group{of(0, 0, 9)}, []uint32{9}, uint16(maxInline)},
		{"the only one with any", []group{of(0, 5, 0), of(1, 0, 2), of(2, 0, 0)}, []uint32{0, 2, 2}, 2},
		{"by count", []group{of(0, 0, 3), of(0, 0, 1)}, []uint32{3, 4}, 0},
		{"by weight", []group{of(0, 90, 3), of(0, 10, 1)}, []uint32{90, 100}, 0},
		{"lower tier last", []group{of(3, 0, 3), of(1, 0, 2), of(1, 7, 1), of(2, 0, 1)}, []uint32{0, 2, 9, 9}, 0},
		{"lowest tier is empty", []group{of(0, 9, 0), of(1, 0, 2), of(2, 0, 2)}, []uint32{0, 2, 2}, 0},
		{"greatest numbers", []group{of(maxTier, math.MaxUint16, 1), of(maxTier, math.MaxUint16, 1)}, []uint32{math.MaxUint16, 2 * math.MaxUint16}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := encodeService(encodeKey(frontend("10.96.0.1:80")), &entry{id: 1, groups: test.groups})
			total := uint32(0)
			for i, want := range test.until {
				until := uint32(v.Groups[i]>>bpf.SocketGroupBitsGROUP_UNTIL_SHIFT) & maxGroup
				got, asked := decodeGroup(v.Groups[i]), test.groups[i]
				if until != want || len(got.slots) != len(asked.slots) || got.tier != asked.tier || got.weight != asked.weight {
					t.Errorf("group %d: %+v, until %d, want %d", i, got, until, want)
				}
				total = want
			}
			if v.Total != total || v.Inlined != test.inlined {
				t.Errorf("total %d, inlined %d; want %d, %d", v.Total, v.Inlined, total, test.inlined)
			}
		})
	}
}

func FuzzKey(f *testing.F) {
	f.Add([]byte{10, 96, 0, 1}, uint16(80))
	f.Add(make([]byte, 16), uint16(65535))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 96, 0, 1}, uint16(1))
	f.Fuzz(func(t *testing.T, address []byte, port uint16) {
		addr, ok := netip.AddrFromSlice(address)
		if !ok {
			return
		}
		want := Frontend{Addr: netip.AddrPortFrom(addr, port), Protocol: TCP}.normal()
		if got := decodeKey(encodeKey(want)); got != want {
			t.Errorf("%v comes back as %v", want, got)
		}
	})
}

func TestSequence(t *testing.T) {
	dir := sandbox.BPFFS(t)
	open := func() *sequence {
		t.Helper()
		s, err := openSequence(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.m.Close() })
		return s
	}
	take := func(s *sequence, which uint32) uint32 {
		t.Helper()
		id, err := s.take(which)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	s := open()
	if first := take(s, backendIDs); first != 1 {
		t.Errorf("the first id is %d", first)
	}
	last := uint32(1)
	for range 3 * sequenceStep {
		id := take(s, backendIDs)
		if id != last+1 {
			t.Fatalf("%d after %d", id, last)
		}
		last = id
	}
	if other := take(s, serviceIDs); other != 1 {
		t.Errorf("the other sequence is at %d", other)
	}
	s = open() // the process before died
	if id := take(s, backendIDs); id <= last || id > last+sequenceStep {
		t.Errorf("%d after a restart at %d", id, last)
	}
	// The pin is lost, but not what the maps show.
	if err := os.Remove(filepath.Join(dir, sequencePin)); err != nil {
		t.Fatal(err)
	}
	s = open()
	s.seen(backendIDs, 5000)
	s.seen(backendIDs, 4000)
	if id := take(s, backendIDs); id != 5001 {
		t.Errorf("%d after 5000 was seen", id)
	}
	s.seen(backendIDs, math.MaxUint32-sequenceStep)
	if id, err := s.take(backendIDs); err == nil || !strings.Contains(err.Error(), "bpffs folder") {
		t.Errorf("got %d, %v", id, err)
	}
}

// Whatever is written in whatever order, the maps say it when they are read back.
func TestMapsAgainstUpdates(t *testing.T) {
	d := open(t)
	random := rand.New(rand.NewPCG(5, 6))
	frontends := []Frontend{frontend("10.96.0.1:80"), frontend("10.96.0.1:81"), frontend("10.96.0.2:80")}
	want := map[Frontend][][]string{}
	for step := range 300 {
		f := frontends[random.IntN(len(frontends))]
		if random.IntN(5) == 0 {
			if err := d.Delete(f); err != nil {
				t.Fatal(err)
			}
			delete(want, f)
		} else {
			groups := randomGroups(random)
			update(t, d, Service{Frontend: f, Groups: groups})
			want[f] = naive(groups)
		}
		if _, err := d.sweep(time.Now().Add(grace)); err != nil {
			t.Fatal(err)
		}
		found, err := adopt(d.maps)
		if err != nil {
			t.Fatal(err)
		}
		got := map[Frontend][][]string{}
		for f, e := range found.services {
			if e.stale {
				t.Fatalf("step %d: the value of %v is not what its slots say", step, f)
			}
			got[f] = (&Datapath{services: map[Frontend]*entry{f: e}}).texts()
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(sameGroups)); diff != "" {
			t.Fatalf("step %d: %s", step, diff)
		}
		if len(found.slots)+len(found.backends) != 0 {
			t.Fatalf("step %d: left behind: %v, %v", step, found.slots, found.backends)
		}
	}
}

// texts returns the backends of the only service, by group.
func (d *Datapath) texts() [][]string {
	var all [][]string
	for _, g := range d.Services()[0].Groups {
		var texts []string
		for _, b := range g.Backends {
			texts = append(texts, b.String())
		}
		all = append(all, texts)
	}
	return all
}

// sameGroups compares sets of backends by group; groups at the end that are
// empty do not count.
func sameGroups(a, b [][]string) bool {
	for i := range max(len(a), len(b)) {
		count := map[string]int{}
		if i < len(a) {
			for _, s := range a[i] {
				count[s]++
			}
		}
		if i < len(b) {
			for _, s := range b[i] {
				count[s]--
			}
		}
		for _, n := range count {
			if n != 0 {
				return false
			}
		}
	}
	return true
}

// A write that the kernel refuses half way leaves what serves. A frozen map
// refuses all of them.
func TestWriteFails(t *testing.T) {
	for _, name := range []string{bpf.SocketMapBackend, bpf.SocketMapSlot, bpf.SocketMapService} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			all := echoes(t, 5)
			before := one("10.96.0.1:80", all[:3]...)
			update(t, d, before)
			if err := (*d.maps.byName()[name]).Freeze(); err != nil {
				t.Fatal(err)
			}
			after := one("10.96.0.1:80", all[2:]...)
			size := func() int {
				if _, err := d.sweep(time.Now().Add(grace)); err != nil && name != bpf.SocketMapBackend {
					t.Log(err) // the frozen map keeps what it has
				}
				_, slots, backends := contents(t, d)
				return len(slots) + len(backends)
			}
			sizes := map[int]bool{}
			for range 4 { // the second finds what the first left
				if err := d.Update(after); err == nil || errors.Is(err, ErrFull) {
					t.Fatalf("got %v", err)
				}
				for who := range count(t, "10.96.0.1:80", 60) {
					if who.Addr() == (netip.Addr{}) {
						t.Errorf("answered by %v", who)
					}
				}
				sizes[size()] = true
			}
			if len(sizes) != 1 {
				t.Errorf("attempts that fail fill the maps: %v", sizes)
			}
			if err := d.Update(one("10.96.0.2:80", all[0])); err == nil {
				t.Error("a new service could be written")
			}
			wantNone(t, "tcp4", "10.96.0.2:80")
			if len(d.Services()) != 1 {
				t.Errorf("in effect: %v", d.Services())
			}
			if name == bpf.SocketMapService {
				if err := d.Delete(before.Frontend); err == nil {
					t.Error("deleted")
				}
				wantAny(t, "10.96.0.1:80")
			}
		})
	}
}

func wantAny(t *testing.T, addr string) {
	t.Helper()
	if _, err := dial("tcp4", addr); err != nil {
		t.Error(err)
	}
}

// A kernel without IPv6 has one hook less, and all else works.
func TestWithoutConnect6(t *testing.T) {
	c := config(t)
	lock, err := pin.LockFolder(c.BPFFS)
	if err != nil {
		t.Fatal(err)
	}
	d := &Datapath{config: c, features: Features{Connect4: Yes, Connect6: No, Link: Yes, Batch: Yes}, lock: lock, wake: make(chan struct{}, 1)}
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(d.Remove(), d.Close()); err != nil {
			t.Error(err)
		}
	}()
	v4, v6 := echo(t, "10.1.0.1:8080"), echo(t, "[fd00:1::1]:8080")
	update(t, d, one("10.96.0.1:80", v4), one("[fd00:96::1]:80", v6))
	wantAnswer(t, "tcp4", "10.96.0.1:80", v4)
	wantNone(t, "tcp6", "[fd00:96::1]:80")
	if err := d.SelfTest(t.Context()); err != nil {
		t.Error(err)
	}
}
