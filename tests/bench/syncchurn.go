package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/tests/bench/mesh"
)

// churnRate is how many keys of a mesh change a second.
const churnRate = 325

// churnPuts bounds how many puts are under way at once.
const churnPuts = 64

// churn changes keys of all kinds at an even rate, and measures from the put of
// a service's backends to the moment when the programs choose from them.
func (b *syncBench) churn(ctx context.Context, w *world, span time.Duration, where string) error {
	m, err := measureUse(ctx, w.pids())
	if err != nil {
		return err
	}
	defer m.end()
	done := b.profile(ctx, w)
	watch, err := w.churn(ctx, 0, int(span.Seconds()*churnRate))
	if err != nil {
		return err
	}
	used, err := m.stop()
	if err != nil {
		return err
	}
	done()
	shown, written := milliseconds(watch.delays), milliseconds(watch.puts)
	b.keep(
		b.add(fmt.Sprintf("%d changes/s, %s, put to map, p50 of %d", churnRate, where, len(shown)), quantile(shown, 0.5), "ms").atMost(5).
			against("2.6 ms, to its cache only, limits lifted"),
		b.add("put to map, p99", quantile(shown, 0.99), "ms").atMost(20).against("22.9 ms, to its cache only, limits lifted"),
		b.add("put to map, longest", quantile(shown, 1), "ms"),
		b.add("of that the put, peer's etcd and its disk alone, p50", quantile(written, 0.5), "ms"),
		b.add("the put, p99", quantile(written, 0.99), "ms"),
	)
	b.keepUse(fmt.Sprintf("changes for %.0f s", span.Seconds()), used)
	return nil
}

// churn makes n changes, the first of which is the first-th of the world, and
// returns how long those took that a map shows.
func (w *world) churn(ctx context.Context, first, n int) (*mapWatch, error) {
	watch := &mapWatch{world: w, wake: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return watch.run(ctx) })
	puts, putCtx := errgroup.WithContext(ctx)
	puts.SetLimit(churnPuts)
	begin := time.Now()
	for i := range n {
		if err := sleep(putCtx, time.Until(begin.Add(time.Duration(i)*time.Second/churnRate))); err != nil {
			break // Wait has the reason
		}
		puts.Go(func() error { return w.change(putCtx, first+i, watch) })
	}
	err := puts.Wait()
	watch.end()
	return watch, errors.Join(err, g.Wait())
}

// change makes the i-th change: of 20, five are of backends, nine of addresses,
// four of identities and two of nodes. All clusters take their turn.
func (w *world) change(ctx context.Context, i int, watch *mapWatch) error {
	r := w.remotes[i%len(w.remotes)]
	turn := i / 20
	var pair mesh.Pair
	var err error
	switch k := i % 20; {
	case k < 5:
		n := turn*5 + k
		r = w.remotes[n%len(w.remotes)]
		service := n / len(w.remotes) % r.Services
		version := 1 + n/len(w.remotes)/r.Services
		pair.Key, pair.Value, err = r.SlicePair(service, 0, version)
		if err != nil {
			return err
		}
		return watch.put(ctx, r.Frontend(service), pair)
	case k < 14:
		pair.Key, pair.Value, err = r.AddressPair(r.Addresses + (turn*9 + k - 5))
	case k < 18:
		pair.Key, pair.Value, err = r.IdentityPair(r.Identities + (turn*4 + k - 14))
	default:
		pair.Key, pair.Value, err = r.NodePair((turn*2+k-18)%r.Nodes, 1+turn)
	}
	if err != nil {
		return err
	}
	return w.peerStore.put(ctx, pair)
}

// mapWatch waits for changes to show in the maps.
type mapWatch struct {
	world *world
	wake  chan struct{}

	mu      sync.Mutex
	pending []mapChange
	ended   bool
	puts    []time.Duration // how long the puts took
	delays  []time.Duration // from the put's beginning to the map; run's own
}

// mapChange is a frontend whose value is to be written again.
type mapChange struct {
	frontend   netip.AddrPort
	generation uint32 // before
	put        time.Time
}

// put writes a pair and has the frontend watched from before that.
func (m *mapWatch) put(ctx context.Context, frontend netip.AddrPort, pair mesh.Pair) error {
	generation, err := m.world.maps.generation(frontend)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.pending = append(m.pending, mapChange{frontend, generation, time.Now()})
	m.mu.Unlock()
	m.poke()
	begin := time.Now()
	if err := m.world.peerStore.put(ctx, pair); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.puts = append(m.puts, time.Since(begin))
	return nil
}

// end has run return once nothing is pending.
func (m *mapWatch) end() {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	m.poke()
}

