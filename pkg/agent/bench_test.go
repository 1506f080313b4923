package agent

import (
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

// BenchmarkOneChangeOf10000 is what an agent does when one of 10,000 backends of
// a service, in slices of 100, becomes another: from the batch to the maps.
func BenchmarkOneChangeOf10000(b *testing.B) {
	plane, err := datapath.Open(datapath.Config{
		BPFFS: sandbox.BPFFS(b) + "/causeway", Cgroup: sandbox.Cgroup(b),
		MapCapacity: 1 << 22, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
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
