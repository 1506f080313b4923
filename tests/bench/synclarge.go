package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
	"github.com/causeway-mesh/causeway/tests/bench/mesh"
)

// rowBackends changes one backend of many again and again, each time when the
// time before is in the maps.
func rowBackends(ctx context.Context, b *syncBench) error {
	const changes = 300
	spec := mesh.Spec{Clusters: 1, Nodes: 1000, Identities: 1, Services: 1, Backends: 10_000}
	return b.with(ctx, worldConfig{spec: spec}, func(w *world) error {
		if err := w.start(ctx); err != nil {
			return err
		}
		if _, _, _, err := b.bootstrap(ctx, w); err != nil {
			return err
		}
		r := w.remotes[0]
		sent, err := w.sentBytes(ctx)
		if err != nil {
			return err
		}
		m, err := measureUse(ctx, w.pids())
		if err != nil {
			return err
		}
		defer m.end()
		done := b.profile(ctx, w)
		for i := range changes {
			if err := w.replaceBackend(ctx, r, i%spec.Slices(), 1+i/spec.Slices()); err != nil {
				return err
			}
		}
		used, err := m.stop()
		if err != nil {
			return err
		}
		done()
		after, err := w.sentBytes(ctx)
		if err != nil {
			return err
		}
		per := func(name string) float64 { return used[name].cpu.Seconds() * 1000 / changes }
		b.keep(
			b.add("one change of 10,000 backends: CPU of the agent", per(nodeAgent), "ms").atMost(1).against("78.8 ms each agent"),
			b.add("CPU of the API server", per(apiServer), "ms"),
			b.add("bytes on the feed", (after-sent)/changes, "B").against("787 KiB at 5,000 backends"),
		)
		return nil
	})
}

// replaceBackend makes version n of a slice of the first service, and waits
// until it is in the maps.
func (w *world) replaceBackend(ctx context.Context, r mesh.Remote, slice, n int) error {
	before, err := w.maps.generation(r.Frontend(0))
	if err != nil {
		return err
	}
	key, value, err := r.SlicePair(0, slice, n)
	if err != nil {
		return err
	}
	if err := w.peerStore.put(ctx, mesh.Pair{Key: key, Value: value}); err != nil {
		return err
	}
	for {
		now, err := w.maps.generation(r.Frontend(0))
		if err != nil || now != before {
			return err
		}
		if err := w.pause(ctx); err != nil {
			return err
		}
	}
}

// sentBytes is how much the API server has sent to its agents.
func (w *world) sentBytes(ctx context.Context) (float64, error) {
	text, err := w.api.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var bytes float64
		if _, err := fmt.Sscanf(line, "causeway_feed_sent_bytes_total %g", &bytes); err == nil {
			return bytes, nil
		}
	}
	return 0, errors.New("the API server does not say what it has sent")
}

// rowServices asks for what the maps hold at most by default.
func rowServices(ctx context.Context, b *syncBench) error {
	spec := mesh.Spec{Clusters: 1, Nodes: 1000, Identities: 100, Services: 100_000, Backends: 10}
	return b.with(ctx, worldConfig{spec: spec}, func(w *world) error {
		if err := w.start(ctx); err != nil {
			return err
		}
		maps, cache, used, err := b.bootstrap(ctx, w)
		if err != nil {
			return err
		}
		b.keep(
			b.add(fmt.Sprintf("%d services, %d backends to complete maps", spec.TotalServices(), spec.TotalBackends()), maps.Seconds(), "s"),
			b.add("to a complete cache", cache.Seconds(), "s"),
		)
		b.keepUse("start", used)
		size, err := w.ownStore.size(ctx)
		if err != nil {
			return err
		}
		b.keep(
			b.add("etcd's database, of 2048 MiB by default", mebibytes(size), "MiB"),
			b.add("backends in the map, of 1,048,576 by default", float64(spec.TotalBackends()), "entries"),
		)
		return b.restart(ctx, w, "10 backends each")
	})
}

