package join

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

// followEvery is how often what peers say of where they are reached is looked at: a
// peer that says something else all the time makes no more writes than that.
const followEvery = 5 * time.Second

// wayTo are the endpoints that a cluster said last, and in which join.
type wayTo struct {
	endpoints []string
	origin    string
}

// reached keeps what a cluster says, for writeReached.
func (b *book) reached(name string, endpoints []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.members[name].Reads; r != nil {
		b.ways[name] = wayTo{endpoints: endpoints, origin: r.origin()}
	}
}

// writeReached writes to the records what peers said. What can not be written is tried
// again by the next call.
func (b *book) writeReached(ctx context.Context) {
	b.mu.Lock()
	all := maps.Clone(b.ways)
	b.mu.Unlock()
	for name, s := range all {
		if len(s.changes(b.member(name))) == 0 {
			b.heard(name, s)
			continue
		}
		var now []string
		err := b.swap(ctx, name, nil, func(m member) (member, error) {
			if now = s.changes(m); len(now) > 0 {
				next := *m.Reads // the record that is known has the other one
				next.Endpoints, next.Said = now, s.endpoints
				m.Reads = &next
			}
			return m, nil
		})
		if err == nil {
			b.heard(name, s)
		}
		switch {
		case err != nil && b.unreached.due(ctx, err):
			b.log.Warn("addresses of a joined peer are not in its record yet, will retry", "cluster", name, "error", err)
		case err == nil && len(now) > 0:
			b.log.Info("joined peer says that it is reached elsewhere", "cluster", name, "endpoints", now)
		}
	}
}

// heard forgets what a cluster said, as the record has it: said once more it would undo
// what another replica heard since, while this one hears nothing.
func (b *book) heard(name string, s wayTo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := b.ways[name]; now.origin == s.origin && slices.Equal(now.endpoints, s.endpoints) {
		delete(b.ways, name)
	}
}

// changes returns the endpoints that the record is to have, nil when it has them or is not
// of the join in which they were said. Those that the peer never said stay behind its own:
// they were given by a person, or answered when it joined, and may be the only ones that
// lead there from here. Where a configuration gave them, it is the operator's to change.
func (s wayTo) changes(m member) []string {
	r := m.Reads
	if r == nil || r.OneWay || r.origin() != s.origin || slices.Equal(r.Said, s.endpoints) {
		return nil
	}
	out := slices.Clone(s.endpoints)
	for _, e := range r.Endpoints {
		if !slices.Contains(out, e) && !slices.Contains(r.Said, e) {
			out = append(out, e)
		}
	}
	return out
}

// How often a person is told that something is not written: of another reason, and of
// the same.
const (
	tellPause = 10 * time.Second
	tellAgain = 10 * time.Minute
)

// telling is of one goroutine.
type telling struct{ reason retry.Reason }

// due reports whether a person should hear of an error, which is not each time.
func (t *telling) due(ctx context.Context, err error) bool {
	return ctx.Err() == nil && t.reason.Tell(err.Error(), time.Now(), tellPause, tellAgain)
}
