package workload

import (
	"maps"
	"sync"
	"time"
)

// Report is what a load has come to since it began; the difference of two
// reports is what happened between them.
type Report struct {
	// Seconds since the load began.
	Seconds float64 `json:"seconds"`
	// New counts new connections, Long exchanges on long ones.
	New  Count `json:"new"`
	Long Count `json:"long"`
	// Last is true in the final report only.
	Last bool `json:"last,omitempty"`
}

// Count is the outcome of one kind of request.
type Count struct {
	OK     int `json:"ok"`
	Failed int `json:"failed"`
	// MaxGapMillis is the longest time without a success: for long connections,
	// that of the worst one. The time since the latest success counts too.
	MaxGapMillis float64 `json:"max_gap_ms"`
	// Pods counts answers by Identity.String(), Errors failures by reason; at
	// most maxReasons are told apart.
	Pods   map[string]int `json:"pods,omitempty"`
	Errors map[string]int `json:"errors,omitempty"`
}

// maxReasons bounds the memory for pods and errors; what exceeds it is counted
// under otherReason.
const (
	maxReasons  = 1000
	otherReason = "other"
)

// Since returns what happened after the report earlier: all but the gaps is
// subtracted, and what is zero is left out. The gaps stay those of the whole.
func (r Report) Since(earlier Report) Report {
	r.Seconds -= earlier.Seconds
	r.New = r.New.since(earlier.New)
	r.Long = r.Long.since(earlier.Long)
	return r
}

func (c Count) since(earlier Count) Count {
	c.OK -= earlier.OK
	c.Failed -= earlier.Failed
	c.Pods = subtract(c.Pods, earlier.Pods)
	c.Errors = subtract(c.Errors, earlier.Errors)
	return c
}

func subtract(counts, earlier map[string]int) map[string]int {
	left := map[string]int{}
	for name, n := range counts {
		if n -= earlier[name]; n != 0 {
			left[name] = n
		}
	}
	return left
}

// tally collects outcomes from many goroutines.
type tally struct {
	begin time.Time

	mu   sync.Mutex
	new  Count
	long Count
	// lastNew and lastLong are the times of the latest successes; lastNew is
	// zero when no new connections are made.
	lastNew  time.Time
	lastLong []time.Time
}

func newTally(now time.Time, asks bool, long int) *tally {
	t := &tally{begin: now, new: emptyCount(), long: emptyCount(), lastLong: make([]time.Time, long)}
	if asks {
		t.lastNew = now
	}
	for i := range t.lastLong {
		t.lastLong[i] = now
	}
	return t
}

func emptyCount() Count {
	return Count{Pods: map[string]int{}, Errors: map[string]int{}}
}

func (t *tally) asked(now time.Time, result Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if result.Error != "" {
		t.new.fail(result.Error)
		return
	}
	t.new.gap(t.lastNew, now)
	t.lastNew = now
	t.new.succeed(result.Identity.String())
}

func (t *tally) held(now time.Time, index int, who string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.long.fail(Reason(err))
		return
	}
	t.long.gap(t.lastLong[index], now)
	t.lastLong[index] = now
	t.long.succeed(who)
}

func (t *tally) report(now time.Time) Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := Report{Seconds: now.Sub(t.begin).Seconds(), New: t.new.clone(), Long: t.long.clone()}
	if !t.lastNew.IsZero() {
		r.New.gap(t.lastNew, now)
	}
	for _, last := range t.lastLong {
		r.Long.gap(last, now)
	}
	return r
}

func (c *Count) gap(from, to time.Time) {
	c.MaxGapMillis = max(c.MaxGapMillis, float64(to.Sub(from).Microseconds())/1000)
}

func (c *Count) succeed(who string) {
	c.OK++
	increment(c.Pods, who)
}

func (c *Count) fail(reason string) {
	c.Failed++
	increment(c.Errors, reason)
}

func increment(counts map[string]int, name string) {
	if _, ok := counts[name]; !ok && len(counts) >= maxReasons {
		name = otherReason
	}
	counts[name]++
}

func (c Count) clone() Count {
	c.Pods = maps.Clone(c.Pods)
	c.Errors = maps.Clone(c.Errors)
	return c
}
