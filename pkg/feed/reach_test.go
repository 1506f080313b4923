package feed

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// reachable is a state with one of each kind that Reach is about.
func reachable() merge.Delta {
	range4, host6 := netip.MustParsePrefix("10.2.0.0/24"), netip.MustParsePrefix("fd00::1/128")
	return merge.Delta{
		Nodes: map[node.Key]*node.Node{{Cluster: "west", Name: "w1"}: {
			Cluster: "west", Name: "w1", ClusterID: 2,
			Addresses: []node.Address{{Type: node.CiliumInternalIP, IP: netip.MustParseAddr("10.200.0.1")}},
		}},
		Addresses: map[netip.Prefix]*endpoint.Owner{host6: {Cluster: "west", Identity: 6}},
		Peers:     map[string]*route.Peer{"west": {Cluster: "west", ID: 2, Size: 511, Mode: route.VXLAN, Search: route.Fit}},
		Ranges: map[netip.Prefix]*route.Range{
			range4: {Prefix: range4, Cluster: "west"}, host6: {Prefix: host6, Cluster: "west"},
		},
	}
}

func TestRoundTripOfReach(t *testing.T) {
	want := merge.Delta{Peers: reachable().Peers, Ranges: reachable().Ranges}
	want.Peers["north"], want.Ranges[netip.MustParsePrefix("10.3.0.0/16")] = nil, nil
	got := merge.Delta{Peers: map[string]*route.Peer{}, Ranges: map[netip.Prefix]*route.Range{}}
	for _, c := range newServer().encode(want) {
		r, err := decode(c.encoded)
		if err != nil || r.key != c.key {
			t.Fatalf("decode %+v: %+v, %v", c.key, r.key, err)
		}
		switch name := r.name.(type) {
		case string:
			got.Peers[name], _ = r.value.(*route.Peer)
		case rangeName:
			got.Ranges[netip.Prefix(name)], _ = r.value.(*route.Range)
			if p := prefixOf(r.key.text); p != netip.Prefix(name) {
				t.Errorf("the key of %s says %s", netip.Prefix(name), p)
			}
		}
	}
	if diff := cmp.Diff(want, got, byPrefix); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// watcher keeps what it is told.
type watcher struct {
	mu   sync.Mutex
	told []Reach
}

func (w *watcher) watch(r Reach) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, r)
}

// take returns, once, what was told.
func (w *watcher) take() []Reach {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := w.told
	w.told = nil
	return told
}

// await waits until ok of all that was told since the last take, and returns it.
func (w *watcher) await(t *testing.T, what string, ok func(Reach) bool) (all []Reach) {
	t.Helper()
	eventually(t, what, func() bool {
		some := w.take()
		all = append(all, some...)
		for _, r := range some {
			if ok(r) {
				return true
			}
		}
		return false
	})
	return all
}

