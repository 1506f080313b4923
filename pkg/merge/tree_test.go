package merge

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestTree compares the tree with a map that is looked at from end to end.
func TestTree(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		random := rand.New(rand.NewPCG(7, 9))
		draw := func() netip.Prefix {
			if v6 {
				a := netip.MustParseAddr("fd00::").As16()
				a[15], a[14], a[2] = byte(random.IntN(256)), byte(random.IntN(2)), byte(random.IntN(2))
				return netip.PrefixFrom(netip.AddrFrom16(a), random.IntN(129)).Masked()
			}
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(random.IntN(2)), byte(random.IntN(3)), byte(random.IntN(256))}), random.IntN(33)).Masked()
		}
		var tree tree[int]
		model := map[netip.Prefix]int{}
		for i := range 5000 {
			p := draw()
			if random.IntN(3) == 0 {
				tree.remove(p)
				delete(model, p)
			} else {
				tree.put(p, i)
				model[p] = i
			}
			q := draw()
			if got, ok := tree.get(q); ok != has(model, q) || got != model[q] {
				t.Fatalf("get %s: %d, %t, want %d", q, got, ok, model[q])
			}
			got, want := map[netip.Prefix]int{}, map[netip.Prefix]int{}
			tree.overlapping(q, func(p netip.Prefix, v int) bool { got[p] = v; return true })
			for p, v := range model {
				if p.Overlaps(q) {
					want[p] = v
				}
			}
			if !maps.Equal(got, want) {
				t.Fatalf("what overlaps %s: %v, want %v", q, got, want)
			}
		}
		for p := range model {
			tree.remove(p)
		}
		if tree.roots != [2]*branch[int]{} {
			t.Error("branches are left of an empty tree")
		}
	}
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

func TestTreeStops(t *testing.T) {
	var tree tree[int]
	for i, text := range []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.1.2.4/32"} {
		tree.put(netip.MustParsePrefix(text), i)
	}
	for stop := 1; stop <= 5; stop++ {
		calls := 0
		tree.overlapping(netip.MustParsePrefix("10.1.0.0/16"), func(netip.Prefix, int) bool { calls++; return calls < stop })
		if calls != stop {
			t.Errorf("%d calls, want %d", calls, stop)
		}
	}
}
