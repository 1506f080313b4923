package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// turn makes the allocator what this process is at present: the writer, which
// allocates, or one that stands by and learns. It reports whether a term began.
func (a *allocator[N, H]) turn(ctx context.Context) (began bool, err error) {
	if a.claims == nil {
		a.claims, a.numbers = map[N]claim[H]{}, map[H]N{}
		if err := a.restore(); err != nil {
			return false, err
		}
	}
	term, _ := a.election.Term()
	switch {
	case !term.Writes():
		return false, a.learn(ctx)
	case term != a.term:
		if err := a.begin(ctx, term); err != nil {
			return false, err
		}
		return true, nil
	}
	return false, nil
}

// restore takes in what was saved outside etcd. It is used only once etcd has
// it too: in this process's first term, if not before.
func (a *allocator[N, H]) restore() error {
	saved, err := a.ledger.load()
	if err != nil && !errors.Is(err, errLedger) {
		a.claims = nil // read again the next time
		return err
	}
	if err != nil {
		a.log.Warn("saved allocations are not used", "of", a.space.nouns, "error", err)
	}
	for n, c := range saved {
		if a.space.ours(n) {
			a.keep(n, c)
		}
	}
	return nil
}

// begin takes over the allocations: what etcd has counts, and what it lost is
// put back before anything new is allocated. Nobody else writes in the term, so
// what is known then stays true.
func (a *allocator[N, H]) begin(ctx context.Context, term kvstore.Term) error {
	a.stop()
	a.term = kvstore.Term{}
	found, err := a.load(ctx)
	if err != nil && !errors.Is(err, errClaim) {
		return err
	}
	if err != nil {
		a.log.Warn("some allocations are passed over", "of", a.space.nouns, "error", err)
	}
	lost := map[N]claim[H]{}
	for n, c := range a.claims {
		if _, ok := found[n]; !ok && !c.nobody() {
			lost[n] = c
		}
	}
	if err := a.create(ctx, term, lost); err != nil {
		return fmt.Errorf("restore %d %s: %w", len(lost), a.space.nouns, err)
	}
	if len(lost) > 0 {
		a.log.Info("allocations that etcd lacked are restored", "of", a.space.nouns, "count", len(lost))
	}
	a.start(ctx, term)
	return nil
}

// start runs what keeps etcd as the allocator has it, for the term.
func (a *allocator[N, H]) start(ctx context.Context, term kvstore.Term) {
	a.writer = kvstore.NewWriter(kvstore.WriterConfig{
		Client: a.etcd, Name: a.space.name, Prefixes: []string{a.space.prefix}, Election: a.election, Term: term,
		Logger: a.log, Registerer: a.registerer,
	})
	for n, c := range a.claims {
		if !c.nobody() {
			a.write(n, c)
		}
	}
	a.stop = running(ctx, func(ctx context.Context) error { return a.writer.Run(ctx) }, a.log)
	a.term = term
}

// learn takes in what the writer allocated.
func (a *allocator[N, H]) learn(ctx context.Context) error {
	if a.inbox == nil {
		a.stop()
		a.term = kvstore.Term{}
		a.inbox = &inbox{wake: a.wake, items: map[string]kvstore.Change{}}
		box := a.inbox
		end := running(ctx, func(ctx context.Context) error {
			return a.etcd.Follow(ctx, kvstore.FollowConfig{Ranges: []kvstore.Range{kvstore.Prefix(a.space.prefix)}, Proof: wire.HeartbeatKey, Handler: box, Logger: a.log})
		}, a.log)
		a.stop = func() {
			end()
			a.inbox, a.stop = nil, func() {}
		}
	}
	items, complete := a.inbox.take()
	for key, change := range items {
		a.note(key, change)
	}
	if !complete {
		return errStandby
	}
	return nil
}

// note takes in one change of the writer's. What a listing lacks may be what
// another store lacks: the writer, or this process when it becomes the writer,
// puts it back.
func (a *allocator[N, H]) note(key string, change kvstore.Change) {
	n, c, err := a.parse(key, change.Value)
	switch {
	case change.Deleted:
		if change.Revision > 0 {
			a.drop(n)
		}
	case err == nil && a.space.ours(n):
		c.stored = true
		a.keep(n, c)
	}
}

// inbox holds what the writer allocated until the allocator takes it: the newest
// of each key.
type inbox struct {
	wake func()

	mu       sync.Mutex
	items    map[string]kvstore.Change
	complete bool
}

func (b *inbox) take() (items map[string]kvstore.Change, complete bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	items, b.items = b.items, map[string]kvstore.Change{}
	return items, b.complete
}

// Changes implements kvstore.Handler.
func (b *inbox) Changes(_ context.Context, changes []kvstore.Change) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range changes {
		b.items[c.Key] = c
	}
	if b.complete {
		b.wake()
	}
	return nil
}

// Complete implements kvstore.Handler.
func (b *inbox) Complete(context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complete = true
	b.wake()
	return nil
}

// Trouble implements kvstore.Handler: what is known stays, and the election says
// when the store does not answer.
func (b *inbox) Trouble(error) {}
