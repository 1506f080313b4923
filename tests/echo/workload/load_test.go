package workload

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func config(target string) LoadConfig {
	return LoadConfig{
		Target: target, Protocol: HTTP, Rate: 500, Workers: 4, Long: 3, LongInterval: 5 * time.Millisecond,
		Timeout: 20 * time.Second, Interval: 10 * time.Millisecond,
	}
}

// TestLoad ends a load once it has seen what it wants.
func TestLoad(t *testing.T) {
	tcp, _, _ := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var before Report
	last, err := Load(ctx, config(tcp), func(r Report) error {
		if r.Seconds <= before.Seconds || r.New.OK < before.New.OK || r.Long.OK < before.Long.OK {
			t.Errorf("report %+v after %+v", r, before)
		}
		before = r
		if r.New.OK >= 20 && r.Long.OK >= 20 {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !last.Last || last.New.Failed+last.Long.Failed != 0 || last.New.OK < 20 || last.Long.OK < 20 {
		t.Errorf("last report %+v", last)
	}
	who := me.String()
	if last.New.Pods[who] != last.New.OK || last.Long.Pods[who] != last.Long.OK {
		t.Errorf("not all by the only pod: %+v", last)
	}
	if last.New.MaxGapMillis <= 0 || last.New.MaxGapMillis > 10_000 {
		t.Errorf("gap %v ms", last.New.MaxGapMillis)
	}
}

// TestLoadFailures loses the server: both kinds of request fail and go on.
func TestLoadFailures(t *testing.T) {
	tcp, _, stop := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	last, err := Load(ctx, config(tcp), func(r Report) error {
		if r.New.OK > 0 && r.Long.OK > 0 {
			stop()
		}
		if r.New.Failed > 10 && r.Long.Failed > 10 {
			cancel()
		}
		return nil
	})
	if err != nil || last.New.Errors["connection refused"] == 0 || last.Long.Errors["connection refused"] == 0 {
		t.Errorf("last report %+v, %v", last, err)
	}
	if last.New.Failed == 0 || last.New.MaxGapMillis == 0 {
		t.Errorf("an outage without a gap: %+v", last)
	}
}

func TestLoadEnds(t *testing.T) {
	tcp, _, _ := serve(t)
	cfg := config(tcp)
	cfg.Duration = 30 * time.Millisecond
	if last, err := Load(t.Context(), cfg, func(Report) error { return nil }); err != nil || !last.Last {
		t.Errorf("by its duration: %+v, %v", last, err)
	}
	broken := errors.New("broken pipe")
	if _, err := Load(t.Context(), config(tcp), func(Report) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("by a reader that is gone: %v", err)
	}
}

func TestLoadConfig(t *testing.T) {
	tests := map[string]func(*LoadConfig){
		"no target":          func(c *LoadConfig) { c.Target = "" },
		"none of tcp":        func(c *LoadConfig) { c.Protocol = "icmp" },
		"not within 0":       func(c *LoadConfig) { c.Rate = -1 },
		"workers":            func(c *LoadConfig) { c.Workers = 0 },
		"are asked for":      func(c *LoadConfig) { c.Rate, c.Long = 0, 0 },
		"must be positive":   func(c *LoadConfig) { c.Timeout = 0 },
		"intervals must":     func(c *LoadConfig) { c.LongInterval = 0 },
		"new (0) nor long (": func(c *LoadConfig) { c.Rate, c.Long = 0, -0 },
	}
	for want, change := range tests {
		cfg := config("127.0.0.1:1")
		change(&cfg)
		if _, err := Load(t.Context(), cfg, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestTally(t *testing.T) {
	begin := time.Unix(1000, 0)
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	tally := newTally(begin, true, 2)
	tally.asked(at(10), Result{Answer: Answer{Identity: me}})
	tally.asked(at(20), Result{Error: "timeout"})
	tally.held(at(30), 0, "a", nil)
	tally.held(at(40), 1, "b", nil)
	tally.held(at(50), 0, "", context.DeadlineExceeded)
	first := tally.report(at(60))
	want := Report{
		Seconds: 0.06,
		New:     Count{OK: 1, Failed: 1, MaxGapMillis: 50, Pods: map[string]int{me.String(): 1}, Errors: map[string]int{"timeout": 1}},
		Long:    Count{OK: 2, Failed: 1, MaxGapMillis: 40, Pods: map[string]int{"a": 1, "b": 1}, Errors: map[string]int{"timeout": 1}},
	}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	tally.asked(at(80), Result{Answer: Answer{Identity: me}})
	delta := tally.report(at(160)).Since(first)
	wantDelta := Report{
		Seconds: 0.1,
		New:     Count{OK: 1, MaxGapMillis: 80, Pods: map[string]int{me.String(): 1}, Errors: map[string]int{}},
		Long:    Count{MaxGapMillis: 130, Pods: map[string]int{}, Errors: map[string]int{}},
	}
	if diff := cmp.Diff(wantDelta, delta); diff != "" {
		t.Errorf("difference (-want +got):\n%s", diff)
	}
}

// TestTallyBounds counts more names than are told apart.
func TestTallyBounds(t *testing.T) {
	count := emptyCount()
	for i := range 2 * maxReasons {
		count.succeed(strconv.Itoa(i))
	}
	if len(count.Pods) > maxReasons+1 || count.Pods[otherReason] != maxReasons {
		t.Errorf("%d names, %d of them other", len(count.Pods), count.Pods[otherReason])
	}
}
