package feed

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// Whatever the order in which two shelves got to the same content, and whatever
// they held in between, all of their digests are the same.
func TestDigestsDependOnContentAlone(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		var a shelf[record]
		model := map[string]string{}
		for range 2000 {
			text := fmt.Sprint(r.IntN(700))
			if r.IntN(3) == 0 {
				delete(model, text)
				a.remove(text)
			} else {
				model[text] = fmt.Sprint(r.IntN(5))
				a.put(record{text, model[text]})
			}
			if r.IntN(200) == 0 {
				a.rootDigest()
			}
		}
		var b shelf[record]
		for _, text := range slices.Sorted(maps.Keys(model)) {
			b.put(record{text, model[text]})
		}
		if a.count != len(model) || b.count != len(model) {
			t.Fatalf("seed %d: %d and %d items, want %d", seed, a.count, b.count, len(model))
		}
		if a.rootDigest() != b.rootDigest() {
			t.Fatalf("seed %d: the roots differ", seed)
		}
		if differ, ok := a.differing(b.filled()); !ok || len(differ) != 0 {
			t.Fatalf("seed %d: %d buckets differ, %v", seed, len(differ), ok)
		}
	}
}

// What differs is found, and no other bucket.
func TestDiffering(t *testing.T) {
	var a, b shelf[record]
	for i := range 10_000 {
		text := fmt.Sprint(i)
		a.put(record{text, "x"})
		if i != 77 {
			b.put(record{text, "x"})
		}
	}
	b.put(record{"78", "y"})
	b.put(record{"new", "x"})
	want := slices.Sorted(slices.Values([]uint32{uint32(bucketOf("77")), uint32(bucketOf("78")), uint32(bucketOf("new"))}))
	if got, ok := a.differing(b.filled()); !ok || !slices.Equal(got, want) {
		t.Errorf("buckets %v differ, want %v", got, want)
	}
	if a.rootDigest() == b.rootDigest() {
		t.Error("the roots are the same")
	}
	var none shelf[record]
	if got, ok := none.differing(b.filled()); !ok || len(got) < 3000 {
		t.Errorf("%d buckets differ from an empty one", len(got))
	}
}

// A boundary between two items cannot be moved without changing the digest.
func TestDigestSeparatesItems(t *testing.T) {
	one := digestOf([]record{{"a", "xy"}, {"b", "z"}})
	two := digestOf([]record{{"a", "x"}, {"b", "yz"}})
	if one == two {
		t.Error("the digest does not say where an item ends")
	}
}

func TestDifferingRefusesMalformed(t *testing.T) {
	var s shelf[record]
	for name, c := range map[string]struct {
		numbers []uint32
		digests int
	}{"no such bucket": {[]uint32{bucketCount}, digestSize}, "too few": {[]uint32{1, 2}, digestSize}, "too many": {nil, 1}} {
		if _, ok := s.differing(c.numbers, make([]byte, c.digests)); ok {
			t.Errorf("%s: taken", name)
		}
	}
}

// Keys are spread: a mesh's addresses fill the buckets evenly.
func TestBuckets(t *testing.T) {
	var count [bucketCount]int
	for i := range 40 * bucketCount {
		count[bucketOf(string([]byte{10, byte(i >> 16), byte(i >> 8), byte(i), 32}))]++
	}
	if most := slices.Max(count[:]); most > 90 {
		t.Errorf("a bucket has %d of %d, 40 on average", most, 40*bucketCount)
	}
}

func BenchmarkRoot(b *testing.B) {
	var s shelf[record]
	for i := range 250_000 {
		s.put(record{fmt.Sprint(i), fmt.Sprintf("%070d", i)})
	}
	for b.Loop() {
		s.put(record{"7", "x"})
		s.stale, s.fresh = [bucketCount / 64]uint64{}, false
		for i := range s.stale {
			s.stale[i] = ^uint64(0)
		}
		s.rootDigest()
	}
}
