package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// partsOf cuts backends into parts of size.
func partsOf(backends []netip.AddrPort, size int) [][]netip.AddrPort {
	return slices.Collect(slices.Chunk(backends, size))
}

// randomParts changes some parts of large groups: now and then one comes or
// goes, parts overlap, and sometimes groups do.
func randomParts(random *rand.Rand, groups []Group) []Group {
	groups = slices.Clone(groups)
	for range 1 + random.IntN(3) {
		i := random.IntN(len(groups))
		g := &groups[i]
		g.Parts = slices.Clone(g.Parts)
		base := 1000 * i
		if random.IntN(20) == 0 {
			base = 0 // of the first group perhaps
		}
		made := make([]netip.AddrPort, random.IntN(60))
		for j := range made {
			made[j] = addrPort(base + random.IntN(700))
		}
		switch n := len(g.Parts); {
		case n == 0 || (n < 15 && random.IntN(3) == 0):
			g.Parts = append(g.Parts, made)
		case random.IntN(3) == 0:
			g.Parts = slices.Delete(g.Parts, 0, 1)
		default:
			g.Parts[random.IntN(n)] = made
		}
		random.Shuffle(len(g.Parts), func(x, y int) { g.Parts[x], g.Parts[y] = g.Parts[y], g.Parts[x] })
	}
	return groups
}

// However a large service changes, readers see what a naive model says, at no
// moment a slot that leads nowhere, and the index agrees with the slots.
func TestIndexedPlans(t *testing.T) {
	indexed := 0
	for seed := range uint64(6) {
		random := rand.New(rand.NewPCG(seed, 5))
		m := &model{t: t, seldom: true, slots: map[bpf.SocketSlotKey]uint32{}, backends: map[uint32]target{}}
		e := &entry{id: 1}
		next := uint32(0)
		newID := func() (uint32, error) { next++; return next, nil }
		groups := make([]Group, 1+random.IntN(3))
		for step := range 100 {
			groups = randomParts(random, groups)
			p, ok, err := e.index.plan(e, groups, newID)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				indexed++
			} else {
				if p, err = newPlan(e, groups, newID); err != nil {
					t.Fatal(err)
				}
				p.index = newIndex(p.groups, groups)
			}
			before := clone(e.groups)
			if step%7 == 3 { // the plan fails half way, and is made again
				n := random.IntN(len(p.replaced) + 1)
				p.apply()
				failed := *e
				failed.groups = e.groups
				failed.replace(p, n)
				for _, w := range p.replaced[:n] {
					before[w.key.Group].slots[w.key.Index] = w.backend
				}
				if !slices.EqualFunc(before, failed.groups, func(x, y group) bool { return slices.Equal(x.slots, y.slots) }) {
					t.Fatalf("seed %d step %d: after a failure: %v, want %v", seed, step, failed.groups, before)
				}
				if n > 0 { // what was written is there to be found
					for _, b := range p.created {
						m.backends[b.id] = b.target
					}
					for _, w := range p.replaced[:n] {
						m.slots[w.key] = w.backend.id
					}
				}
				e.groups, e.stale, e.index = failed.groups, true, nil
				continue
			}
			p.apply()
			m.run(p)
			p.commit()
			*e = entry{id: 1, groups: p.groups, index: p.index}
			if want, got := naive(groups), m.got(); !slices.EqualFunc(want, got, slices.Equal) {
				t.Fatalf("seed %d step %d: %s", seed, step, cmp.Diff(want, got))
			}
			checkIndex(t, e, groups)
		}
	}
	if indexed < 100 {
		t.Errorf("only %d plans went by the index", indexed)
	}
}

func clone(groups []group) []group {
	out := slices.Clone(groups)
	for i := range out {
		out[i].slots = slices.Clone(out[i].slots)
	}
	return out
}

func checkIndex(t *testing.T, e *entry, wanted []Group) {
	t.Helper()
	if e.index == nil {
		return
	}
	fresh := newIndex(e.groups, wanted)
	if !maps.Equal(fresh.places, e.index.places) {
		t.Fatalf("places: %v, want %v", e.index.places, fresh.places)
	}
	if !slices.EqualFunc(fresh.parts, e.index.parts, maps.Equal) {
		t.Fatalf("parts: %v, want %v", e.index.parts, fresh.parts)
	}
}

// A large service through the kernel's maps: what is read back is what was
// asked for, and a full map changes nothing.
func TestLargeService(t *testing.T) {
	d := open(t, func(c *Config) { c.MapCapacity = 700 })
	s := one("10.96.0.1:80")
	s.Groups[0].Parts = partsOf(many(600), 100)
	update(t, d, s)
	random := rand.New(rand.NewPCG(1, 1))
	for range 30 {
		next := s
		next.Groups = []Group{{Parts: slices.Clone(s.Groups[0].Parts)}}
		i := random.IntN(6)
		next.Groups[0].Parts[i] = append([]netip.AddrPort{addrPort(random.IntN(900))}, s.Groups[0].Parts[i][:random.IntN(1+len(s.Groups[0].Parts[i]))]...)
		update(t, d, next)
		s = next
		wantLarge(t, d, s)
		if _, err := d.sweep(time.Now().Add(2 * grace)); err != nil {
			t.Fatal(err)
		}
	}
	large := s
	large.Groups = []Group{{Parts: append(slices.Clone(s.Groups[0].Parts), partsOf(many(2000)[900:], 100)...)}}
	if err := d.Update(large); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	wantLarge(t, d, s)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := tryOpen(t, d.config)
	if err != nil {
		t.Fatal(err)
	}
	wantLarge(t, again, s)
	update(t, again, s)
	wantLarge(t, again, s)
}

func wantLarge(t *testing.T, d *Datapath, s Service) {
	t.Helper()
	found, err := adopt(d.maps)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, b := range found.services[s.Frontend].groups[0].slots {
		got = append(got, b.addrPort().String())
	}
	for b := range s.Groups[0].all() {
		want = append(want, b.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(slices.Compact(want), got); diff != "" || found.services[s.Frontend].stale {
		t.Fatalf("in the maps: %s", diff)
	}
}

// BenchmarkOneChangeOf10000 changes one backend of a service with 10,000.
func BenchmarkOneChangeOf10000(b *testing.B) {
	d, err := Open(Config{
		BPFFS: sandbox.BPFFS(b) + "/causeway", Cgroup: sandbox.Cgroup(b),
		MapCapacity: 1 << 22, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	defer d.Remove()
	s := one("10.96.0.1:80")
	s.Groups[0].Parts = partsOf(many(10_000), 100)
	for i := 0; b.Loop(); i++ {
		part := slices.Clone(s.Groups[0].Parts[i%100])
		part[i%len(part)] = addrPort(20_000 + i%2_000)
		s.Groups = []Group{{Parts: slices.Clone(s.Groups[0].Parts)}}
		s.Groups[0].Parts[i%100] = part
		if err := d.Update(s); err != nil {
			b.Fatal(fmt.Errorf("change %d: %w", i, err))
		}
	}
}
