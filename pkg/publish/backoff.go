package publish

import (
	"math/rand/v2"
	"time"
)

// backoff counts attempts and doubles the delay between them up to a limit,
// with a fifth of jitter. One goroutine owns it.
type backoff struct {
	first, limit time.Duration
	attempt      int
	current      time.Duration
}

func newBackoff(first, limit time.Duration) *backoff { return &backoff{first: first, limit: limit} }

func (b *backoff) active() bool         { return b.attempt > 0 }
func (b *backoff) delay() time.Duration { return b.current }
func (b *backoff) reset()               { b.attempt, b.current = 0, 0 }

// next counts an attempt and returns the delay before the one after it.
func (b *backoff) next() time.Duration {
	delay := min(b.first<<min(b.attempt, 16), b.limit)
	b.attempt++
	b.current = delay - time.Duration(rand.Int64N(int64(delay/5)))
	return b.current
}
