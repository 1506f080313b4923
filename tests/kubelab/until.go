package kubelab

import (
	"context"
	"errors"
	"testing"
	"time"
)

// patience is how long Until asks: the machine may do much else.
const patience = 2 * time.Minute

// Until asks until ok has no error, and fails the test with the last one. The context
// that ok gets ends when there is no more time.
func Until(t testing.TB, what string, ok func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	err := errors.New("not asked")
	for {
		if now := ok(ctx); ctx.Err() == nil || now == nil {
			err = now // not that the time is over
		}
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// UntilSo is Until for what has nothing to say but whether it is so.
func UntilSo(t testing.TB, what string, holds func() bool) {
	t.Helper()
	Until(t, what, func(context.Context) error {
		if !holds() {
			return errors.New("still not so")
		}
		return nil
	})
}
