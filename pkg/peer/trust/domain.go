package trust

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// domain is a range that is one peer's alone.
type domain struct {
	Claim
	peer string
	span span
}

// domains are sorted, IPv4 first, and do not overlap each other.
type domains struct{ v4, v6 []domain }

// sortDomains sorts by range, a shorter prefix before those in it.
func sortDomains(all []domain) []domain {
	slices.SortFunc(all, func(a, b domain) int { return cmp.Or(route.Compare(a.Range, b.Range), cmp.Compare(a.peer, b.peer)) })
	return all
}

// contests returns those of sorted domains that overlap another peer's.
func contests(all []domain) (out []domain) {
	contested := make([]bool, len(all))
	var around []int // the places of those that contain the present one
	for i, d := range all {
		for len(around) > 0 && !all[around[len(around)-1]].Range.Overlaps(d.Range) {
			around = around[:len(around)-1]
		}
		for _, j := range around {
			if all[j].peer != d.peer {
				contested[i], contested[j] = true, true
			}
		}
		around = append(around, i)
	}
	for i, is := range contested {
		if is {
			out = append(out, all[i])
		}
	}
	return out
}

// late returns those of all that a peer said of itself after another one, which is named
// with it, had part of it in use: of several the first. What a file declares is not late.
func late(all, used []domain) map[domain]string {
	var ranges []netip.Prefix
	for _, u := range used {
		ranges = append(ranges, u.Range)
	}
	inUse := newSpans(ranges)
	out := map[domain]string{}
	for _, d := range all {
		if d.Origin != Agreed || !inUse.overlaps(d.Range.Masked()) {
			continue
		}
		var first domain
		for _, u := range used {
			if u.peer == d.peer || !u.Since.Before(d.Since) || !u.Contends(d.Claim) {
				continue
			}
			if first.peer == "" || cmp.Or(u.Since.Compare(first.Since), cmp.Compare(u.peer, first.peer)) < 0 {
				first = u
			}
		}
		if first.peer != "" {
			out[d] = first.peer
		}
	}
	return out
}

// newDomains takes sorted domains of which none overlaps another peer's.
func newDomains(all []domain) (out domains) {
	var last netip.Prefix
	for _, d := range all {
		if last.IsValid() && last.Overlaps(d.Range) {
			continue // in another one of the same peer
		}
		last = d.Range
		d.span = spanOf(d.Range)
		if d.Range.Addr().Is4() {
			out.v4 = append(out.v4, d)
		} else {
			out.v6 = append(out.v6, d)
		}
	}
	return out
}

// foreign returns a peer, other than the one that is named, that has part of p,
// which is masked; "" when there is none.
func (d *domains) foreign(p netip.Prefix, name string) string {
	of := d.v6
	if p.Addr().Is4() {
		of = d.v4
	}
	if len(of) == 0 {
		return ""
	}
	want := spanOf(p)
	i, _ := slices.BinarySearchFunc(of, want.first, func(d domain, first number) int { return d.span.last.compare(first) })
	for ; i < len(of) && of[i].span.first.compare(want.last) <= 0; i++ {
		if of[i].peer != name {
			return of[i].peer
		}
	}
	return ""
}

// changes adds to changed the ranges that are not whose they were.
func (d *domains) changes(was domains, changed map[netip.Prefix]struct{}) map[netip.Prefix]struct{} {
	owners := map[netip.Prefix]string{}
	for _, o := range slices.Concat(was.v4, was.v6) {
		owners[o.Range] = o.peer
	}
	add := func(p netip.Prefix) {
		if changed == nil {
			changed = map[netip.Prefix]struct{}{}
		}
		changed[p] = struct{}{}
	}
	for _, n := range slices.Concat(d.v4, d.v6) {
		if owners[n.Range] != n.peer {
			add(n.Range)
		}
		delete(owners, n.Range)
	}
	for p := range owners {
		add(p)
	}
	return changed
}