// rowAgent measures the start of an agent over empty maps, and over full ones.
func rowAgent(ctx context.Context, b *syncBench) error {
	spec := mesh.Spec{Clusters: 1, Nodes: 100, Identities: 100, Services: 100_000, Backends: 2}
	return b.with(ctx, worldConfig{spec: spec}, func(w *world) error {
		if err := w.start(ctx); err != nil {
			return err
		}
		if _, _, _, err := b.bootstrap(ctx, w); err != nil {
			return err
		}
		return b.restart(ctx, w, "2 backends each")
	})
}

// restart starts the agent of a world that is complete: over the maps that
// another one left, and over none.
func (b *syncBench) restart(ctx context.Context, w *world, what string) error {
	for _, empty := range []bool{true, false} {
		if err := w.agent.Stop(ctx); err != nil {
			return err
		}
		about := "over full maps"
		if empty {
			about = "over empty maps"
			if err := removeAll(w.worker.BPFFS()); err != nil {
				return err
			}
		}
		begin := time.Now()
		if err := w.startAgent(ctx); err != nil {
			return err
		}
		done := b.profile(ctx, w)
		if err := w.awaitAgent(ctx); err != nil {
			return err
		}
		if err := w.awaitMaps(ctx); err != nil {
			return err
		}
		took := time.Since(begin)
		done()
		cpu, err := cpuTime(w.agent.PID())
		if err != nil {
			return err
		}
		memory, err := anonymousMemory(w.agent.PID())
		if err != nil {
			return err
		}
		b.keep(
			b.add(fmt.Sprintf("start of the agent %s, %s: CPU", about, what), cpu.Seconds(), "s").atMost(3),
			b.add("time", took.Seconds(), "s"),
			b.add("memory", mebibytes(memory), "MiB"),
		)
	}
	return nil
}

// removeAll removes the pins in a folder, which takes their maps along.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return err
}

// rowIdentities takes the difference between pods that all have one set of
// labels and pods that have one each: the rest of the work is the same.
func rowIdentities(ctx context.Context, b *syncBench) error {
	const pods = 20_000
	var cpu [2]float64
	for i, sets := range []int{1, pods} {
		config := worldConfig{manifests: func(w io.Writer) error { return mesh.WritePods(w, pods, sets) }}
		err := b.with(ctx, config, func(w *world) (err error) {
			cpu[i], err = b.publish(ctx, w, sets)
			return err
		})
		if err != nil {
			return err
		}
	}
	b.keep(
		b.add(fmt.Sprintf("%d pods of one set of labels, published: CPU", pods), cpu[0], "s"),
		b.add("one set each, published: CPU", cpu[1], "s"),
		b.add("for the numbers of 20,000 sets: CPU", cpu[1]-cpu[0], "s").atMost(2),
	)
	return nil
}

// publish starts the API server alone and returns its CPU time until all is in
// its etcd.
func (b *syncBench) publish(ctx context.Context, w *world, sets int) (float64, error) {
	api, err := w.here.StartAPIServer(ctx, "--pprof")
	if err != nil {
		return 0, err
	}
	w.api, w.agent = api, api
	if err := w.here.AwaitReady(ctx); err != nil {
		return 0, err
	}
	own, err := openStore(filepath.Join(w.here.DataDir(), "etcd", "etcd.sock"))
	if err != nil {
		return 0, err
	}
	w.undo = append(w.undo, own.Close)
	marker := wire.Layout{Cluster: ownCluster}.Marker(wire.Slices)
	for {
		_, found, err := own.Get(ctx, marker)
		if err != nil {
			return 0, err
		}
		if found {
			break
		}
		if err := w.pause(ctx); err != nil {
			return 0, err
		}
	}
	cpu, err := cpuTime(api.PID())
	if err != nil {
		return 0, err
	}
	n := 0
	count := func(kvstore.Item) error {
		n++
		return nil
	}
	prefix := wire.Layout{Cluster: ownCluster}.Prefix(wire.Identities)
	if err := own.List(ctx, kvstore.Prefix(prefix), count); err != nil {
		return 0, err
	}
	if n != sets {
		return 0, fmt.Errorf("%d identities were published for %d sets of labels", n, sets)
	}
	return cpu.Seconds(), nil
}
