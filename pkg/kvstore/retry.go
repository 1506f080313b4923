package kvstore

import (
	"context"
	"math/rand/v2"
	"time"
)

// The last delay is short: a store that stood still and goes on is followed again
// within a second, and an attempt costs little.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Second
)

// retry is capped exponential backoff with jitter. The zero value is ready.
type retry struct {
	delay time.Duration
}

// next returns how long to wait before the next attempt: between half of and
// the whole of a delay that doubles with each call.
func (r *retry) next() time.Duration {
	r.delay = min(max(2*r.delay, firstDelay), lastDelay)
	return r.delay/2 + rand.N(r.delay/2)
}

func (r *retry) reset() { r.delay = 0 }

// sleep waits, and says whether it did: not when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
