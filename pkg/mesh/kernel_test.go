package mesh

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
)

// What ends before its time is told of, and started again.
func TestKeepUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		k := NewKernel(KernelConfig{Logger: slog.New(slog.NewTextHandler(&out, nil))})
		ctx, cancel := context.WithCancel(t.Context())
		runs := 0
		k.keepUp(ctx, "a part", func(ctx context.Context) error {
			if runs++; runs < 3 {
				return errors.New("broken")
			}
			cancel()
			return ctx.Err()
		})
		if runs != 3 || strings.Count(out.String(), "broken") != 2 {
			t.Errorf("ran %d times:\n%s", runs, out.String())
		}
		k.keepUp(ctx, "a part", func(ctx context.Context) error { runs++; return ctx.Err() })
		if runs != 4 {
			t.Errorf("ran %d times", runs)
		}
	})
}
