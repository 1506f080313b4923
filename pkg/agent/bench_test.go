package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// benchPlane is a data plane with room for much.
func benchPlane(b *testing.B) *datapath.Datapath {
	b.Helper()
	plane, err := datapath.Open(datapath.Config{
		BPFFS: sandbox.BPFFS(b) + "/causeway", Cgroup: sandbox.Cgroup(b),
		MapCapacity: 1 << 20, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	return plane
}

// BenchmarkStart is what an agent does at its start with 100,000 services of two
// backends, from the first batch to complete maps; and again with the maps that
// are complete already.
func BenchmarkStart(b *testing.B) {
	const services = 100_000
	d := service.Delta{Views: make(map[service.Name]*service.View, services), Slices: make(map[service.BackendSliceKey]*service.BackendSlice, services)}
	for i := range services {
		name := service.Name{Namespace: "shop", Name: fmt.Sprintf("service-%d", i)}
		v := view(name, fmt.Sprintf("10.%d.%d.%d", 96+i>>16, i>>8&255, i&255), tcp("http", 80))
		s := slice(name, "east", []service.Port{tcp("http", 8080)},
			fmt.Sprintf("10.%d.%d.%d", 64+i>>16, i>>8&255, i&255), fmt.Sprintf("10.%d.%d.%d", 128+i>>16, i>>8&255, i&255))
		d.Views[name], d.Slices[s.BackendSliceKey] = v, s
	}
	begin := func(plane *datapath.Datapath) {
		a := New(Config{Datapath: plane, Cluster: "east", Node: "n1", Logger: slog.New(slog.DiscardHandler)})
		if err := a.Apply(b.Context(), feed.Batch{Snapshot: true, Delta: d}); err != nil {
			b.Fatal(err)
		}
		if retry := a.reconcile(); retry != 0 {
			b.Fatal(a.failure())
		}
	}
	b.Run("empty", func(b *testing.B) {
		for b.Loop() {
			plane := benchPlane(b)
			begin(plane)
			b.StopTimer()
			if err := errors.Join(plane.Remove(), plane.Close()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("full", func(b *testing.B) {
		plane := benchPlane(b)
		defer plane.Close()
		defer plane.Remove()
		begin(plane)
		for b.Loop() {
			begin(plane)
		}
	})
}

// BenchmarkOneChangeOf10000 is what an agent does when one of 10,000 backends of
// a service, in slices of 100, becomes another: from the batch to the maps.
func BenchmarkOneChangeOf10000(b *testing.B) {
	plane := benchPlane(b)
	defer plane.Close()
	defer plane.Remove()
	a := New(Config{Datapath: plane, Cluster: "east", Node: "n1", Logger: slog.New(slog.DiscardHandler)})
	d := delta(view(web, "10.96.0.1", tcp("http", 80)))
	var parts []*service.BackendSlice
	for n := range 100 {
		var ips []string
		for i := range 100 {
			ips = append(ips, fmt.Sprintf("10.%d.%d.%d", 64+n/50, n%50, i+1))
		}
		s := slice(web, "east", []service.Port{tcp("http", 8080)}, ips...)
		s.Part = n
		d.Slices[s.BackendSliceKey] = s
		parts = append(parts, s)
	}
	apply := func(snapshot bool, d service.Delta) {
		if err := a.Apply(b.Context(), feed.Batch{Snapshot: snapshot, Delta: d}); err != nil {
			b.Fatal(err)
		}
		if retry := a.reconcile(); retry != 0 {
			b.Fatal(a.failures)
		}
	}
	apply(true, d)
	for i := 0; b.Loop(); i++ {
		changed := *parts[i%100]
		changed.Endpoints = slices.Clone(changed.Endpoints)
		ip := changed.Endpoints[0].IP.As4()
		ip[1] ^= 128
		changed.Endpoints[0].IP = netip.AddrFrom4(ip)
		parts[i%100] = &changed
		apply(false, service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{changed.BackendSliceKey: &changed}})
	}
}
