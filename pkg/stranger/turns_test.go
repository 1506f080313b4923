package stranger

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"
)

// TestTurns checks who waits for whom, and that what is given back is there again.
func TestTurns(t *testing.T) {
	t.Parallel()
	turns := NewTurns()
	bad, good := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	take := func(from netip.Addr, alone bool) func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		done, err := turns.Take(ctx, from, alone)
		if err != nil {
			t.Fatalf("no turn for %s: %v", from, err)
		}
		return done
	}
	waits := func(from netip.Addr, alone bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := turns.Take(ctx, from, alone); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s has a turn too many: %v", from, err)
		}
	}
	first := take(bad, true)
	waits(bad, true)
	done := []func(){first}
	for range turnsOfOne - 1 {
		done = append(done, take(bad, false))
	}
	waits(bad, false)
	take(good, true)()
	for _, d := range done {
		d()
	}
	take(bad, true)()
	done = nil
	for i := range turnsAtOnce {
		done = append(done, take(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), false))
	}
	waits(good, false)
	for _, d := range done {
		d()
	}
	take(good, false)()
	if len(turns.sources) != 0 {
		t.Errorf("%d addresses are kept", len(turns.sources))
	}
}

// TestLimiterOver checks when an address counts as one that tries.
func TestLimiterOver(t *testing.T) {
	t.Parallel()
	limiter, from, now := NewLimiter(), netip.MustParseAddr("192.0.2.1"), time.Unix(1000, 0)
	for i := range FailuresPerWindow {
		if limiter.Over(from, now) {
			t.Fatalf("over the limit after %d", i)
		}
		limiter.Fail(from, now)
	}
	if !limiter.Over(from, now) || limiter.Over(netip.MustParseAddr("192.0.2.2"), now) || limiter.Over(from, now.Add(failureWindow)) {
		t.Error("not over the limit, or another one is, or it lasts")
	}
}
