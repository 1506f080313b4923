package process

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestHeadroom(t *testing.T) {
	const mib = 1 << 20
	h := Headroom{Least: 16 * mib, Most: 64 * mib}
	for _, tc := range []struct {
		live, want uint64
		percent    int
	}{
		{0, 16 * mib, 1600},
		{8 * mib, 16 * mib, 200},
		{32 * mib, 32 * mib, 100},
		{100 * mib, 64 * mib, 64},
		{1000 * mib, 250 * mib, 25},
	} {
		if got := h.of(tc.live); got != tc.want {
			t.Errorf("%d MiB of live data: headroom %d MiB, want %d", tc.live/mib, got/mib, tc.want/mib)
		}
		if got := h.percent(tc.live); got != tc.percent {
			t.Errorf("%d MiB of live data: %d %%, want %d", tc.live/mib, got, tc.percent)
		}
	}
}

// TestHeadroomKept looks at what the collector is told after collections.
func TestHeadroomKept(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	held := make([]byte, 20<<20)
	Headroom{Least: 1 << 20, Most: 2 << 20}.keep() // a quarter of the live data is more
	for deadline := time.Now().Add(60 * time.Second); ; {
		runtime.GC()
		percent := debug.SetGCPercent(100)
		debug.SetGCPercent(percent)
		if percent == 25 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the collector is at %d %%, want 25", percent)
		}
	}
	runtime.KeepAlive(held)
}
