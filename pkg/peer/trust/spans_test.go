package trust

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// What spans answer is what looking at each prefix does.
func TestSpans(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 7))
	random := func() netip.Prefix {
		if r.IntN(2) == 0 {
			return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(r.IntN(4)), byte(r.IntN(4)), 0, byte(r.IntN(256))}), r.IntN(33)).Masked()
		}
		a := [16]byte{0xfd, byte(r.IntN(4)), 7: byte(r.IntN(4)), 8: byte(r.IntN(4)), 15: byte(r.IntN(256))}
		return netip.PrefixFrom(netip.AddrFrom16(a), r.IntN(129)).Masked()
	}
	for range 300 {
		var prefixes []netip.Prefix
		for range r.IntN(12) {
			if p := random(); p.Bits() > 6 {
				prefixes = append(prefixes, p)
			}
		}
		s := newSpans(prefixes)
		for range 200 {
			p := random()
			covers := slices.ContainsFunc(prefixes, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
			if overlaps := slices.ContainsFunc(prefixes, p.Overlaps); s.overlaps(p) != overlaps || s.covers(p) != covers {
				t.Fatalf("%v and %s: overlaps %t, covers %t", prefixes, p, s.overlaps(p), s.covers(p))
			}
		}
	}
}