func (m *mapWatch) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// run looks at what is pending several times a millisecond.
func (m *mapWatch) run(ctx context.Context) error {
	for {
		m.mu.Lock()
		pending, ended := slices.Clone(m.pending), m.ended
		m.mu.Unlock()
		if len(pending) == 0 {
			if ended {
				return nil
			}
			select {
			case <-m.wake:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			continue
		}
		if err := m.look(pending); err != nil {
			return err
		}
		if err := sleep(ctx, 200*time.Microsecond); err != nil {
			return fmt.Errorf("wait for %d services in the maps: %w", len(pending), err)
		}
	}
}

func (m *mapWatch) look(pending []mapChange) error {
	seen := map[netip.AddrPort]bool{}
	for _, c := range pending {
		generation, err := m.world.maps.generation(c.frontend)
		if err != nil {
			return err
		}
		if generation != c.generation {
			seen[c.frontend] = true
			m.delays = append(m.delays, time.Since(c.put))
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = slices.DeleteFunc(m.pending, func(c mapChange) bool { return seen[c.frontend] })
	return nil
}

// rowChurn is measured twice. The peer's etcd, the own one and the agent's state
// file are on one disk, which three machines would not share: a sync for one
// holds up the others. With the files in memory there is no disk.
func rowChurn(ctx context.Context, b *syncBench) error {
	for _, files := range []string{"", memoryDir} {
		where := "on one disk"
		if files != "" {
			where = "files in memory"
		}
		err := b.with(ctx, worldConfig{spec: ordinary(), files: files}, func(w *world) error {
			if err := w.start(ctx); err != nil {
				return err
			}
			if err := w.connect(); err != nil {
				return err
			}
			if err := w.awaitMaps(ctx); err != nil {
				return err
			}
			if err := w.awaitCache(ctx); err != nil {
				return err
			}
			return b.churn(ctx, w, time.Minute, where)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// rowBurst lets changes wait in the peer's etcd while the API server stands
// still, so that they come as fast as it takes them: not the peer's writes are
// measured.
func rowBurst(ctx context.Context, b *syncBench) error {
	spec := mesh.Spec{Clusters: 1, Nodes: 100, Identities: 100, Services: 20_000, Backends: 2}
	return b.with(ctx, worldConfig{spec: spec}, func(w *world) error {
		if err := w.start(ctx); err != nil {
			return err
		}
		maps, cache, _, err := b.bootstrap(ctx, w)
		if err != nil {
			return err
		}
		b.keep(
			b.add(fmt.Sprintf("before: %d keys to complete maps", spec.Keys()), maps.Seconds(), "s"),
			b.add("before: to a complete cache", cache.Seconds(), "s"),
		)
		if err := sleep(ctx, 2*time.Second); err != nil {
			return err
		}
		return b.burst(ctx, w)
	})
}

func (b *syncBench) burst(ctx context.Context, w *world) error {
	took, used, err := b.measureBurst(ctx, w, 1)
	if err != nil {
		return err
	}
	n := w.remotes[0].Services
	b.keep(b.add(fmt.Sprintf("burst of %d changes, to the last map entry", n), float64(n)/took.Seconds(), "changes/s").
		atLeast(20_000).against("111/s with its defaults, 1,044/s with every limit lifted, to its cache only"))
	b.keepUse("burst", used)
	return nil
}

// measureBurst changes each service of the first remote cluster at once, to a
// version that none of them had.
func (b *syncBench) measureBurst(ctx context.Context, w *world, version int) (took time.Duration, used map[string]use, err error) {
	r := w.remotes[0]
	if err := w.api.Pause(ctx); err != nil {
		return 0, nil, err
	}
	err = w.peerStore.putAll(ctx, func(yield func(mesh.Pair, error) bool) {
		for i := range r.Services {
			key, value, err := r.SlicePair(i, 0, version)
			if !yield(mesh.Pair{Key: key, Value: value}, err) {
				return
			}
		}
	})
	if err != nil {
		return 0, nil, err
	}
	before := map[netip.AddrPort]uint32{}
	for _, f := range w.frontends() {
		if before[f], err = w.maps.generation(f); err != nil {
			return 0, nil, err
		}
	}
	m, err := measureUse(ctx, w.pids())
	if err != nil {
		return 0, nil, err
	}
	defer m.end()
	done := b.profile(ctx, w)
	begin := time.Now()
	if err := w.api.Resume(); err != nil {
		return 0, nil, err
	}
	err = w.await(ctx, w.frontends(), func(f netip.AddrPort) (bool, error) {
		n, err := w.maps.generation(f)
		return n != before[f], err
	})
	if err != nil {
		return 0, nil, err
	}
	took = time.Since(begin)
	if used, err = m.stop(); err != nil {
		return 0, nil, err
	}
	done()
	return took, used, nil
}
