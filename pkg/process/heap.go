package process

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Headroom is how much garbage a daemon may gather before it is collected, in
// bytes. Go's own rule, as much as there is live data, collects small heaps all
// the time and doubles large ones.
type Headroom struct {
	// Least is for a small heap. Most is for one with more live data than
	// that; a very large one gets a quarter of its live data, as less would
	// take too much time.
	Least, Most uint64
}

// of returns the headroom of a heap with that much live data.
func (h Headroom) of(live uint64) uint64 {
	return max(h.Least, min(live, h.Most), live/4)
}

// percent returns the same as GOGC has it.
func (h Headroom) percent(live uint64) int {
	live = max(live, 1<<20)
	return int(100 * h.of(live) / live)
}

// keep adjusts the collector after each collection, from now on. Whoever sets
// GOGC knows better and gets what he sets; a GOMEMLIMIT is heeded besides.
func (h Headroom) keep() {
	if h == (Headroom{}) || os.Getenv("GOGC") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	percent := 0
	var next func()
	next = func() {
		metrics.Read(sample)
		if p := h.percent(sample[0].Value.Uint64()); p != percent {
			percent = p
			debug.SetGCPercent(p)
		}
		// A collection takes the mark, which calls this again.
		mark := new([64]byte)
		runtime.AddCleanup(mark, func(struct{}) { next() }, struct{}{})
	}
	next()
}
