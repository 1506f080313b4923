package peer

import (
	"context"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

// What waits of one peer at most: beyond it nothing more is read from the peer
// until some is in use, so that a flood stays in the peer's own sockets.
const (
	maxWaitingKeys  = 4096
	maxWaitingBytes = 8 << 20
)

// What is put in use at once at most. Everybody who changes the merged state
// waits meanwhile, so this bounds how long a large peer holds up a small one.
const (
	maxPieceKeys  = 256
	maxPieceBytes = 256 << 10
)

// A key may change maxFlips times in a window; then its newest value waits for
// the window's end. So one that flips costs the nodes no more than this, and one
// that changes now and then is never delayed.
const (
	maxFlips   = 10
	flipWindow = time.Second
	// maxRecent is how many keys are counted at a time; with more of them the
	// window ends early: many keys that change are no key that flips.
	maxRecent = 4 * maxWaitingKeys
)

// intake is the queue of one peer between what is read and what is in use. It
// holds the newest value of each key, not what happened to it; what it gives on
// comes in rounds, each in an order in which nothing refers to what is not there.
type intake struct {
	// place returns the place of a key's kind in the order of the puts.
	place func(key string) int
	// apply puts a piece in use; one goroutine calls it, one piece at a time.
	apply func([]kvstore.Change)
	now   func() time.Time
	// wake holds one token when there may be work.
	wake chan struct{}

	mu      sync.Mutex
	waiting map[string]kvstore.Change
	bytes   int // of the waiting values
	// resting are the waiting keys that wait for the window's end.
	resting  map[string]struct{}
	recent   map[string]int // how often keys were put in use in this window
	window   time.Time      // when it began
	flushing bool           // nothing rests
	busy     bool           // a round is being put in use
	moved    chan struct{}  // closed and replaced when a round begins or ends
}

func newIntake(place func(string) int, apply func([]kvstore.Change)) *intake {
	return &intake{
		place: place, apply: apply, now: time.Now, wake: make(chan struct{}, 1),
		waiting: map[string]kvstore.Change{}, resting: map[string]struct{}{}, recent: map[string]int{},
		moved: make(chan struct{}),
	}
}

// add takes changes, later ones of a key in place of earlier ones. It waits
// while there is no room.
func (q *intake) add(ctx context.Context, changes []kvstore.Change) error {
	for {
		changes = q.put(changes)
		q.poke()
		if len(changes) == 0 {
			return nil
		}
		if err := q.await(ctx, q.room); err != nil {
			return err
		}
	}
}

// put takes as many changes as there is room for and returns the rest.
func (q *intake) put(changes []kvstore.Change) (rest []kvstore.Change) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, c := range changes {
		if !q.room() {
			return changes[i:]
		}
		q.bytes += len(c.Value) - len(q.waiting[c.Key].Value)
		q.waiting[c.Key] = c
	}
	return nil
}

// room reports whether another key may wait. The caller holds mu.
func (q *intake) room() bool { return len(q.waiting) < maxWaitingKeys && q.bytes < maxWaitingBytes }

// flush returns when all that was added is in use. Nothing may be added meanwhile.
func (q *intake) flush(ctx context.Context) error {
	q.mu.Lock()
	q.flushing = true
	q.mu.Unlock()
	q.poke()
	err := q.await(ctx, func() bool { return len(q.waiting) == 0 && !q.busy })
	q.mu.Lock()
	q.flushing, q.recent = false, map[string]int{}
	q.mu.Unlock()
	return err
}

// await waits until ok, which is called with mu held.
func (q *intake) await(ctx context.Context, ok func() bool) error {
	for {
		q.mu.Lock()
		done, moved := ok(), q.moved
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

func (q *intake) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run puts in use what is added until ctx ends. What waits then is dropped.
func (q *intake) run(ctx context.Context) {
	for {
		pieces, rested := q.take()
		for _, piece := range pieces {
			if ctx.Err() != nil {
				break
			}
			q.apply(piece)
		}
		q.finish()
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		case <-rested:
		}
	}
}

// take begins a round: all that waits and does not rest, in order, in pieces.
// rested says when what rests is due, nil when nothing rests.
func (q *intake) take() (pieces [][]kvstore.Change, rested <-chan time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = true
	now := q.now()
	if now.Sub(q.window) >= flipWindow || len(q.recent) >= maxRecent {
		q.window, q.recent = now, map[string]int{}
		clear(q.resting)
	}
	if len(q.waiting) == len(q.resting) && !q.flushing {
		return nil, q.due(now)
	}
	var puts, deletes [][]kvstore.Change
	for range inOrder() {
		puts, deletes = append(puts, nil), append(deletes, nil)
	}
	// A new map: one that was large once is slow to walk ever after.
	waiting := q.waiting
	q.waiting = map[string]kvstore.Change{}
	for key, c := range waiting {
		if !q.ripe(key) {
			q.waiting[key] = c
			continue
		}
		q.bytes -= len(c.Value)
		if at := q.place(key); c.Deleted {
			at = len(deletes) - 1 - at
			deletes[at] = append(deletes[at], c)
		} else {
			puts[at] = append(puts[at], c)
		}
	}
	q.announce()
	return cut(append(puts, deletes...)), q.due(now)
}

// ripe reports whether a waiting key may be put in use now, and counts it. The
// caller holds mu.
func (q *intake) ripe(key string) bool {
	if q.flushing {
		delete(q.resting, key)
		return true
	}
	if q.recent[key] >= maxFlips {
		q.resting[key] = struct{}{}
		return false
	}
	q.recent[key]++
	return true
}

// due returns when the window ends, nil when nobody waits for it.
func (q *intake) due(now time.Time) <-chan time.Time {
	if len(q.resting) == 0 {
		return nil
	}
	return time.After(q.window.Add(flipWindow).Sub(now))
}

func (q *intake) finish() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = false
	q.announce()
}

// announce wakes who waits for room or for the end of a round. The caller holds mu.
func (q *intake) announce() {
	close(q.moved)
	q.moved = make(chan struct{})
}

// cut makes pieces of groups of changes, in order.
func cut(groups [][]kvstore.Change) [][]kvstore.Change {
	var pieces [][]kvstore.Change
	var piece []kvstore.Change
	bytes := 0
	for _, group := range groups {
		for _, c := range group {
			if len(piece) == maxPieceKeys || len(piece) > 0 && bytes+len(c.Value) > maxPieceBytes {
				pieces, piece, bytes = append(pieces, piece), nil, 0
			}
			piece = append(piece, c)
			bytes += len(c.Value)
		}
	}
	if len(piece) > 0 {
		pieces = append(pieces, piece)
	}
	return pieces
}
