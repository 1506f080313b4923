package agent

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// node is an Agent over a real data plane, and what it reports.
type node struct {
	*Agent
	t        *testing.T
	plane    *datapath.Datapath
	registry *prometheus.Registry
	stop     func()
	n        uint64 // of the last revision

	mu      sync.Mutex
	reports chan struct{} // closed and replaced at each report
	last    feed.Applied
}

func start(t *testing.T, c datapath.Config) *node {
	t.Helper()
	n := &node{t: t, registry: prometheus.NewRegistry(), reports: make(chan struct{})}
	var err error
	if n.plane, err = datapath.Open(c); err != nil {
		t.Fatal(err)
	}
	n.Agent = New(Config{Datapath: n.plane, Report: n.report, Logger: c.Logger, Registerer: n.registry})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = n.Run(ctx) })
	running.Go(func() { _ = n.plane.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		if err := n.plane.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { n.stop(); _ = n.plane.Remove() })
	return n
}

func config(t *testing.T) datapath.Config {
	return datapath.Config{
		BPFFS: sandbox.BPFFS(t) + "/causeway", Cgroup: sandbox.Cgroup(t), MapCapacity: 1024,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func (n *node) report(a feed.Applied) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last = a
	close(n.reports)
	n.reports = make(chan struct{})
}

// await waits for a report that fulfils want.
func (n *node) await(what string, want func(feed.Applied) bool) feed.Applied {
	n.t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		n.mu.Lock()
		last, next := n.last, n.reports
		n.mu.Unlock()
		if want(last) {
			return last
		}
		select {
		case <-next:
		case <-deadline:
			n.t.Fatalf("waiting for %s: the last report is %+v", what, last)
		}
	}
}

// apply gives the agent a batch and returns its revision.
func (n *node) apply(snapshot bool, d service.Delta) feed.Revision {
	n.t.Helper()
	n.n++
	r := feed.Revision{Epoch: "test", N: n.n}
	if err := n.Apply(n.t.Context(), feed.Batch{Revision: r, Snapshot: snapshot, Delta: d}); err != nil {
		n.t.Fatal(err)
	}
	return r
}

// sync gives the agent a batch and waits until it is in effect.
func (n *node) sync(snapshot bool, d service.Delta) feed.Applied {
	n.t.Helper()
	r := n.apply(snapshot, d)
	return n.await("the revision", func(a feed.Applied) bool { return a.Revision == r })
}

func (n *node) want(want map[string][][]string) {
	n.t.Helper()
	sorted := cmpopts.SortSlices(func(a, b string) bool { return a < b })
	if diff := cmp.Diff(want, wanted(n.plane.Services()), sorted, cmpopts.EquateEmpty()); diff != "" {
		n.t.Errorf("in effect: %s", diff)
	}
}

func delta(objects ...any) service.Delta {
	d := service.Delta{Views: map[service.Name]*service.View{}, Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
	for _, o := range objects {
		switch o := o.(type) {
		case *service.View:
			d.Views[o.Name] = o
		case *service.BackendSlice:
			d.Slices[o.BackendSliceKey] = o
		case service.Name:
			d.Views[o] = nil
		case service.BackendSliceKey:
			d.Slices[o] = nil
		}
	}
	return d
}

func TestAgent(t *testing.T) {
	n := start(t, config(t))
	http := []service.Port{tcp("http", 8080)}
	east, west := slice(web, "east", http, "10.1.0.1"), slice(web, "west", http, "10.2.0.1", "10.2.0.2")
	v := view(web, "10.96.0.1", tcp("http", 80))

	applied := n.sync(true, delta(v, east))
	n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}})
	if diff := cmp.Diff(feed.Counts{Services: 1, Frontends: 1, Backends: 1}, applied.Counts); diff != "" || applied.Error != "" {
		t.Errorf("report: %s, %s", diff, applied.Error)
	}
	applied = n.sync(false, delta(west))
	n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080", "10.2.0.1:8080", "10.2.0.2:8080"}}})
	if applied.Counts.Backends != 3 {
		t.Errorf("report: %+v", applied)
	}
	n.sync(false, delta(east.BackendSliceKey))
	n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.2.0.1:8080", "10.2.0.2:8080"}}})
	n.sync(false, delta(view(web, "10.96.0.2", tcp("http", 80)))) // another address
	n.want(map[string][][]string{"10.96.0.2:80/tcp": {{"10.2.0.1:8080", "10.2.0.2:8080"}}})
	n.sync(false, delta(web))
	n.want(map[string][][]string{})
	n.sync(false, delta(v)) // its slices are known still
	n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.2.0.1:8080", "10.2.0.2:8080"}}})
	n.sync(true, delta(v, east)) // another epoch: what it does not name is gone
	n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}})
	applied = n.sync(true, delta())
	n.want(map[string][][]string{})
	if diff := cmp.Diff(feed.Counts{}, applied.Counts); diff != "" {
		t.Errorf("report: %s", diff)
	}
}

