package publish

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

// rest is how long a freed number means nothing: a peer that still holds an old
// address must not judge it by new labels, nor a node by another one's address.
const rest = 24 * time.Hour

// claim is whose a number is.
type claim[H comparable] struct {
	Holder H
	// Freed is when the last use of it ended; zero while there is one.
	Freed time.Time
	// stored says that etcd has, or had, it; else it is from the ledger alone.
	stored bool
}

// nobody reports whether the number is only kept from being used.
func (c claim[H]) nobody() bool {
	var none H
	return c.Holder == none
}

// allocator gives each holder a number out of a space, by compare-and-swap in
// etcd, so that two writers never give two numbers to one holder or one number to
// two. One goroutine owns it. Where several processes share an etcd, only the one
// that is elected allocates; see turn.
type allocator[N, H comparable] struct {
	space      space[N, H]
	etcd       *kvstore.Client
	election   *kvstore.Election // nil for a process that has its etcd for itself
	ledger     ledger[N, H]
	wake       func() // called when a process that stands by has something to learn
	now        func() time.Time
	log        *slog.Logger
	registerer prometheus.Registerer

	claims  map[N]claim[H]
	numbers map[H]N
	// changed says that claims are not as the ledger has them.
	changed bool
	// moved are the numbers that were found to be another's than was known here,
	// and those whose holder was found to have another number.
	moved map[N]struct{}

	term   kvstore.Term    // in which writer writes
	writer *kvstore.Writer // keeps etcd as claims says; never prunes
	inbox  *inbox          // of a process that stands by
	stop   func()          // ends what runs for the present turn
}

// newAllocator returns an allocator that knows nothing before its first turn. file
// keeps what it allocated outside etcd, "" for none.
func newAllocator[N, H comparable](cfg Config, in space[N, H], file string, wake func()) *allocator[N, H] {
	return &allocator[N, H]{
		space: in, etcd: cfg.Etcd, election: cfg.Election,
		ledger: ledger[N, H]{path: file, cluster: cfg.Cluster, space: in}, wake: wake,
		now: time.Now, log: cfg.Logger, registerer: cfg.Registerer,
		moved: map[N]struct{}{}, stop: func() {},
	}
}

