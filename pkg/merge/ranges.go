package merge

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// reserved stands for what is our own and no pod's: the nodes' addresses and the
// range of mesh addresses. It is no cluster's name.
const reserved = ""

// ranges say whose which prefix is. Claims of different clusters that overlap
// exclude each other: what is our own is ours, of others the one has it that
// claimed it first, until it gives it up or turns out to be our own; then those
// that it kept out have it, in the order in which they came. A prefix that no
// cluster may have is nobody's.
type ranges struct {
	local  string
	claims tree[[]*rangeClaim]
	came   uint64
	// refused are the claims that lost, by cluster: few.
	refused map[string]map[netip.Prefix]struct{}
	// shown is what the nodes have, touched where it may have changed.
	shown   map[netip.Prefix]*route.Range
	touched map[netip.Prefix]struct{}
	// freed is what was held and is not any more: others may have it.
	freed []netip.Prefix
}

// rangeClaim is one cluster's claim to one prefix.
type rangeClaim struct {
	prefix  netip.Prefix
	cluster string
	came    uint64 // claims are ordered by it
	uses    int    // how many of the cluster's objects say so
	held    bool
	invalid bool
}

func newRanges(local string) *ranges {
	return &ranges{
		local: local, refused: map[string]map[netip.Prefix]struct{}{},
		shown: map[netip.Prefix]*route.Range{}, touched: map[netip.Prefix]struct{}{},
	}
}

func (r *ranges) own(cluster string) bool { return cluster == r.local || cluster == reserved }

// exclude reports whether two clusters cannot both have what overlaps.
func (r *ranges) exclude(a, b string) bool { return a != b && (!r.own(a) || !r.own(b)) }

// claim says that one more object of a cluster has the prefix, which is masked.
func (r *ranges) claim(p netip.Prefix, cluster string) {
	known, _ := r.claims.get(p)
	for _, c := range known {
		if c.cluster == cluster {
			c.uses++
			return
		}
	}
	r.came++
	c := &rangeClaim{prefix: p, cluster: cluster, came: r.came, uses: 1, invalid: route.ValidatePrefix(p) != nil}
	r.claims.put(p, append(slices.Clip(known), c))
	if c.invalid {
		r.refuse(c)
		return
	}
	rivals := r.rivals(c)
	if len(rivals) > 0 && !r.own(cluster) {
		r.refuse(c)
		return
	}
	for _, rival := range rivals {
		r.free(rival)
		r.refuse(rival)
	}
	r.hold(c)
}

// release says that one object of a cluster less has the prefix.
func (r *ranges) release(p netip.Prefix, cluster string) {
	known, _ := r.claims.get(p)
	i := slices.IndexFunc(known, func(c *rangeClaim) bool { return c.cluster == cluster })
	if i < 0 {
		return
	}
	c := known[i]
	if c.uses--; c.uses > 0 {
		return
	}
	if len(known) == 1 {
		r.claims.remove(p)
	} else {
		r.claims.put(p, slices.Concat(known[:i], known[i+1:]))
	}
	if !c.held {
		r.pardon(c)
		return
	}
	r.free(c)
}

// rivals returns the claims that are held and that c cannot be held beside.
func (r *ranges) rivals(c *rangeClaim) []*rangeClaim {
	var out []*rangeClaim
	r.claims.overlapping(c.prefix, func(_ netip.Prefix, claims []*rangeClaim) bool {
		for _, other := range claims {
			if other.held && r.exclude(other.cluster, c.cluster) {
				out = append(out, other)
			}
		}
		return true
	})
	return out
}

// reconsider lets those have what they claim whom only claims kept out that are
// not held any more.
func (r *ranges) reconsider() {
	var waiting []*rangeClaim
	for _, p := range r.freed {
		r.claims.overlapping(p, func(_ netip.Prefix, claims []*rangeClaim) bool {
			for _, c := range claims {
				if !c.held && !c.invalid {
					waiting = append(waiting, c)
				}
			}
			return true
		})
	}
	r.freed = nil
	slices.SortFunc(waiting, func(a, b *rangeClaim) int { return cmp.Compare(a.came, b.came) })
	waiting = slices.Compact(waiting)
	for _, c := range waiting {
		if len(r.rivals(c)) == 0 {
			r.pardon(c)
			r.hold(c)
		}
	}
}

func (r *ranges) hold(c *rangeClaim) {
	c.held = true
	r.touched[c.prefix] = struct{}{}
}

func (r *ranges) free(c *rangeClaim) {
	c.held = false
	r.touched[c.prefix] = struct{}{}
	r.freed = append(r.freed, c.prefix)
}

func (r *ranges) refuse(c *rangeClaim) {
	if r.refused[c.cluster] == nil {
		r.refused[c.cluster] = map[netip.Prefix]struct{}{}
	}
	r.refused[c.cluster][c.prefix] = struct{}{}
}

func (r *ranges) pardon(c *rangeClaim) {
	delete(r.refused[c.cluster], c.prefix)
	if len(r.refused[c.cluster]) == 0 {
		delete(r.refused, c.cluster)
	}
}

// changes ends a pass of claims and releases, whose order does not matter as long
// as all claims are before all releases and are one cluster's. It returns what the
// nodes have otherwise by now, nil for what is nobody's any more.
func (r *ranges) changes() map[netip.Prefix]*route.Range {
	r.reconsider()
	if len(r.touched) == 0 {
		return nil
	}
	var out map[netip.Prefix]*route.Range
	for p := range r.touched {
		now := r.holder(p)
		was := r.shown[p]
		if now == was || now != nil && was != nil && *now == *was {
			continue
		}
		if out == nil {
			out = map[netip.Prefix]*route.Range{}
		}
		out[p] = now
		if now == nil {
			delete(r.shown, p)
		} else {
			r.shown[p] = now
		}
	}
	// A map that was large once is slow to clear ever after.
	r.touched = map[netip.Prefix]struct{}{}
	return out
}

// holder returns whose p is, nil when it is nobody's or reserved alone.
func (r *ranges) holder(p netip.Prefix) *route.Range {
	claims, _ := r.claims.get(p)
	for _, c := range claims {
		if c.held && c.cluster != reserved {
			return &route.Range{Prefix: p, Cluster: c.cluster}
		}
	}
	return nil
}

// reason says why a cluster's claim to p is refused.
func (r *ranges) reason(p netip.Prefix, cluster string) string {
	if err := route.ValidatePrefix(p); err != nil {
		return "is " + err.Error()
	}
	for _, rival := range r.rivals(&rangeClaim{prefix: p, cluster: cluster}) {
		switch rival.cluster {
		case reserved:
			return "overlaps " + rival.prefix.String() + ", which this cluster keeps for nodes and services"
		case r.local:
			return "overlaps " + rival.prefix.String() + ", where this cluster has pods"
		default:
			return "overlaps " + rival.prefix.String() + ", which cluster " + rival.cluster + " had first"
		}
	}
	return ""
}
