// Package retry spaces attempts at what may fail for a while, and says when a
// failure is worth telling a person again.
package retry

import (
	"context"
	"math/rand/v2"
	"strings"
	"time"
	"unicode"
)

// Backoff is capped exponential backoff. Each delay is between half of and the
// whole of one that doubles from First to Limit, so that those who failed
// together do not try again together. One goroutine owns it.
type Backoff struct {
	First, Limit time.Duration
	delay        time.Duration // the whole of the one that was given last
	attempts     int
}

// Next counts a failed attempt and returns how long to wait before the next.
func (b *Backoff) Next() time.Duration {
	b.delay = min(max(2*b.delay, b.First), b.Limit)
	b.attempts++
	return b.delay - rand.N(b.delay/2+1)
}

// Attempts is how many have failed since the last Reset.
func (b *Backoff) Attempts() int { return b.attempts }

// Reset says that an attempt went well.
func (b *Backoff) Reset() { b.delay, b.attempts = 0, 0 }

// Sleep waits, and says whether it did: not when ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Reason is why something failed last, and when a person was told. The zero
// value has told nothing.
type Reason struct {
	text string
	told time.Time
}

// Tell reports whether a person should hear of a failure at now: of the first
// at once, of another kind when pause has passed since, of the same when again
// has. Two texts that differ in digits alone, such as a port, are of one kind.
func (r *Reason) Tell(text string, now time.Time, pause, again time.Duration) bool {
	text = withoutNumbers(text)
	wait := pause
	if text == r.text {
		wait = again
	}
	if !r.told.IsZero() && now.Sub(r.told) < wait {
		return false
	}
	r.text, r.told = text, now
	return true
}

func withoutNumbers(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, text)
}
