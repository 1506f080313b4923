package kvstore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestRetryGrowsToItsCap(t *testing.T) {
	var r retry
	limit := firstDelay
	for i := range 20 {
		if d := r.next(); d < limit/2 || d > limit {
			t.Errorf("delay %d is %s, not between %s and %s", i, d, limit/2, limit)
		}
		limit = min(2*limit, lastDelay)
	}
	r.reset()
	if d := r.next(); d > firstDelay {
		t.Errorf("delay after reset is %s", d)
	}
}

func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		begun := time.Now()
		if !sleep(ctx, time.Hour) || time.Since(begun) != time.Hour {
			t.Errorf("slept %s", time.Since(begun))
		}
		time.AfterFunc(time.Minute, cancel)
		if sleep(ctx, time.Hour) || time.Since(begun) != time.Hour+time.Minute {
			t.Errorf("slept on after the end, %s", time.Since(begun))
		}
	})
}