// What was in effect before the agent started stays until there is a complete
// state; then only the difference is applied.
func TestRestart(t *testing.T) {
	c := config(t)
	n := start(t, c)
	http := []service.Port{tcp("http", 8080)}
	db := service.Name{Namespace: "shop", Name: "db"}
	v, s := view(web, "10.96.0.1", tcp("http", 80)), slice(web, "east", http, "10.1.0.1")
	n.sync(true, delta(v, s, view(db, "10.96.0.2", tcp("http", 80)), slice(db, "east", http, "10.1.0.2")))
	n.stop()

	n = start(t, c)
	n.apply(false, delta(db)) // a delta alone says nothing of the rest
	n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}, "10.96.0.2:80/tcp": {{"10.1.0.2:8080"}}})
	n.sync(true, delta(v, s))
	n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}})
}

// A service that does not fit costs no other, keeps its last good state, and is
// in effect once there is room.
func TestFull(t *testing.T) {
	c := config(t)
	c.MapCapacity = 8
	n := start(t, c)
	http := []service.Port{tcp("http", 8080)}
	db := service.Name{Namespace: "shop", Name: "db"}
	small := slice(web, "east", http, "10.1.0.1", "10.1.0.2")
	large := slice(db, "east", http, "10.1.1.1", "10.1.1.2", "10.1.1.3", "10.1.1.4", "10.1.1.5", "10.1.1.6", "10.1.1.7")
	n.sync(true, delta(view(web, "10.96.0.1", tcp("http", 80)), small))
	n.apply(false, delta(view(db, "10.96.0.2", tcp("http", 80)), large))
	applied := n.await("the error", func(a feed.Applied) bool { return a.Error != "" })
	if !strings.Contains(applied.Error, "shop/db") || !strings.Contains(applied.Error, "--map-capacity") || applied.Revision.N != 1 {
		t.Errorf("report: %+v", applied)
	}
	if got := n.refused(); got["full"] != 1 {
		t.Errorf("refused: %v", got)
	}
	grown := slice(web, "east", http, "10.1.0.1", "10.1.0.3")
	n.apply(false, delta(grown)) // the others go on
	n.await("the other service", func(feed.Applied) bool { return strings.Contains(strings.Join(n.backends(), " "), "10.1.0.3") })
	n.apply(false, delta(web))
	applied = n.await("room", func(a feed.Applied) bool { return a.Error == "" && a.Revision.N == 4 })
	if applied.Counts.Backends != 7 || len(n.backends()) != 7 {
		t.Errorf("report: %+v", applied)
	}
	if got := n.refused(); got["full"] != 0 {
		t.Errorf("refused: %v", got)
	}
}

func (n *node) backends() []string {
	var all []string
	for _, groups := range wanted(n.plane.Services()) {
		all = append(all, slices.Concat(groups...)...)
	}
	return all
}

