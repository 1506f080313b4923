package workload

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// LoadConfig says what load to make.
type LoadConfig struct {
	// Target is host:port, Protocol one of TCP, UDP, HTTP.
	Target   string
	Protocol string
	// Rate is how many new connections are begun a second, 0 for none. It is a
	// closed loop: with all Workers waiting for an answer none is begun, and
	// what was missed is not caught up.
	Rate    int
	Workers int
	// Long is how many TCP connections are held open, each asked every
	// LongInterval; one that fails is counted and made again.
	Long         int
	LongInterval time.Duration
	// Timeout bounds each connect with its answer.
	Timeout time.Duration
	// Duration bounds the whole, 0 for until the context ends.
	Duration time.Duration
	// Interval is how often a Report is given.
	Interval time.Duration
}

// Validate returns an error that names the setting that makes no sense.
func (c LoadConfig) Validate() error {
	switch {
	case c.Target == "":
		return errors.New("no target, want host:port")
	case c.Protocol != TCP && c.Protocol != UDP && c.Protocol != HTTP:
		return fmt.Errorf("protocol %q is none of tcp, udp, http", c.Protocol)
	case c.Rate < 0 || c.Rate > 100_000:
		return fmt.Errorf("rate %d is not within 0 to 100000", c.Rate)
	case c.Rate > 0 && c.Workers <= 0:
		return fmt.Errorf("%d workers can not make connections", c.Workers)
	case c.Long < 0 || c.Rate == 0 && c.Long == 0:
		return fmt.Errorf("neither new (%d) nor long (%d) connections are asked for", c.Rate, c.Long)
	case c.Timeout <= 0 || c.Interval <= 0 || c.Long > 0 && c.LongInterval <= 0:
		return errors.New("timeout and intervals must be positive")
	}
	return nil
}

// Load makes the load until cfg.Duration is over or ctx ends, calls emit with a
// Report every cfg.Interval from one goroutine, and returns the last one, whose
// Last is true. The error is only ever that of a wrong config or of emit.
func Load(ctx context.Context, cfg LoadConfig, emit func(Report) error) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	ctx, cancel := bounded(ctx, cfg.Duration)
	defer cancel()
	tally := newTally(time.Now(), cfg.Rate > 0, cfg.Long)
	group, ctx := errgroup.WithContext(ctx)
	if cfg.Rate > 0 {
		turns := make(chan struct{})
		group.Go(func() error { return pace(ctx, cfg.Rate, turns) })
		for range cfg.Workers {
			group.Go(func() error { return askOnTurn(ctx, cfg, turns, tally) })
		}
	}
	for i := range cfg.Long {
		group.Go(func() error { return hold(ctx, cfg, i, tally) })
	}
	group.Go(func() error { return reportEvery(ctx, cfg.Interval, tally, emit) })
	err := group.Wait()
	last := tally.report(time.Now())
	last.Last = true
	return last, err
}

// bounded returns a context that is cancelled when parent ends or d, if it is
// not 0, is over. It has no deadline: requests would inherit it and fail by it
// a moment before it can be told that the load is over.
func bounded(parent context.Context, d time.Duration) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(parent))
	stops := []func() bool{context.AfterFunc(parent, cancel)}
	if d > 0 {
		stops = append(stops, time.AfterFunc(d, cancel).Stop)
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// pace gives a turn rate times a second to whoever waits for one.
func pace(ctx context.Context, rate int, turns chan<- struct{}) error {
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		select {
		case turns <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
	}
}

func askOnTurn(ctx context.Context, cfg LoadConfig, turns <-chan struct{}, tally *tally) error {
	for {
		select {
		case <-turns:
		case <-ctx.Done():
			return nil
		}
		once, cancel := context.WithTimeout(ctx, cfg.Timeout)
		result := Ask(once, cfg.Protocol, cfg.Target)
		cancel()
		if ctx.Err() != nil && result.Error != "" {
			return nil // cut off by the end of the load, not a failure
		}
		tally.asked(time.Now(), result)
	}
}

func reportEvery(ctx context.Context, interval time.Duration, tally *tally, emit func(Report) error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			if err := emit(tally.report(now)); err != nil {
				return fmt.Errorf("emit a report: %w", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
