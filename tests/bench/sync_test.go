package main

import (
	"bytes"
	"context"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/tests/bench/mesh"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

func TestParseSync(t *testing.T) {
	got, err := parseSync([]string{"-rows", "burst, peer", "-dir", "x", "-profiles", "y"})
	want := syncConfig{Rows: []string{"burst", "peer"}, Dir: "x", Profiles: "y"}
	if err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	names := map[string]bool{}
	for _, row := range syncRows() {
		if names[row.name] || row.about == "" {
			t.Errorf("row %q is there twice, or says nothing of itself", row.name)
		}
		names[row.name] = true
	}
}

func TestFigures(t *testing.T) {
	r := syncResult{machine: machine{Name: "sync", Kernel: "6.1.0", CPUs: 2}, Figures: []figure{
		figure{Row: "peer", Metric: "to maps", Value: 2.5, Unit: "s"}.atMost(3).against("51 s"),
		figure{Row: "peer", Metric: "rate", Value: 150, Unit: "changes/s"}.atLeast(20_000),
		{Row: "burst", Metric: "CPU", Value: 0.25, Unit: "s"},
	}}
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"sync: kernel 6.1.0, 2 CPUs\n",
		"peer   to maps  2.50   s          <= 3.00   yes  51 s\n",
		"       rate     150    changes/s  >= 20000  NO   \n",
		"burst  CPU      0.250  s                         \n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// worldTest returns a benchmark and what it prints, for worlds of a test.
func worldTest(t *testing.T) (*syncBench, *bytes.Buffer) {
	t.Helper()
	labtest.RequireRoot(t)
	var out bytes.Buffer
	b := &syncBench{out: &out, binaries: labtest.Binaries(t), row: "test", config: syncConfig{Dir: t.TempDir()}}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.String())
		}
	})
	return b, &out
}

// figuresOf returns the figures by metric.
func (b *syncBench) figuresOf() map[string]float64 {
	found := map[string]float64{}
	for _, f := range b.result.Figures {
		found[f.Metric] = f.Value
	}
	return found
}

// TestWorld goes through what the rows do, with a peer of few keys.
func TestWorld(t *testing.T) {
	b, _ := worldTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), rowTimeout)
	defer cancel()
	spec := mesh.Spec{Clusters: 1, Nodes: 3, Identities: 4, Addresses: 20, Services: 5, Backends: 3}
	err := b.with(ctx, worldConfig{spec: spec, files: memoryDir}, func(w *world) error {
		if !strings.HasPrefix(w.dir, memoryDir) {
			t.Errorf("the files are in %s", w.dir)
		}
		if err := w.start(ctx); err != nil {
			return err
		}
		maps, cache, used, err := b.bootstrap(ctx, w)
		if err != nil {
			return err
		}
		if maps <= 0 || cache <= 0 || used[apiServer].cpu <= 0 || used[nodeAgent].peak <= 0 || used[peerName].memory <= 0 {
			t.Errorf("maps %v, cache %v, use %+v", maps, cache, used)
		}
		if err := b.churn(ctx, w, time.Second, "here"); err != nil {
			return err
		}
		if err := w.replaceBackend(ctx, w.remotes[0], 0, 1_000_000); err != nil {
			return err
		}
		if err := b.burst(ctx, w); err != nil {
			return err
		}
		if sent, err := w.sentBytes(ctx); err != nil || sent <= 0 {
			t.Errorf("%v bytes were sent, error %v", sent, err)
		}
		if size, err := w.ownStore.size(ctx); err != nil || size <= 0 {
			t.Errorf("etcd has %d bytes, error %v", size, err)
		}
		return b.restart(ctx, w, "3 backends each")
	})
	if err != nil {
		t.Fatal(err)
	}
	found := b.figuresOf()
	for _, metric := range []string{
		"put to map, p99", "burst of 5 changes, to the last map entry",
		"start of the agent over empty maps, 3 backends each: CPU", "start of the agent over full maps, 3 backends each: CPU",
	} {
		if found[metric] <= 0 {
			t.Errorf("no figure %q in %v", metric, found)
		}
	}
	// How many of 85 are put in a second is the machine's matter.
	if !slices.ContainsFunc(slices.Collect(maps.Keys(found)), func(metric string) bool {
		return strings.HasPrefix(metric, "325 changes/s, here, put to map, p50 of ")
	}) {
		t.Errorf("no median of the changes in %v", found)
	}
}

// TestHub connects clusters behind one etcd, with profiles.
func TestHub(t *testing.T) {
	b, out := worldTest(t)
	b.config.Profiles = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), rowTimeout)
	defer cancel()
	var dir string
	spec := mesh.Spec{Clusters: 3, Nodes: 1, Identities: 2, Addresses: 4, Services: 2, Backends: 1}
	err := b.with(ctx, worldConfig{spec: spec, hub: true}, func(w *world) error {
		dir = w.dir
		if err := w.start(ctx); err != nil {
			return err
		}
		_, _, _, err := b.bootstrap(ctx, w)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	profiles, err := filepath.Glob(filepath.Join(b.config.Profiles, "test-*"))
	if err != nil || len(profiles) != 4 {
		t.Errorf("profiles: %v, %v; said: %s", profiles, err, out.String())
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

// TestPublish counts the identities of pods.
func TestPublish(t *testing.T) {
	b, _ := worldTest(t)
	config := worldConfig{manifests: func(w io.Writer) error { return mesh.WritePods(w, 20, 7) }}
	err := b.with(t.Context(), config, func(w *world) error {
		cpu, err := b.publish(t.Context(), w, 7)
		if err == nil && cpu <= 0 {
			t.Errorf("it took %v s", cpu)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUse(t *testing.T) {
	m, err := measureUse(t.Context(), map[string]int{"this": os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	held := make([]byte, 8<<20)
	for i := range held {
		held[i] = byte(i)
	}
	used, err := m.stop()
	if err != nil {
		t.Fatal(err)
	}
	if u := used["this"]; u.cpu <= 0 || u.memory < 8<<20 || u.peak < u.memory {
		t.Errorf("%+v after holding 8 MiB", u)
	}
	if held[1] != 1 {
		t.Error("held is still needed")
	}
	if _, err := measureUse(t.Context(), map[string]int{"nobody": 1<<22 - 1}); err == nil {
		t.Error("a process that is not there is measured")
	}
}

func TestQuantile(t *testing.T) {
	values := milliseconds([]time.Duration{3 * time.Millisecond, time.Second, 2 * time.Millisecond})
	if !slices.Equal(values, []float64{2, 3, 1000}) {
		t.Fatalf("%v", values)
	}
	for share, want := range map[float64]float64{0: 2, 0.5: 3, 1: 1000} {
		if got := quantile(values, share); got != want {
			t.Errorf("quantile %v is %v, want %v", share, got, want)
		}
	}
	if got := quantile(nil, 0.5); got != 0 {
		t.Errorf("quantile of nothing is %v", got)
	}
}
