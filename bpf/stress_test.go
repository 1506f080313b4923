// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause

package bpf_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// TestTornReads reads while the data plane writes as fast as it can, millions of
// times: elements of the maps pass from key to key under the reader's eyes. It
// must always find a backend, and always one of the service that it asked for.
func TestTornReads(t *testing.T) {
	dir := filepath.Join(sandbox.BPFFS(t), "causeway")
	plane, err := datapath.Open(datapath.Config{
		BPFFS: dir, Cgroup: sandbox.Cgroup(t), MapCapacity: 1 << 20,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(plane.Remove(), plane.Close()); err != nil {
			t.Error(err)
		}
	}()
	reader, readings := loadReader(t, dir)
	for i := range int(bpf.StressReadingREAD_SERVICES) {
		if err := plane.Update(random(i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	var others sync.WaitGroup
	others.Go(func() {
		if err := plane.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	others.Go(func() {
		for ctx.Err() == nil {
			if _, err := reader.Run(&ebpf.RunOptions{Data: make([]byte, 14), Repeat: 10_000}); err != nil {
				t.Errorf("run the reader: %v", err)
				return
			}
		}
	})
	writes := 0
	for ; ctx.Err() == nil; writes++ {
		if err := errors.Join(plane.Update(random(rand.IntN(int(bpf.StressReadingREAD_SERVICES)))), passing(plane)); err != nil {
			t.Error(err)
			break
		}
	}
	others.Wait()

	var got [bpf.StressReadingREADINGS]uint64
	for i := range got {
		if err := readings.Lookup(uint32(i), &got[i]); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d changes; readings: %d found, %d misses and %d half-written values at the first attempt",
		writes, got[bpf.StressReadingREAD_FOUND], got[bpf.StressReadingREAD_ABSENT], got[bpf.StressReadingREAD_TORN])
	if got[bpf.StressReadingREAD_FOUND] < 10_000 {
		t.Error("the reader hardly ran")
	}
	for _, never := range []bpf.StressReading{bpf.StressReadingREAD_EMPTY, bpf.StressReadingREAD_WRONG, bpf.StressReadingREAD_MISSED} {
		if got[never] != 0 {
			t.Errorf("reading %d: %d times", never, got[never])
		}
	}
}

// loadReader loads the reader onto the pinned maps.
func loadReader(t *testing.T, dir string) (*ebpf.Program, *ebpf.Map) {
	t.Helper()
	spec, err := bpf.LoadStress()
	if err != nil {
		t.Fatal(err)
	}
	delete(spec.Maps, ".bss")
	clear(spec.Variables)
	replace := map[string]*ebpf.Map{}
	for _, name := range []string{bpf.StressMapService, bpf.StressMapSlot} {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		replace[name] = m
		spec.Maps[name].MaxEntries = m.MaxEntries()
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(loaded.Close)
	return loaded.Programs[bpf.StressProgReadOne], loaded.Maps[bpf.StressMapReadings]
}

// random returns service i with some of its backends, in one or two groups.
func random(i int) datapath.Service {
	s := datapath.Service{
		Frontend: datapath.Frontend{Addr: netip.MustParseAddrPort(fmt.Sprintf("10.96.0.%d:80", i+1)), Protocol: datapath.TCP},
		Groups:   make([]datapath.Group, 1+rand.IntN(2)),
	}
	for n, j := range rand.Perm(8)[:1+rand.IntN(8)] {
		g := &s.Groups[n%len(s.Groups)]
		g.Backends = append(g.Backends, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i + 1), byte(j + 1)}), 8080))
	}
	return s
}

// passing puts another service in effect and takes it out again, so that the
// elements of the maps change hands.
func passing(plane *datapath.Datapath) error {
	s := random(100)
	return errors.Join(plane.Update(s), plane.Delete(s.Frontend))
}
