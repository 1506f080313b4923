package workload

import (
	"context"
	"errors"
	"sync"
	"time"
)

// FirstConfig says whose first answers are waited for.
type FirstConfig struct {
	// Targets are host:port, asked by HTTP.
	Targets []string
	// Cluster is whose answers count; empty for all.
	Cluster string
	// Every is how often each target is asked, Timeout bounds each request.
	Every, Timeout time.Duration
}

// First is when a target first answered.
type First struct {
	Target string    `json:"target"`
	At     time.Time `json:"at"`
	Identity
}

// WaitFirst asks all targets again and again, and calls emit once for each, as soon as
// one whose answer counts has answered. It returns when all have, with the last error
// of emit, or with ctx's error.
func WaitFirst(ctx context.Context, cfg FirstConfig, emit func(First) error) error {
	if len(cfg.Targets) == 0 || cfg.Every <= 0 || cfg.Timeout <= 0 {
		return errors.New("give targets, and times above 0")
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for _, target := range cfg.Targets {
		all.Go(func() {
			first, err := waitFirst(ctx, cfg, target)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = emit(first)
			}
			if err != nil {
				failed = err
			}
		})
	}
	all.Wait()
	return failed
}

func waitFirst(ctx context.Context, cfg FirstConfig, target string) (First, error) {
	ticks := time.NewTicker(cfg.Every)
	defer ticks.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, cfg.Timeout)
		result := Ask(once, HTTP, target)
		cancel()
		if result.Error == "" && (cfg.Cluster == "" || result.Cluster == cfg.Cluster) {
			return First{Target: target, At: time.Now(), Identity: result.Identity}, nil
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return First{}, ctx.Err()
		}
	}
}