// TestReach: a watcher hears of all that changes, and what it reads then is so; and
// that it has all there is only when all kinds were told.
func TestReach(t *testing.T) {
	m, s, w := newMesh(t), newServer(), &watcher{}
	s.Apply(reachable())
	target, _ := m.serve(s, "127.0.0.1:0")
	state := OpenState(StateConfig{Logger: quiet})
	client := NewClient(ClientConfig{
		Target: target, TLS: m.tls(pki.RoleAgent, "node-1"), Node: "node-1", State: state, Sink: newSink(), Watch: w.watch, Logger: quiet, Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	s.Open(View, Slice, Node)
	for _, r := range w.await(t, "the nodes", func(r Reach) bool { return r.Nodes || r.All }) {
		if r.Whole {
			t.Errorf("whole without all kinds: %+v", r)
		}
	}
	s.Open()
	w.await(t, "the rest", func(r Reach) bool { return r.Whole && len(r.Ranges) == 2 && len(r.Addresses) == 1 && r.Nodes })
	nodes, peers, err := state.Nodes()
	if err != nil || len(nodes) != 1 || nodes[0].Name != "w1" || len(peers) != 1 || *peers["west"] != *reachable().Peers["west"] {
		t.Errorf("nodes %v, peers %v, error %v", nodes, peers, err)
	}
	ranges, err := state.Ranges()
	if diff := cmp.Diff(reachable().Ranges, ranges, byPrefix); diff != "" || err != nil {
		t.Error(diff, err)
	}
	seen := map[netip.Prefix]*endpoint.Owner{}
	err = state.Owners(func(some map[netip.Prefix]*endpoint.Owner) error {
		put(seen, some)
		return nil
	})
	if diff := cmp.Diff(reachable().Addresses, seen, byPrefix, byAddr); diff != "" || err != nil {
		t.Error(diff, err)
	}

	gone := netip.MustParsePrefix("fd00::1/128")
	s.Apply(merge.Delta{Ranges: map[netip.Prefix]*route.Range{gone: nil}, Addresses: map[netip.Prefix]*endpoint.Owner{gone: nil}})
	w.await(t, "what went", func(r Reach) bool {
		return r.Whole && fmt.Sprint(r.Ranges, r.Addresses, r.Nodes) == fmt.Sprint([]netip.Prefix{gone}, []netip.Prefix{gone}, false)
	})
	if owner, err := state.Owner(gone); owner != nil || err != nil || state.HasOwner(gone) {
		t.Errorf("%s is %v's, error %v", gone, owner, err)
	}
	if r, err := state.Range(gone); r != nil || err != nil {
		t.Errorf("%s is %v's, error %v", gone, r, err)
	}
	if r, err := state.Range(netip.MustParsePrefix("10.2.0.0/24")); err != nil || r == nil || r.Cluster != "west" {
		t.Errorf("10.2.0.0/24 is %v's, error %v", r, err)
	}

	want := Mesh{Revision: s.Revision(), Addresses: []netip.Addr{netip.MustParseAddr("10.200.0.9")}, Peers: 1, Ranges: 2, Problems: []string{"p"}, Error: "e"}
	client.ReportMesh(want)
	client.Report(Applied{Revision: s.Revision()})
	eventually(t, "the report arrives", func() bool {
		a := s.Agents()
		return len(a) == 1 && a[0].Current && a[0].Applied.Mesh != nil && cmp.Equal(*a[0].Applied.Mesh, want, byAddr)
	})
	want.Revision.N--
	client.ReportMesh(want)
	eventually(t, "it is not current without the newest of it", func() bool { return !s.Agents()[0].Current })
}

// TestReachFromTheFile: what an agent had before it ended is told before an API
// server is heard, and not as the whole.
func TestReachFromTheFile(t *testing.T) {
	m, s, dir := newMesh(t), opened(reachable()), t.TempDir()
	target, stop := m.serve(s, "127.0.0.1:0")
	got := newSink()
	open := func() (*State, func()) {
		state := OpenState(StateConfig{Dir: dir, Cluster: "east", Logger: quiet})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = state.Run(ctx) }()
		return state, func() { cancel(); <-done }
	}
	state, end := open()
	_, leave := m.agent(target, "node-1", got, state)
	eventually(t, "all is there", func() bool { return got.at(s.Revision()) })
	leave()
	end()
	stop()

	state, end = open()
	defer end()
	w := &watcher{}
	client := NewClient(ClientConfig{Target: "127.0.0.1:1", TLS: m.tls(pki.RoleAgent, "node-1"), Node: "node-1", State: state, Sink: newSink(), Watch: w.watch, Logger: quiet, Registerer: prometheus.NewRegistry()})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	for _, r := range w.await(t, "what the file has", func(r Reach) bool { return r.All }) {
		if r.Whole || !r.Restored {
			t.Errorf("whole without an API server: %+v", r)
		}
	}
	cancel()
	<-done
	if _, peers, err := state.Nodes(); err != nil || len(peers) != 1 {
		t.Errorf("peers %v, error %v", peers, err)
	}
}
