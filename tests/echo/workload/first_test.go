package workload

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestWaitFirst(t *testing.T) {
	tcp, _, _ := serve(t)
	cfg := FirstConfig{Targets: []string{tcp, tcp}, Cluster: me.Cluster, Every: time.Millisecond, Timeout: time.Second}
	begun := time.Now()
	var got []First
	err := WaitFirst(t.Context(), cfg, func(f First) error { got = append(got, f); return nil })
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %d answers of 2", err, len(got))
	}
	for _, f := range got {
		if f.Target != tcp || f.Identity != me || f.At.Before(begun) {
			t.Errorf("answer %+v of %s", f, tcp)
		}
	}

	// Others' answers do not count.
	cfg.Cluster = "west"
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err = WaitFirst(ctx, cfg, func(f First) error { t.Errorf("%+v counts", f); return nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without an answer that counts: %v", err)
	}
	if err := WaitFirst(t.Context(), FirstConfig{}, nil); err == nil {
		t.Error("no targets are accepted")
	}
}
