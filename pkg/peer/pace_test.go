package peer

import (
	"context"
	"errors"
	"testing"
	"time"
)

// paced is a pace whose time goes on while it waits.
func paced(lists int) (p *pace, clock *time.Time, held *time.Duration) {
	now := time.Unix(1000, 0)
	held = new(time.Duration)
	p = newPace(func() int { return lists }, func(d time.Duration) { *held += d })
	p.now = func() time.Time { return now }
	p.sleep = func(_ context.Context, d time.Duration) bool {
		now = now.Add(d)
		return true
	}
	return p, &now, held
}

func (p *pace) read(t *testing.T, bytes, piece int, listing bool) {
	t.Helper()
	for ; bytes > 0; bytes -= piece {
		if err := p.allow(t.Context(), piece, listing); err != nil {
			t.Fatal(err)
		}
	}
}

// What is said at once waits for nothing; what is said for good has the rate.
func TestPace(t *testing.T) {
	t.Parallel()
	p, now, held := paced(0)
	p.read(t, paceBurst, 1<<20, false)
	if *held > 0 {
		t.Errorf("a burst was held back for %s", *held)
	}
	begun := *now
	p.read(t, 100*paceRate, 1<<20, false)
	if took := now.Sub(begun); took < 98*time.Second || took > 102*time.Second {
		t.Errorf("what may be said in 100 s took %s", took)
	}
	if took := now.Sub(begun); took != *held {
		t.Errorf("%s are told of, it was held back for %s", *held, took)
	}
	*now = now.Add(time.Hour) // which is no credit for more than a burst
	*held = 0
	p.read(t, paceBurst, 1<<20, false)
	if *held > 0 {
		t.Errorf("a burst after an hour was held back for %s", *held)
	}
	p.read(t, 2<<20, 1<<20, false)
	if *held == 0 {
		t.Error("an hour of silence was taken for leave to say more")
	}
}

// A peer's list, as large as it may be, waits for nothing, whatever it said before;
// one that begins again and again does.
func TestPaceOfLists(t *testing.T) {
	t.Parallel()
	const lists = 512 << 20
	p, now, held := paced(lists)
	p.read(t, paceBurst, 1<<20, false)
	p.read(t, lists, 1<<20, true)
	if *held > 0 {
		t.Errorf("the first list was held back for %s", *held)
	}
	begun := *now
	p.read(t, lists, 1<<20, true)
	if took := now.Sub(begun); took < time.Minute || took > listPeriod {
		t.Errorf("another list at once took %s", took)
	}
	*now = now.Add(2 * listPeriod)
	*held = 0
	p.read(t, lists, 1<<20, true)
	if *held > 0 {
		t.Errorf("a list later was held back for %s", *held)
	}
	small, _, held := paced(1)
	small.read(t, minListBytes, 1<<20, true)
	if *held > 0 {
		t.Errorf("a list of a peer with a small quota was held back for %s", *held)
	}
}

// A message is not too large for any pace, and who is held back can be removed.
func TestPaceEnds(t *testing.T) {
	t.Parallel()
	p, _, _ := paced(0)
	if err := p.allow(t.Context(), 10*paceBurst, false); err != nil {
		t.Fatal(err)
	}
	p.sleep = newPace(nil, nil).sleep
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.allow(ctx, 1, false); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
}

// Who is held back is shown as such, and no longer once that has ended.
func TestHeldBack(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		until time.Time
		want  bool
	}{
		{time.Time{}, false}, {now.Add(time.Second), true}, {now.Add(-heldFor / 2), true}, {now.Add(-heldFor - 1), false},
	} {
		if got := heldBack(c.until, now); got != "" != c.want {
			t.Errorf("held back until %s, at %s: %q", c.until, now, got)
		}
	}
}

// A peer that has said too much is held back, visibly, and heard later; another one is not.
func TestPeerIsHeldBack(t *testing.T) {
	l, loud, quiet := newLocal(t), newRemote(t, "loud", 2), newRemote(t, "quiet", 3)
	l.connect(loud)
	l.connect(quiet)
	l.awaitNodes("loud", "n1", "n2")
	l.awaitNodes("quiet", "n1", "n2")
	l.mu.Lock()
	p := l.peers["loud"].pace
	l.mu.Unlock()
	p.mu.Lock()
	now := time.Now()
	p.now = func() time.Time { return now } // nothing is made free, however slow the machine
	p.said.used = paceBurst + paceRate
	p.mu.Unlock()
	loud.node("n3")
	quiet.node("n3")
	l.awaitNodes("quiet", "n1", "n2", "n3")
	l.awaitState("loud", Synced, "held back")
	l.awaitNodes("loud", "n1", "n2", "n3")
	for _, s := range l.Status() {
		if s.Name == "quiet" && s.Reason != "" {
			t.Errorf("the quiet one: %s", s.Reason)
		}
	}
}