// save brings the ledger up to date.
func (a *allocator[N, H]) save() error {
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

// load reads, and keeps, the claims in etcd, and returns them. A record that does not parse keeps its
// number from being used and is reported in the error after all others are read.
// A number outside the cluster's range is from before the cluster, or the mesh,
// was numbered anew: it is another cluster's to give, so it is passed over.
func (a *allocator[N, H]) load(ctx context.Context) (found map[N]claim[H], err error) {
	found = map[N]claim[H]{}
	var broken []string
	err = a.etcd.List(ctx, kvstore.Prefix(a.space.prefix), func(item kvstore.Item) error {
		n, c, err := a.parse(item.Key, item.Value)
		if err != nil {
			broken = append(broken, err.Error())
		}
		if a.space.ours(n) {
			c.stored = true
			found[n] = c
			a.keep(n, c)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the allocated %s: %w", a.space.nouns, err)
	}
	if len(broken) > 0 {
		return found, fmt.Errorf("read the allocated %s: %d of them do not parse, the first: %s: %w", a.space.nouns, len(broken), broken[0], errClaim)
	}
	return found, nil
}

// parse reads what is stored under a key.
func (a *allocator[N, H]) parse(key string, value []byte) (n N, c claim[H], err error) {
	if n, err = a.space.parse(strings.TrimPrefix(key, a.space.prefix)); err != nil {
		return n, c, fmt.Errorf("key %q: %w", key, err)
	}
	if _, c, err = a.space.decode(value); err != nil {
		return n, claim[H]{}, fmt.Errorf("key %q: %w", key, err)
	}
	return n, c, nil
}

// keep makes a number mean what c says, whatever was known before.
func (a *allocator[N, H]) keep(n N, c claim[H]) {
	old, known := a.claims[n]
	if known && old == c {
		return
	}
	a.changed = true
	if known && old.Holder != c.Holder {
		if old.stored {
			a.moved[n] = struct{}{}
		}
		if a.numbers[old.Holder] == n {
			delete(a.numbers, old.Holder)
		}
	}
	a.claims[n] = c
	if c.nobody() {
		return
	}
	// Of two numbers for one holder the one that etcd has counts, and of two in
	// etcd, which only another program can have written, the one in use.
	if other, ok := a.numbers[c.Holder]; ok && other != n {
		if rival := a.claims[other]; rival.stored && (!c.stored || rival.Freed.IsZero()) {
			return
		}
		if rival := a.claims[other]; rival.stored {
			a.moved[other] = struct{}{}
		}
	}
	a.numbers[c.Holder] = n
}

// drop forgets a number.
func (a *allocator[N, H]) drop(n N) {
	c, known := a.claims[n]
	if !known {
		return
	}
	a.changed = true
	delete(a.claims, n)
	if a.numbers[c.Holder] == n {
		delete(a.numbers, c.Holder)
	}
}

// assign returns a number for every holder. With the error of a
// full space the map lacks those for which there was none, with errStandby those that the writer
// has to allocate; with any other error those that were not known before, and
// nothing that was claimed is lost: the next call finds it.
func (a *allocator[N, H]) assign(ctx context.Context, wanted []H) (map[H]N, error) {
	out := make(map[H]N, len(wanted))
	open := make(map[H]struct{})
	for _, holder := range wanted {
		if n, ok := a.numbers[holder]; ok && a.claims[n].stored {
			a.revive(n)
			out[holder] = n
			continue
		}
		open[holder] = struct{}{}
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
			full = a.space.full
			break
		}
		if err := a.create(ctx, a.term, proposals); err != nil {
			return out, fmt.Errorf("claim %d %s: %w", len(proposals), a.space.nouns, err)
		}
		for holder := range open {
			if n, ok := a.numbers[holder]; ok {
				a.revive(n)
				out[holder] = n
				delete(open, holder)
			}
		}
	}
	return out, full
}

// propose picks a free number for as many holders as it can.
func (a *allocator[N, H]) propose(open map[H]struct{}) map[N]claim[H] {
	proposals := make(map[N]claim[H], len(open))
	free := a.space.size - len(a.claims)
	for holder := range open {
		if len(proposals) >= free {
			break
		}
		for n := range a.space.candidates(holder) {
			if _, claimed := a.claims[n]; claimed {
				continue
			}
			if _, proposed := proposals[n]; !proposed {
				proposals[n] = claim[H]{Holder: holder}
				break
			}
		}
	}
	return proposals
}

// create makes those of the claims that nobody has made and learns the others.
func (a *allocator[N, H]) create(ctx context.Context, term kvstore.Term, wanted map[N]claim[H]) error {
	claims := make([]kvstore.Claim, 0, len(wanted))
	for n, c := range wanted {
		claims = append(claims, kvstore.Claim{Key: a.key(n), Value: a.encode(c)})
	}
	taken, err := a.etcd.Claim(ctx, term, claims)
	if err != nil {
		return err
	}
	for n, c := range wanted {
		value, other := taken[a.key(n)]
		if other {
			if _, c, err = a.parse(a.key(n), value); err != nil {
				c = claim[H]{} // nobody's: the number is only kept from being used
			}
		}
		c.stored = true
		a.keep(n, c)
		if term == a.term && !c.nobody() {
			a.write(n, c)
		}
	}
	return nil
}

// revive takes a number out of its rest.
func (a *allocator[N, H]) revive(n N) {
	c := a.claims[n]
	if c.Freed.IsZero() || !a.allocates() {
		return
	}
	c.Freed = time.Time{}
	a.keep(n, c)
	a.write(n, c)
}

// free sends a number to rest.
func (a *allocator[N, H]) free(n N) {
	c, ok := a.claims[n]
	if !ok || !c.Freed.IsZero() || c.nobody() || !a.allocates() {
		return
	}
	c.Freed = a.now().UTC().Truncate(time.Second)
	a.keep(n, c)
	a.write(n, c)
}

// sweep forgets the numbers that have rested, and returns how many.
func (a *allocator[N, H]) sweep() int {
	swept := 0
	if !a.allocates() {
		return 0
	}
	for n, c := range a.claims {
		if c.Freed.IsZero() || a.now().Sub(c.Freed) < rest {
			continue
		}
		a.drop(n)
		a.writer.Delete(a.key(n))
		swept++
	}
	return swept
}

// allocates reports whether this process is the one that allocates.
func (a *allocator[N, H]) allocates() bool { return a.term.Writes() }

func (a *allocator[N, H]) key(n N) string { return a.space.prefix + a.space.format(n) }

// encode returns what is stored of a claim.
func (a *allocator[N, H]) encode(c claim[H]) []byte {
	var none N
	value, err := a.space.encode(none, c)
	if err != nil { // strings and a time always marshal
		panic(fmt.Sprintf("encode a claim of %s: %v", a.space.nouns, err))
	}
	return value
}

func (a *allocator[N, H]) write(n N, c claim[H]) {
	a.writer.Set(a.key(n), a.encode(c))
}
