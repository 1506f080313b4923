package kvstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// allowed notes what Follow says of messages.
type allowed struct {
	mu              sync.Mutex
	listed, watched int // bytes
	err             error
}

func (a *allowed) allow(_ context.Context, bytes int, listing bool) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if listing {
		a.listed += bytes
	} else {
		a.watched += bytes
	}
	return a.err
}

// All that is read is told of before the handler has it, also what did not change.
func TestFollowTellsOfWhatItReads(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	large := strings.Repeat("x", 1000)
	put(t, c, "a/1", large)
	a, r := &allowed{}, newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r, Allow: a.allow})
	r.waitFor(t, "a/1", large)
	for range 9 {
		put(t, c, "a/1", large)
	}
	put(t, c, "a/2", "end")
	r.waitFor(t, "a/2", "end")
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.listed < len(large) || a.listed > 2*len(large) {
		t.Errorf("%d bytes were listed", a.listed)
	}
	if a.watched < 9*len(large) || a.watched > 18*len(large) {
		t.Errorf("%d bytes came by the watch", a.watched)
	}
}

// What is not allowed is not looked at.
func TestFollowEndsWhereNothingIsAllowed(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	put(t, c, "a/1", "1")
	refusal := errors.New("no more")
	a, r := &allowed{err: refusal}, newRecorder()
	err := c.Follow(testContext(t), FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r, Allow: a.allow})
	if !errors.Is(err, refusal) || len(r.got.state) > 0 {
		t.Error(fmt.Errorf("%d keys were given, then %w", len(r.got.state), err))
	}
}