// refused returns the alarm's gauges by reason.
func (n *node) refused() map[string]float64 {
	n.t.Helper()
	families, err := n.registry.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		if f.GetName() == "causeway_agent_refused_frontends" {
			for _, m := range f.GetMetric() {
				all[m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	return all
}

// A frontend that can never be programmed is reported, and is no reason to try
// for ever or to hold back the revision.
func TestInvalid(t *testing.T) {
	n := start(t, config(t))
	applied := n.sync(true, delta(view(web, "127.0.0.1", tcp("http", 80))))
	if !strings.Contains(applied.Error, "shop/web") || n.refused()["invalid"] != 1 {
		t.Errorf("report: %+v, refused %v", applied, n.refused())
	}
	applied = n.sync(false, delta(view(web, "10.96.0.1", tcp("http", 80))))
	if applied.Error != "" || n.refused()["invalid"] != 0 {
		t.Errorf("report: %+v", applied)
	}
}

// Two services name one frontend: the first by name has it, and the other when it goes.
func TestConflict(t *testing.T) {
	http := []service.Port{tcp("http", 8080)}
	a, z := service.Name{Namespace: "shop", Name: "a"}, service.Name{Namespace: "shop", Name: "z"}
	of := map[service.Name][]any{
		a: {view(a, "10.96.0.1", tcp("http", 80)), slice(a, "east", http, "10.1.0.1")},
		z: {view(z, "10.96.0.1", tcp("http", 80)), slice(z, "east", http, "10.1.0.2")},
	}
	for _, order := range [][]service.Name{{a, z}, {z, a}} {
		n := start(t, config(t))
		n.sync(true, delta(of[order[0]]...))
		n.sync(false, delta(of[order[1]]...))
		n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}})
		n.sync(false, delta(a))
		n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.2:8080"}}})
		n.sync(false, delta(of[a]...))
		n.sync(false, delta(z))
		n.want(map[string][][]string{"10.96.0.1:80/tcp": {{"10.1.0.1:8080"}}})
		n.stop()
	}
}

// In whatever order and batches changes come, what is in effect is what the
// state says as a whole.
func TestAgainstWholeState(t *testing.T) {
	n := start(t, config(t))
	n.sync(true, delta())
	http := []service.Port{tcp("http", 8080)}
	random := rand.New(rand.NewPCG(3, 4))
	now := delta()
	for range 150 {
		d := delta()
		for range 1 + random.IntN(4) {
			name := service.Name{Namespace: "shop", Name: string(rune('a' + random.IntN(4)))}
			ip := netip.AddrFrom4([4]byte{10, 96, 0, byte(1 + random.IntN(3))}).String() // some name the same
			cluster := []string{"east", "west"}[random.IntN(2)]
			backend := netip.AddrFrom4([4]byte{10, 1, 0, byte(1 + random.IntN(9))}).String()
			s := slice(name, cluster, http, backend)
			switch random.IntN(4) {
			case 0:
				d.Views[name] = view(name, ip, tcp("http", 80))
			case 1:
				d.Views[name] = nil
			case 2:
				d.Slices[s.BackendSliceKey] = s
			case 3:
				d.Slices[s.BackendSliceKey] = nil
			}
		}
		maps.Copy(now.Views, d.Views)
		maps.Copy(now.Slices, d.Slices)
		n.sync(false, d)
		n.want(naive(now))
	}
}

// naive works out from a whole state what must be in effect.
func naive(d service.Delta) map[string][][]string {
	state := newState(self{"east", "n1"})
	state.apply(d)
	all := map[string][][]string{}
	for _, name := range slices.SortedFunc(maps.Keys(state.offers), compareNames) {
		for frontend, groups := range wanted(state.services(name)) {
			if _, taken := all[frontend]; !taken {
				all[frontend] = slices.DeleteFunc(groups, func(g []string) bool { return len(g) == 0 })
			}
		}
	}
	return all
}

// A feed may end at any time: Run ends with its context, whatever it is doing.
func TestRunEnds(t *testing.T) {
	a := New(Config{Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stop"))
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
}
