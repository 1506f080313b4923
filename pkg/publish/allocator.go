package publish

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

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
	// stored says that etcd has, or had, it; else it is from the ledger alone.
	stored bool
}

// allocator gives each set of labels a number, by compare-and-swap in etcd, so
// that two writers never give two numbers to one set or one number to two. One
// goroutine owns it. Where several processes share an etcd, only the one that is
// elected allocates; see turn.
type allocator struct {
	id         cluster.ID
	size       cluster.Size
	etcd       *kvstore.Client
	election   *kvstore.Election // nil for a process that has its etcd for itself
	ledger     ledger
	wake       func() // called when a process that stands by has something to learn
	now        func() time.Time
	log        *slog.Logger
	registerer prometheus.Registerer

	claims  map[identity.Number]claim
	numbers map[identity.Labels]identity.Number
	// changed says that claims are not as the ledger has them.
	changed bool
	// moved are the numbers that were found to mean something else than was
	// known here, and those whose labels were found to have another number.
	moved map[identity.Number]struct{}

	term   kvstore.Term    // in which writer writes
	writer *kvstore.Writer // keeps etcd as claims says; never prunes
	inbox  *inbox          // of a process that stands by
	stop   func()          // ends what runs for the present turn
}

func newAllocator(cfg Config, wake func()) *allocator {
	return &allocator{
		id: cfg.Cluster.ID, size: cfg.Cluster.Size, etcd: cfg.Etcd, election: cfg.Election,
		ledger: ledger{path: cfg.IdentitiesFile, cluster: cfg.Cluster}, wake: wake,
		now: time.Now, log: cfg.Logger, registerer: cfg.Registerer,
		moved: map[identity.Number]struct{}{}, stop: func() {},
	}
}

// save brings the ledger up to date.
func (a *allocator) save() error {
	if !a.changed {
		return nil
	}
	if err := a.ledger.save(a.claims); err != nil {
		return err
	}
	a.changed = false
	return nil
}

