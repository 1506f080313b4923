package peer

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

// How much is read of a peer, in bytes. What is beyond it stays in the peer's own
// sockets, so that the work which one peer makes leaves time for the others.
const (
	// paceRate is what a peer may say a second for good: 10,000 changes, some thirty
	// times what a cluster of 1,000 nodes changes.
	paceRate = 4 << 20
	// paceBurst is what it may say at once besides, as when all of its Pods move.
	paceBurst = 16 << 20
	// listPeriod is in how long all that a peer may have can be listed once more, each
	// connection begins with a list, and what a quota allows is not to wait.
	listPeriod = 5 * time.Minute
	// minListBytes is listed at once, however small the quota: refused keys are, too.
	minListBytes = 64 << 20
)

// heldFor is how long a peer that was held back is said to be.
const heldFor = time.Minute

// pace bounds what is read of one peer: a token bucket for what it says, and one for
// its lists, which takes from the first when it is empty. Both outlive a connection.
// Safe for concurrent use.
type pace struct {
	// lists returns how much may be listed at once, see minListBytes.
	lists func() int
	now   func() time.Time
	sleep func(context.Context, time.Duration) bool
	// held is told before a peer is held back, for how long.
	held func(time.Duration)

	mu           sync.Mutex
	said, listed bucket
}

func newPace(lists func() int, held func(time.Duration)) *pace {
	return &pace{lists: lists, now: time.Now, sleep: retry.Sleep, held: held}
}

// bucket is how much was used of what may be, in bytes. It becomes less with time.
type bucket struct {
	used float64
	at   time.Time
}

// leak takes out what time has made free.
func (b *bucket) leak(now time.Time, rate float64) {
	b.used = max(0, b.used-now.Sub(b.at).Seconds()*rate)
	b.at = now
}

// allow waits until what was said before is within the bounds, and counts what is
// said now: a message is never too large, only the next one is later for it. Its
// error is that of ctx.
func (p *pace) allow(ctx context.Context, bytes int, listing bool) error {
	wait := p.take(bytes, listing)
	if wait <= 0 {
		return nil
	}
	p.held(wait)
	if !p.sleep(ctx, wait) {
		return ctx.Err()
	}
	return nil
}

// take counts bytes and returns how long to wait before they are used.
func (p *pace) take(bytes int, listing bool) time.Duration {
	lists := float64(max(p.lists(), minListBytes))
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.said.leak(now, paceRate)
	p.listed.leak(now, lists/listPeriod.Seconds())
	if listing && p.listed.used < lists {
		p.listed.used += float64(bytes)
		return 0
	}
	over := p.said.used - paceBurst
	p.said.used += float64(bytes)
	return time.Duration(over / paceRate * float64(time.Second))
}

// hold notes that nothing is read of the peer for a while, and logs it where that is
// new.
func (s *session) hold(wait time.Duration) {
	s.metrics.hold(s.name, wait)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.heldAt) > heldFor {
		s.log.Warn("peer says more than is read of it, it is held back", "bytes_per_second", paceRate)
	}
	s.heldAt = now.Add(wait)
}

// heldBack says so of a peer that was held back of late, "" of others.
func heldBack(until, now time.Time) string {
	if until.IsZero() || now.Sub(until) > heldFor {
		return ""
	}
	return fmt.Sprintf("held back: it says more than the %d MiB a second that are read of a peer for good, its changes come late", paceRate>>20)
}
