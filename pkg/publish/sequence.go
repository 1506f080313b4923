package publish

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// The sides of a sequence: the two loops that publish.
const (
	sideObjects = iota
	sideWorkloads
	sides
)

// sequence puts on the wire what two loops publish, in one order: what they say
// of one state of the source goes together, puts in the order of the kinds
// (identities before addresses before services), then deletions in the reverse.
// So a reader meets no address before its identity, and no service before the
// addresses of its backends. One loop waits for the other on the wire alone;
// memory has had it before. While changes come faster than both loops meet at one
// state, what has waited for patience goes out with what there is. While etcd has
// no room for the identities that all else waits for, deletions go out at once,
// since they make room.
//
// Safe for concurrent use. It holds the newest value of a key twice at most.
type sequence struct {
	kinds  []string // prefixes in the order of the puts
	set    func(key string, value []byte)
	delete func(key string)

	mu    sync.Mutex
	tight bool // etcd takes deletions alone
	sides [sides]side
	moved chan struct{} // closed and replaced when something went out
}

// side is what one loop published and the other has not caught up with.
type side struct {
	reached uint64 // the state of the source that the loop has worked off
	emitted uint64 // the state up to which all of it went out
	ready   batch  // goes out when the other side has reached its state
	next    batch  // what came after it: ready must not run away from the other side
}

// batch are keys as a state of the source wants them; nil deletes.
type batch struct {
	from  uint64 // the first state of which it says something
	state uint64 // the last
	since time.Time
	keys  map[string][]byte
}

// patience is how long a batch waits for the other loop to come to its state.
const patience = 250 * time.Millisecond

func newSequence(l wire.Layout, set func(string, []byte), del func(string)) *sequence {
	q := &sequence{set: set, delete: del, moved: make(chan struct{})}
	for _, kind := range wire.Kinds() {
		q.kinds = append(q.kinds, l.Prefix(kind))
	}
	return q
}

// add takes what a loop publishes of a state of the source. done says that the
// loop has nothing left to say about it. The sequence owns keys from now on.
func (q *sequence) add(from int, state uint64, keys map[string][]byte, done bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := &q.sides[from]
	to := &s.ready
	if len(s.ready.keys) > 0 {
		to = &s.next
	}
	to.take(s.reached+1, state, keys)
	if done {
		s.reached = state
	}
	for q.advance() {
	}
	if q.tight {
		q.shed()
	}
	close(q.moved)
	q.moved = make(chan struct{})
}

// tighten says whether etcd takes deletions alone.
func (q *sequence) tighten(tight bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.tight = tight; tight {
		q.shed()
	}
}

// shed lets out the deletions that wait. A put that waits before one of them is
// out of date, one after it stays. The caller holds mu.
func (q *sequence) shed() {
	out := map[string][]byte{}
	for i := range q.sides {
		s := &q.sides[i]
		for key, value := range s.next.keys {
			if value == nil {
				out[key] = nil
				delete(s.next.keys, key)
				delete(s.ready.keys, key)
			}
		}
		for key, value := range s.ready.keys {
			if value == nil {
				out[key] = nil
				delete(s.ready.keys, key)
			}
		}
		if len(s.ready.keys) == 0 {
			s.ready, s.next = s.next, batch{}
		}
	}
	q.emit([]map[string][]byte{out})
}

func (b *batch) take(from, state uint64, keys map[string][]byte) {
	b.state = state
	if len(b.keys) == 0 {
		b.from, b.keys, b.since = from, keys, time.Now()
		return
	}
	for key, value := range keys {
		b.keys[key] = value
	}
}

// advance lets out what need not wait, and reports whether there may be more.
// The caller holds mu.
func (q *sequence) advance() (more bool) {
	var out []map[string][]byte
	state, meet := q.meeting()
	for i := range q.sides {
		s, other := &q.sides[i], &q.sides[sides-1-i]
		switch {
		case len(s.ready.keys) == 0:
			s.emitted = s.reached
		case meet || s.ready.state <= other.reached && time.Since(s.ready.since) > patience:
			if len(s.next.keys) > 0 && s.next.state <= state {
				s.ready.take(0, s.next.state, s.next.keys)
				s.next = batch{}
			}
			out = append(out, s.ready.keys)
			s.emitted = min(s.ready.state, s.reached)
			s.ready, s.next = s.next, batch{}
		}
	}
	q.emit(out)
	return len(out) > 0
}

// meeting returns the first state of which both sides can say all, if there is one.
func (q *sequence) meeting() (state uint64, found bool) {
	for i := range q.sides {
		for _, b := range []batch{q.sides[i].ready, q.sides[i].next} {
			both := q.sides[0].tells(b.state) && q.sides[1].tells(b.state)
			if len(b.keys) > 0 && both && (!found || b.state < state) {
				state, found = b.state, true
			}
		}
	}
	return state, found
}

// tells reports whether what waits says all of a state, and nothing of a later one.
func (s *side) tells(state uint64) bool {
	if s.reached < state || len(s.ready.keys) > 0 && s.ready.state > state {
		return false
	}
	return len(s.next.keys) == 0 || s.next.from > state || s.next.state <= state
}

// emit writes batches that have no key in common.
func (q *sequence) emit(batches []map[string][]byte) {
	puts, deletes := make([][]string, len(q.kinds)), make([][]string, len(q.kinds))
	for _, keys := range batches {
		for key, value := range keys {
			if at := q.place(key); value != nil {
				puts[at] = append(puts[at], key)
			} else {
				deletes[len(deletes)-1-at] = append(deletes[len(deletes)-1-at], key)
			}
		}
	}
	value := func(key string) []byte {
		for _, keys := range batches {
			if v := keys[key]; v != nil {
				return v
			}
		}
		return nil
	}
	for _, keys := range puts {
		for _, key := range keys {
			q.set(key, value(key))
		}
	}
	for _, keys := range deletes {
		for _, key := range keys {
			q.delete(key)
		}
	}
}

func (q *sequence) place(key string) int {
	for i, prefix := range q.kinds {
		if strings.HasPrefix(key, prefix) {
			return i
		}
	}
	return len(q.kinds) - 1
}

// await returns when all that a state of the source says has gone out.
func (q *sequence) await(ctx context.Context, state uint64) error {
	for {
		q.mu.Lock()
		done, moved := true, q.moved
		for _, s := range q.sides {
			done = done && s.emitted >= state
		}
		q.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