// running runs fn until the func returned is called, which waits.
func running(ctx context.Context, fn func(context.Context) error, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			log.Error("allocations are not written", "error", err)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// ours reports whether a number is this cluster's to give.
func (a *allocator) ours(n identity.Number) bool {
	first, last := identity.Range(a.id, a.size)
	return n >= first && n <= last
}

// load reads, and keeps, the claims in etcd, and returns them. A record that does not parse keeps its
// number from being used and is reported in the error after all others are read.
// A number outside the cluster's range is from before the cluster, or the mesh,
// was numbered anew: it is another cluster's to give, so it is passed over.
func (a *allocator) load(ctx context.Context) (found map[identity.Number]claim, err error) {
	found = map[identity.Number]claim{}
	var broken []string
	err = a.etcd.List(ctx, kvstore.Prefix(ClaimPrefix), func(item kvstore.Item) error {
		n, c, err := parseClaim(item.Key, item.Value)
		if err != nil {
			broken = append(broken, err.Error())
		}
		if a.ours(n) {
			c.stored = true
			found[n] = c
			a.keep(n, c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the allocated identities: %w", err)
	}
	if len(broken) > 0 {
		return found, fmt.Errorf("read the allocated identities: %d of them do not parse, the first: %s: %w", len(broken), broken[0], errClaim)
	}
	return found, nil
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

// keep makes a number mean what c says, whatever was known before.
func (a *allocator) keep(n identity.Number, c claim) {
	old, known := a.claims[n]
	if known && old == c {
		return
	}
	a.changed = true
	if known && old.Labels != c.Labels {
		if old.stored {
			a.moved[n] = struct{}{}
		}
		if a.numbers[old.Labels] == n {
			delete(a.numbers, old.Labels)
		}
	}
	a.claims[n] = c
	if c.Labels == "" {
		return
	}
	// Of two numbers for one set the one that etcd has counts, and of two in
	// etcd, which only another program can have written, the one in use.
	if other, ok := a.numbers[c.Labels]; ok && other != n {
		if rival := a.claims[other]; rival.stored && (!c.stored || rival.Freed.IsZero()) {
			return
		}
		if rival := a.claims[other]; rival.stored {
			a.moved[other] = struct{}{}
		}
	}
	a.numbers[c.Labels] = n
}

// drop forgets a number.
func (a *allocator) drop(n identity.Number) {
	c, known := a.claims[n]
	if !known {
		return
	}
	a.changed = true
	delete(a.claims, n)
	if a.numbers[c.Labels] == n {
		delete(a.numbers, c.Labels)
	}
}

// assign returns a number for every set of labels. With errRangeFull the map
// lacks those for which there was none, with errStandby those that the writer
// has to allocate; with any other error those that were not known before, and
// nothing that was claimed is lost: the next call finds it.
func (a *allocator) assign(ctx context.Context, wanted []identity.Labels) (map[identity.Labels]identity.Number, error) {
	out := make(map[identity.Labels]identity.Number, len(wanted))
	open := make(map[identity.Labels]struct{})
	for _, labels := range wanted {
		if n, ok := a.numbers[labels]; ok && a.claims[n].stored {
			a.revive(n)
			out[labels] = n
			continue
		}
		open[labels] = struct{}{}
	}
	if !a.allocates() {
		if len(open) > 0 {
			return out, errStandby
		}
		return out, nil
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
		if err := a.create(ctx, a.term, proposals); err != nil {
			return out, fmt.Errorf("claim %d identities: %w", len(proposals), err)
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
func (a *allocator) propose(open map[identity.Labels]struct{}) map[identity.Number]claim {
	proposals := make(map[identity.Number]claim, len(open))
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
				proposals[n] = claim{Labels: labels}
				break
			}
		}
	}
	return proposals
}

// create makes those of the claims that nobody has made and learns the others.
func (a *allocator) create(ctx context.Context, term kvstore.Term, wanted map[identity.Number]claim) error {
	claims := make([]kvstore.Claim, 0, len(wanted))
	for n, c := range wanted {
		claims = append(claims, kvstore.Claim{Key: ClaimPrefix + n.String(), Value: encodeClaim(n, c)})
	}
	taken, err := a.etcd.Claim(ctx, term, claims)
	if err != nil {
		return err
	}
	for n, c := range wanted {
		value, other := taken[ClaimPrefix+n.String()]
		if other {
			if _, c, err = parseClaim(ClaimPrefix+n.String(), value); err != nil {
				c = claim{} // nobody's: the number is only kept from being used
			}
		}
		c.stored = true
		a.keep(n, c)
		if term == a.term && c.Labels != "" {
			a.write(n, c)
		}
	}
	return nil
}

// revive takes a number out of its rest.
func (a *allocator) revive(n identity.Number) {
	c := a.claims[n]
	if c.Freed.IsZero() || !a.allocates() {
		return
	}
	c.Freed = time.Time{}
	a.keep(n, c)
	a.write(n, c)
}

// free sends a number to rest.
func (a *allocator) free(n identity.Number) {
	c, ok := a.claims[n]
	if !ok || !c.Freed.IsZero() || c.Labels == "" || !a.allocates() {
		return
	}
	c.Freed = a.now().UTC().Truncate(time.Second)
	a.keep(n, c)
	a.write(n, c)
}

// sweep forgets the numbers that have rested, and returns how many.
func (a *allocator) sweep() int {
	swept := 0
	if !a.allocates() {
		return 0
	}
	for n, c := range a.claims {
		if c.Freed.IsZero() || a.now().Sub(c.Freed) < rest {
			continue
		}
		a.drop(n)
		a.writer.Delete(ClaimPrefix + n.String())
		swept++
	}
	return swept
}

// allocates reports whether this process is the one that allocates.
func (a *allocator) allocates() bool { return a.term.Writes() }

func (a *allocator) write(n identity.Number, c claim) {
	a.writer.Set(ClaimPrefix+n.String(), encodeClaim(n, c))
}

func encodeClaim(n identity.Number, c claim) []byte {
	value, err := json.Marshal(c)
	if err != nil { // a string and a time always marshal
		panic(fmt.Sprintf("encode the claim of identity %d: %v", n, err))
	}
	return value
}
