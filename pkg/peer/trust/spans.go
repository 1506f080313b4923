package trust

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// spans are prefixes of which none overlaps another, made for questions: each
// takes O(log n) steps on plain numbers. They are not changed once made.
type spans struct {
	prefixes []netip.Prefix
	v4, v6   []span
}

// span is all from the first to the last address, both as numbers.
type span struct{ first, last number }

// number is an address as one; IPv4's take the low part.
type number struct{ high, low uint64 }

func (a number) compare(b number) int {
	if a.high != b.high {
		return cmp.Compare(a.high, b.high)
	}
	return cmp.Compare(a.low, b.low)
}

func newSpans(prefixes []netip.Prefix) spans {
	s := spans{prefixes: route.Canonical(prefixes)}
	for _, p := range s.prefixes {
		if p.Addr().Is4() {
			s.v4 = append(s.v4, spanOf(p))
		} else {
			s.v6 = append(s.v6, spanOf(p))
		}
	}
	return s
}

// spanOf returns what a masked prefix spans.
func spanOf(p netip.Prefix) span {
	free := p.Addr().BitLen() - p.Bits()
	if p.Addr().Is4() {
		raw := p.Addr().As4()
		n := uint64(binary.BigEndian.Uint32(raw[:]))
		return span{number{0, n}, number{0, n | (1<<free - 1)}}
	}
	raw := p.Addr().As16()
	n := number{binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])}
	last := n
	if free > 64 {
		last = number{n.high | (1<<(free-64) - 1), ^uint64(0)}
	} else {
		last.low |= 1<<free - 1
	}
	return span{n, last}
}

// find returns the first span that does not end before want begins.
func (s *spans) find(p netip.Prefix) (found, want span, ok bool) {
	of := s.v6
	if p.Addr().Is4() {
		of = s.v4
	}
	if len(of) == 0 {
		return span{}, span{}, false
	}
	want = spanOf(p)
	low, high := 0, len(of)
	for low < high {
		if middle := int(uint(low+high) / 2); of[middle].last.compare(want.first) < 0 {
			low = middle + 1
		} else {
			high = middle
		}
	}
	if low == len(of) {
		return span{}, want, false
	}
	return of[low], want, true
}

// covers reports whether all of p, which is masked, is in one of them.
func (s *spans) covers(p netip.Prefix) bool {
	found, want, ok := s.find(p)
	return ok && found.first.compare(want.first) <= 0 && found.last.compare(want.last) >= 0
}

// overlaps reports whether part of p, which is masked, is in one of them.
func (s *spans) overlaps(p netip.Prefix) bool {
	found, want, ok := s.find(p)
	return ok && found.first.compare(want.last) <= 0
}

func (s *spans) equal(t *spans) bool { return slices.Equal(s.prefixes, t.prefixes) }

// host is the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
