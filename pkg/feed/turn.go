package feed

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/semaphore"
)

const (
	// maxTurns is how many agents at once are sent much. What is on its way to
	// one is held in memory for it alone.
	maxTurns = 8
	// muchBytes is how much a change must have to wait for a turn.
	muchBytes = 1 << 20
	// A turn lasts turnTime and as long as its bytes take at slowestRate, in
	// bytes a second.
	turnTime    = 30 * time.Second
	slowestRate = 1 << 20
)

// errTooSlow ends a stream whose agent does not read.
var errTooSlow = errors.New("the agent reads too slowly what it is sent, and others wait: it may begin again")

// turns lets a few subscribers at once do what costs memory; the others wait in
// the order in which they came.
type turns struct {
	free *semaphore.Weighted
}

func newTurns(n int64) *turns { return &turns{free: semaphore.NewWeighted(n)} }

// turn is one subscriber's. It must be ended.
type turn struct {
	turns *turns
	limit *time.Timer
}

// take waits for a turn. When the turn lasts too long, late is called, which
// must make its owner end it.
func (t *turns) take(ctx context.Context, late func()) (*turn, error) {
	if err := t.free.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	return &turn{turns: t, limit: time.AfterFunc(turnTime, late)}, nil
}

// extend grants the time that so many bytes may take.
func (t *turn) extend(size int) {
	t.limit.Reset(turnTime + time.Duration(size)*time.Second/slowestRate)
}

func (t *turn) end() {
	t.limit.Stop()
	t.turns.free.Release(1)
}
