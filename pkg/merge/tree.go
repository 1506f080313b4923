package merge

import (
	"math/bits"
	"net/netip"
)

// tree holds values by prefix, so that all that overlap one are found without a
// look at the others: a path-compressed binary tree (D. Morrison, PATRICIA, 1968)
// a family.
type tree[V any] struct {
	roots [2]*branch[V]
}

type branch[V any] struct {
	prefix netip.Prefix
	filled bool
	value  V
	down   [2]*branch[V]
}

func (t *tree[V]) root(p netip.Prefix) **branch[V] {
	if p.Addr().Is4() {
		return &t.roots[0]
	}
	return &t.roots[1]
}

// get returns the value of exactly p.
func (t *tree[V]) get(p netip.Prefix) (value V, ok bool) {
	at := *t.root(p)
	for at != nil && at.prefix.Bits() <= p.Bits() && at.prefix.Contains(p.Addr()) {
		if at.prefix.Bits() == p.Bits() {
			return at.value, at.filled
		}
		at = at.down[bit(p.Addr(), at.prefix.Bits())]
	}
	return value, false
}

// put makes v the value of p, which is masked.
func (t *tree[V]) put(p netip.Prefix, v V) {
	at := t.root(p)
	for *at != nil {
		b := *at
		shared := common(b.prefix, p)
		switch {
		case shared == b.prefix.Bits() && shared == p.Bits():
			b.value, b.filled = v, true
			return
		case shared == b.prefix.Bits():
			at = &b.down[bit(p.Addr(), shared)]
			continue
		}
		fork := &branch[V]{prefix: netip.PrefixFrom(p.Addr(), shared).Masked()}
		fork.down[bit(b.prefix.Addr(), shared)] = b
		*at = fork
		if shared == p.Bits() {
			fork.value, fork.filled = v, true
			return
		}
		at = &fork.down[bit(p.Addr(), shared)]
	}
	*at = &branch[V]{prefix: p, filled: true, value: v}
}

// remove takes the value of exactly p out.
func (t *tree[V]) remove(p netip.Prefix) {
	path := []**branch[V]{t.root(p)}
	for {
		b := *path[len(path)-1]
		if b == nil || b.prefix.Bits() > p.Bits() || !b.prefix.Contains(p.Addr()) {
			return
		}
		if b.prefix.Bits() == p.Bits() {
			break
		}
		path = append(path, &b.down[bit(p.Addr(), b.prefix.Bits())])
	}
	var none V
	(*path[len(path)-1]).filled, (*path[len(path)-1]).value = false, none
	// A branch without a value is there to part two others.
	for i := len(path) - 1; i >= 0; i-- {
		b := *path[i]
		switch {
		case b.filled || b.down[0] != nil && b.down[1] != nil:
			return
		case b.down[0] != nil:
			*path[i] = b.down[0]
		default:
			*path[i] = b.down[1]
		}
	}
}

// overlapping calls fn with all values whose prefix overlaps p, the shorter ones
// first, until it returns false.
func (t *tree[V]) overlapping(p netip.Prefix, fn func(netip.Prefix, V) bool) {
	at := *t.root(p)
	for at != nil && at.prefix.Bits() < p.Bits() {
		if !at.prefix.Contains(p.Addr()) || at.filled && !fn(at.prefix, at.value) {
			return
		}
		at = at.down[bit(p.Addr(), at.prefix.Bits())]
	}
	if at != nil && p.Contains(at.prefix.Addr()) {
		at.each(fn)
	}
}

func (b *branch[V]) each(fn func(netip.Prefix, V) bool) bool {
	if b.filled && !fn(b.prefix, b.value) {
		return false
	}
	for _, d := range b.down {
		if d != nil && !d.each(fn) {
			return false
		}
	}
	return true
}

// bit returns the n-th bit of a, counted from the left.
func bit(a netip.Addr, n int) int {
	if a.Is4() {
		text := a.As4()
		return int(text[n/8]>>(7-n%8)) & 1
	}
	text := a.As16()
	return int(text[n/8]>>(7-n%8)) & 1
}

// common returns how many bits two prefixes of one family begin with alike.
func common(p, q netip.Prefix) int {
	a, b := p.Addr().As16(), q.Addr().As16()
	from := 128 - p.Addr().BitLen() // an IPv4 address is the end of its mapped form
	n := 128
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			n = 8*i + bits.LeadingZeros8(x)
			break
		}
	}
	return min(n-from, p.Bits(), q.Bits())
}
