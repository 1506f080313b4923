package ranges

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// The parts that observed addresses are summarised to. They are those by which a
// peer's first addresses are agreed, so that both say the same of one cluster.
const (
	aroundBits4 = 16
	aroundBits6 = 48
)

// maxText is how many ranges a sentence names.
const maxText = 6

// Around returns the parts of /16 and /48 that addresses are in, sorted.
func Around(addrs []netip.Addr) []netip.Prefix {
	single := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		single = append(single, netip.PrefixFrom(a, a.BitLen()))
	}
	return around(single)
}

func around(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		bits := aroundBits4
		if p.Addr().Is6() {
			bits = aroundBits6
		}
		out = append(out, netip.PrefixFrom(p.Addr(), min(bits, p.Bits())).Masked())
	}
	return route.Canonical(out)
}

// Aggregate returns the fewest prefixes that hold exactly what those given hold,
// sorted: what is in another one goes, and two halves become the whole.
func Aggregate(prefixes []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	sorted := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, route.Compare)
	for _, p := range sorted {
		if len(out) > 0 && contains(out[len(out)-1], p) {
			continue
		}
		out = append(out, p)
		for len(out) > 1 {
			whole, ok := joined(out[len(out)-2], out[len(out)-1])
			if !ok {
				break
			}
			out = append(out[:len(out)-2], whole)
		}
	}
	return out
}

// joined returns the prefix of which a and b are the halves.
func joined(a, b netip.Prefix) (netip.Prefix, bool) {
	if a.Bits() != b.Bits() || a.Bits() == 0 || a.Addr().BitLen() != b.Addr().BitLen() {
		return netip.Prefix{}, false
	}
	whole := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
	return whole, whole == netip.PrefixFrom(b.Addr(), b.Bits()-1).Masked()
}

func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// Text names ranges in a sentence, the first of them when there are many.
func Text(ranges []netip.Prefix) string {
	if len(ranges) == 0 {
		return "none"
	}
	texts := make([]string, 0, maxText+1)
	for i, r := range ranges {
		if i == maxText {
			texts = append(texts, fmt.Sprintf("%d more", len(ranges)-maxText))
			break
		}
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ", ")
}

// List is the text of ranges as flags take it.
func List(ranges []netip.Prefix) string {
	texts := make([]string, 0, len(ranges))
	for _, r := range ranges {
		texts = append(texts, r.String())
	}
	return strings.Join(texts, ",")
}
