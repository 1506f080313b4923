package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

// ClaimPrefix is where a cluster keeps which number stands for which labels:
// `<ClaimPrefix><number>` -> claim as JSON. It is the cluster's own and is read
// by no peer.
const ClaimPrefix = "causeway/identities/v1/"

// rest is how long a freed number means nothing: a peer that still holds an old
// address must not judge it by new labels.
const rest = 24 * time.Hour

// claim is what a number stands for.
type claim struct {
	Labels identity.Labels `json:"labels"`
	// Freed is when the last workload went; zero while there is one.
	Freed time.Time `json:"freed,omitzero"`
}

// allocator gives each set of labels a number, by compare-and-swap in etcd, so
// that two writers never give two numbers to one set or one number to two. One
// goroutine owns it.
type allocator struct {
	id     cluster.ID
	size   cluster.Size
	etcd   *kvstore.Client
	writer *kvstore.Writer // owns ClaimPrefix, and never prunes it
	now    func() time.Time

	claims  map[identity.Number]claim
	numbers map[identity.Labels]identity.Number
}

// load reads the claims of earlier runs. A record that does not parse keeps its
// number from being used and is reported in the error after all others are read.
// A number outside the cluster's range is from before the cluster, or the mesh,
// was numbered anew: it is another cluster's to give, so it is passed over.
func (a *allocator) load(ctx context.Context) error {
	a.claims = map[identity.Number]claim{}
	a.numbers = map[identity.Labels]identity.Number{}
	var broken []string
	err := a.etcd.List(ctx, kvstore.Prefix(ClaimPrefix), func(item kvstore.Item) error {
		n, c, err := parseClaim(item.Key, item.Value)
		if err != nil {
			broken = append(broken, err.Error())
		}
		if first, last := identity.Range(a.id, a.size); n >= first && n <= last {
			a.keep(n, c)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the allocated identities: %w", err)
	}
	if len(broken) > 0 {
		return fmt.Errorf("read the allocated identities: %d of them do not parse, the first: %s: %w", len(broken), broken[0], errClaim)
	}
	return nil
}

func parseClaim(key string, value []byte) (identity.Number, claim, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(key, ClaimPrefix), 10, 32)
	if err != nil {
		return identity.None, claim{}, fmt.Errorf("key %q: %w", key, err)
	}
	var c claim
	if err := json.Unmarshal(value, &c); err != nil {
		return identity.Number(n), claim{}, fmt.Errorf("key %q: %w", key, err)
	}
	return identity.Number(n), c, nil
}

func (a *allocator) keep(n identity.Number, c claim) {
	a.claims[n] = c
	if c.Labels != "" {
		a.numbers[c.Labels] = n
	}
}

// assign returns a number for every set of labels. With errRangeFull the map
// lacks those for which there was none; with any other error it is nil and
// nothing that was claimed is lost: the next call finds it.
func (a *allocator) assign(ctx context.Context, wanted []identity.Labels) (map[identity.Labels]identity.Number, error) {
	out := make(map[identity.Labels]identity.Number, len(wanted))
	open := make(map[identity.Labels]struct{})
	for _, labels := range wanted {
		if n, ok := a.numbers[labels]; ok {
			a.revive(n)
			out[labels] = n
			continue
		}
		open[labels] = struct{}{}
	}
	var full error
	// A round ends with a claim made, or a number learnt that another writer (or
	// a call of ours whose answer was lost) made: every round gets further.
	for len(open) > 0 {
		proposals := a.propose(open)
		if len(proposals) == 0 {
			full = errRangeFull
			break
		}
		if err := a.claim(ctx, proposals); err != nil {
			return nil, err
		}
		for labels := range open {
			if n, ok := a.numbers[labels]; ok {
				a.revive(n)
				out[labels] = n
				delete(open, labels)
			}
		}
	}
	return out, full
}

// propose picks a free number for as many sets of labels as it can.
func (a *allocator) propose(open map[identity.Labels]struct{}) map[identity.Number]identity.Labels {
	proposals := make(map[identity.Number]identity.Labels, len(open))
	first, last := identity.Range(a.id, a.size)
	free := int(last-first) + 1 - len(a.claims)
	for labels := range open {
		if len(proposals) >= free {
			break
		}
		for n := range identity.Candidates(labels, a.id, a.size) {
			if _, claimed := a.claims[n]; claimed {
				continue
			}
			if _, proposed := proposals[n]; !proposed {
				proposals[n] = labels
				break
			}
		}
	}
	return proposals
}

// claim creates the proposals that nobody has made and learns the others.
func (a *allocator) claim(ctx context.Context, proposals map[identity.Number]identity.Labels) error {
	claims := make([]kvstore.Claim, 0, len(proposals))
	for n, labels := range proposals {
		value, err := json.Marshal(claim{Labels: labels})
		if err != nil {
			return fmt.Errorf("encode the claim of identity %d: %w", n, err)
		}
		claims = append(claims, kvstore.Claim{Key: ClaimPrefix + n.String(), Value: value})
	}
	taken, err := a.etcd.Claim(ctx, kvstore.Alone(), claims)
	if err != nil {
		return fmt.Errorf("claim %d identities: %w", len(claims), err)
	}
	for n, labels := range proposals {
		value, other := taken[ClaimPrefix+n.String()]
		if !other {
			a.keep(n, claim{Labels: labels})
			continue
		}
		_, c, err := parseClaim(ClaimPrefix+n.String(), value)
		if err != nil {
			c = claim{} // nobody's: the number is only kept from being used
		}
		a.keep(n, c)
	}
	return nil
}

// revive takes a number out of its rest.
func (a *allocator) revive(n identity.Number) {
	c := a.claims[n]
	if c.Freed.IsZero() {
		return
	}
	c.Freed = time.Time{}
	a.claims[n] = c
	a.write(n, c)
}

// free sends a number to rest.
func (a *allocator) free(n identity.Number) {
	c, ok := a.claims[n]
	if !ok || !c.Freed.IsZero() {
		return
	}
	c.Freed = a.now().UTC().Truncate(time.Second)
	a.claims[n] = c
	a.write(n, c)
}

// sweep forgets the numbers that have rested, and returns how many.
func (a *allocator) sweep() int {
	swept := 0
	for n, c := range a.claims {
		if c.Freed.IsZero() || a.now().Sub(c.Freed) < rest {
			continue
		}
		delete(a.claims, n)
		delete(a.numbers, c.Labels)
		a.writer.Delete(ClaimPrefix + n.String())
		swept++
	}
	return swept
}

func (a *allocator) write(n identity.Number, c claim) {
	value, err := json.Marshal(c)
	if err != nil { // a string and a time always marshal
		panic(fmt.Sprintf("encode the claim of identity %d: %v", n, err))
	}
	a.writer.Set(ClaimPrefix+n.String(), value)
}
