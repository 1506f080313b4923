package main

import (
	"context"
	"fmt"
	"time"

	"github.com/causeway-mesh/causeway/tests/bench/mesh"
)

// ordinary is the peer of 57,000 keys, its services' slices not counted.
func ordinary() mesh.Spec {
	return mesh.Spec{Clusters: 1, Nodes: 1000, Identities: 5000, Addresses: 50_000, Services: 1000, Backends: 10}
}

// bootstrap connects a world and returns how long it took to complete maps and
// to a complete cache, and what it cost until both were.
func (b *syncBench) bootstrap(ctx context.Context, w *world) (maps, cache time.Duration, used map[string]use, err error) {
	m, err := measureUse(ctx, w.pids())
	if err != nil {
		return 0, 0, nil, err
	}
	defer m.end()
	done := b.profile(ctx, w)
	begin := time.Now()
	if err := w.connect(); err != nil {
		return 0, 0, nil, err
	}
	cached := make(chan error, 1)
	go func() {
		err := w.awaitCache(ctx)
		cache = time.Since(begin)
		cached <- err
	}()
	err = w.awaitMaps(ctx)
	maps = time.Since(begin)
	if cacheErr := <-cached; err == nil {
		err = cacheErr
	}
	if err != nil {
		return 0, 0, nil, err
	}
	used, err = m.stop()
	done()
	return maps, cache, used, err
}

func rowPeer(ctx context.Context, b *syncBench) error {
	return b.with(ctx, worldConfig{spec: ordinary()}, func(w *world) error {
		if err := w.start(ctx); err != nil {
			return err
		}
		maps, cache, used, err := b.bootstrap(ctx, w)
		if err != nil {
			return err
		}
		b.keep(
			b.add(fmt.Sprintf("%d keys to complete maps", w.spec.Keys()), maps.Seconds(), "s").atMost(3).
				against("51 s with its defaults, 44 s with every limit lifted"),
			b.add("to a complete cache", cache.Seconds(), "s"),
		)
		b.keepUse("start", used)
		return b.idle(ctx, w)
	})
}

// idle measures what a mesh costs in which nothing happens.
func (b *syncBench) idle(ctx context.Context, w *world) error {
	const settle, span = 5 * time.Second, 15 * time.Second
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	m, err := measureUse(ctx, w.pids())
	if err != nil {
		return err
	}
	defer m.end()
	if err := sleep(ctx, span); err != nil {
		return err
	}
	used, err := m.stop()
	if err != nil {
		return err
	}
	share := func(name string) float64 { return 100 * used[name].cpu.Seconds() / span.Seconds() }
	b.keep(
		b.add("idle: one core's share of the agent", share(nodeAgent), "%").atMost(1),
		b.add("idle: one core's share of the API server", share(apiServer), "%"),
		b.add("idle: memory of the agent", mebibytes(used[nodeAgent].memory), "MiB"),
		b.add("idle: memory of the API server", mebibytes(used[apiServer].memory), "MiB"),
	)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func rowClusters(ctx context.Context, b *syncBench) error {
	spec := mesh.Spec{Clusters: 250, Nodes: 100, Identities: 100, Addresses: 1000, Services: 20, Backends: 10}
	return b.with(ctx, worldConfig{spec: spec, hub: true}, func(w *world) error {
		if err := w.start(ctx); err != nil {
			return err
		}
		maps, cache, used, err := b.bootstrap(ctx, w)
		if err != nil {
			return err
		}
		b.keep(
			b.add(fmt.Sprintf("%d keys to complete maps", spec.Keys()), maps.Seconds(), "s").atMost(20).
				against("60 s is its own threshold, for the cache alone"),
			b.add("to a complete cache", cache.Seconds(), "s").atMost(60),
			b.add("memory of the API server, highest", mebibytes(used[apiServer].peak), "MiB").atMost(1024),
			b.add("memory of the agent, highest", mebibytes(used[nodeAgent].peak), "MiB").atMost(150).
				against("15 GiB an agent at 3 M addresses"),
		)
		b.keepUse("start", used)
		return b.churn(ctx, w, 30*time.Second, "on one disk")
	})
}
