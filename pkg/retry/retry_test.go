package retry

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackoffGrowsToItsLimit(t *testing.T) {
	b := Backoff{First: 100 * time.Millisecond, Limit: time.Second}
	whole := b.First
	for i := range 20 {
		if d := b.Next(); d < whole/2 || d > whole {
			t.Errorf("delay %d is %s, not between %s and %s", i, d, whole/2, whole)
		}
		whole = min(2*whole, b.Limit)
	}
	if n := b.Attempts(); n != 20 {
		t.Errorf("%d attempts", n)
	}
	b.Reset()
	if n := b.Attempts(); n != 0 {
		t.Errorf("%d attempts after Reset", n)
	}
	if d := b.Next(); d > b.First {
		t.Errorf("delay after Reset is %s", d)
	}
}

// Nodes that failed together do not try again together.
func TestBackoffIsSpread(t *testing.T) {
	seen := map[time.Duration]bool{}
	for range 100 {
		b := Backoff{First: time.Second, Limit: time.Second}
		seen[b.Next()] = true
	}
	if len(seen) < 90 {
		t.Errorf("%d different delays of 100", len(seen))
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		begun := time.Now()
		if !Sleep(ctx, time.Hour) || time.Since(begun) != time.Hour {
			t.Errorf("slept %s", time.Since(begun))
		}
		time.AfterFunc(time.Minute, cancel)
		if Sleep(ctx, time.Hour) || time.Since(begun) != time.Hour+time.Minute {
			t.Errorf("slept on after the end, %s", time.Since(begun))
		}
	})
}

func TestReason(t *testing.T) {
	var r Reason
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i, step := range []struct {
		after time.Duration
		text  string
		want  bool
	}{
		{0, "dial 10.0.0.1: connection from port 4711 refused", true},
		{time.Second, "dial 10.0.0.1: connection from port 4712 refused", false},
		{2 * time.Second, "certificate expired", false},
		{11 * time.Second, "certificate expired", true},
		{30 * time.Second, "certificate expired", false},
		{72 * time.Second, "certificate expired", true},
	} {
		if got := r.Tell(step.text, begun.Add(step.after), 10*time.Second, time.Minute); got != step.want {
			t.Errorf("step %d, %q: %v", i, step.text, got)
		}
	}
}
