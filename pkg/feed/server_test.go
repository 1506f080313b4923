package feed

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/service"
)

func TestAgentsWaitUntilOpen(t *testing.T) {
	m, s, got := newMesh(t), newServer(), newSink()
	target, _ := m.serve(s, "127.0.0.1:0")
	m.agent(target, "node-1", got)
	eventually(t, "the agent is listed", func() bool { return len(s.Agents()) == 1 })
	web := viewsOf(view("web", "east"))
	apply(s, web)
	if a := s.Agents()[0]; a.Current || !a.Connected || a.Node != "node-1" || a.Version != "v1" {
		t.Errorf("before Open: %+v", a)
	}
	if batches, _ := got.counts(); batches != 0 {
		t.Errorf("%d batches before Open", batches)
	}
	s.Open()
	s.Open()
	got.expect(t, s, web)
	if _, snapshots := got.counts(); snapshots != 1 {
		t.Errorf("%d snapshots, want 1", snapshots)
	}
}

func TestEmptyStateIsASnapshot(t *testing.T) {
	m, s, got := newMesh(t), newServer(), newSink()
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	m.agent(target, "node-1", got)
	got.expect(t, s)
}

func TestChangesReachAllAgents(t *testing.T) {
	m, s := newMesh(t), newServer()
	web, api := viewsOf(view("web", "east")), slicesOf(slice("api", 0, "10.1.0.1"))
	apply(s, web)
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	sinks := []*sink{newSink(), newSink(), newSink()}
	for i, got := range sinks {
		m.agent(target, fmt.Sprint("node-", i), got)
		got.expect(t, s, web)
	}
	apply(s, api)
	for _, got := range sinks {
		got.expect(t, s, web, api)
	}
	apply(s, service.Delta{Views: map[service.Name]*service.View{{Namespace: "shop", Name: "web"}: nil}})
	apply(s, slicesOf(slice("api", 0, "10.1.0.2")))
	for _, got := range sinks {
		got.expect(t, s, slicesOf(slice("api", 0, "10.1.0.2")))
		if _, snapshots := got.counts(); snapshots != 1 {
			t.Errorf("%d snapshots, want 1 and then deltas", snapshots)
		}
	}
}

// A change of many messages is one batch, the snapshot like any other.
func TestLargeChangeIsOneBatch(t *testing.T) {
	m, s, got := newMesh(t), newServer(), newSink()
	large := func(octet int) service.Delta {
		d := service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
		for i := range 800 {
			sl := slice("large", i)
			for j := range 20 {
				sl.Endpoints = append(sl.Endpoints, slice("x", 0, fmt.Sprintf("10.%d.%d.%d", octet, i%256, j)).Endpoints...)
			}
			d.Slices[sl.BackendSliceKey] = sl
		}
		return d
	}
	first, second := large(1), large(2)
	apply(s, first)
	s.Open()
	var all update
	s.table.all(Slice, &all)
	if len(all.resources) != 800 {
		t.Fatalf("%d resources", len(all.resources))
	} else if _, rest, size := split(all.resources); len(rest) == 0 || size > batchBytes {
		t.Fatalf("the state fits one message of %d bytes: this test tests nothing", size)
	}
	target, _ := m.serve(s, "127.0.0.1:0")
	m.agent(target, "node-1", got)
	got.expect(t, s, first)
	apply(s, second)
	got.expect(t, s, second)
	if batches, snapshots := got.counts(); batches != 2 || snapshots != 1 {
		t.Errorf("%d batches, %d snapshots; want 2 and 1", batches, snapshots)
	}
}

// An agent that stands still gets what it missed as it is at the end, and the
// server keeps nothing for it.
func TestSlowAgentGetsTheNewest(t *testing.T) {
	m, s, slow, quick := newMesh(t), newServer(), newSink(), newSink()
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	m.agent(target, "slow", slow)
	m.agent(target, "quick", quick)
	slow.expect(t, s)
	quick.expect(t, s)
	release := slow.hold()
	defer release()
	const changes = 400
	var last service.Delta
	for i := range changes {
		last = service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
		for part := range 8 {
			sl := slice("web", part, fmt.Sprintf("10.1.%d.%d", i/256, i%256))
			for range 5 { // to 32
				sl.Endpoints = append(sl.Endpoints, sl.Endpoints...)
			}
			last.Slices[sl.BackendSliceKey] = sl
		}
		apply(s, last)
	}
	if n := s.table.shelves[Slice].count; n != 8 {
		t.Errorf("the server keeps %d resources, want 8", n)
	}
	quick.expect(t, s, last)
	release()
	slow.expect(t, s, last)
	if batches, _ := slow.counts(); batches > changes/10 {
		t.Errorf("the slow agent got %d batches of %d changes", batches, changes)
	}
}

func TestReports(t *testing.T) {
	m, s, got := newMesh(t), newServer(), newSink()
	apply(s, viewsOf(view("web", "east")))
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	client, stop := m.agent(target, "node-1", got)
	got.expect(t, s, viewsOf(view("web", "east")))

	applied := Applied{Revision: s.Revision(), Counts: Counts{Services: 1, Frontends: 2, Backends: 3}, Error: "map full"}
	client.Report(applied)
	eventually(t, "the report arrives", func() bool { return s.Agents()[0].Applied == applied })
	if a := s.Agents()[0]; !a.Current {
		t.Errorf("an agent at the newest revision is not current: %+v", a)
	}
	apply(s, viewsOf(view("api", "east")))
	if a := s.Agents()[0]; a.Current {
		t.Errorf("an agent behind is current: %+v", a)
	}
	begun, before := time.Now(), m.traffic.messages.Load()
	for time.Since(begun) < 3*reportPause {
		applied.Counts.Services++
		client.Report(applied)
	}
	eventually(t, "the last of many reports arrives", func() bool { return s.Agents()[0].Applied == applied })
	if n, most := m.traffic.messages.Load()-before, int64(time.Since(begun)/reportPause)+2; n > most {
		t.Errorf("%d reports instead of at most %d", n, most)
	}
	stop()
	eventually(t, "the agent is gone", func() bool { return !s.Agents()[0].Connected })
	if a := s.Agents()[0]; a.Current || a.Applied != applied {
		t.Errorf("an agent that is gone: %+v", a)
	}
}

func TestAgentsForgetsTheGone(t *testing.T) {
	a, start := newAgents(), time.Now()
	nothing, never := func(error) {}, func(Applied, kindSet) bool { return false }
	here, _ := a.join("here", "", allKinds(), nothing, start)
	gone, _ := a.join("gone", "", allKinds(), nothing, start)
	a.leave(gone, start)
	if n := len(a.list(start.Add(goneFor), never)); n != 2 {
		t.Errorf("%d agents within the hour, want 2", n)
	}
	list := a.list(start.Add(goneFor+time.Second), never)
	if len(list) != 1 || list[0].Node != here.status.Node {
		t.Errorf("after an hour: %+v, want the one that is here", list)
	}
}

// The newest stream of a node is the one that counts.
func TestSecondStreamOfANode(t *testing.T) {
	m, s := newMesh(t), newServer()
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	old := m.dial(target, m.tls(pki.RoleAgent, "node-1"), "node-1")
	if _, err := old.Recv(); err != nil {
		t.Fatal(err)
	}
	newer := m.dial(target, m.tls(pki.RoleAgent, "node-1"), "node-1")
	if _, err := newer.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the older stream ended with %v, want Aborted", err)
	}
	apply(s, viewsOf(view("web", "east")))
	if b, err := newer.Recv(); err != nil || len(b.GetBatch().GetResources()) != 1 {
		t.Errorf("the newer stream received %v, %v", b, err)
	}
	if a := s.Agents(); len(a) != 1 || !a[0].Connected {
		t.Errorf("agents: %+v", a)
	}
}

func TestWhoIsRefused(t *testing.T) {
	m, s := newMesh(t), newServer()
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	hasty := newServer() // only for who says nothing: others may take their time
	hasty.helloTimeout = 50 * time.Millisecond
	hasty.Open()
	silent, _ := m.serve(hasty, "127.0.0.1:0")
	none := m.tls(pki.RoleAgent, "x").Clone()
	none.GetClientCertificate, none.Certificates = nil, nil

	for name, c := range map[string]struct {
		stream grpc.BidiStreamingClient[feedpb.Report, feedpb.Message]
		code   codes.Code
	}{
		"no certificate": {m.dial(target, none, "node-1"), codes.PermissionDenied},
		"a peer":         {m.dial(target, m.tls(pki.RolePeer, "west"), "west"), codes.PermissionDenied},
		"an admin":       {m.dial(target, m.tls(pki.RoleAdmin, "node-1"), "node-1"), codes.PermissionDenied},
		"another's name": {m.dial(target, m.tls(pki.RoleAgent, "node-1"), "node-2"), codes.PermissionDenied},
		"no name":        {m.dial(silent, m.tls(pki.RoleAgent, "node-1"), ""), codes.DeadlineExceeded},
		"something else": {m.dial(target, m.tls(pki.RoleAgent, "node-1"), "-"), codes.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			if b, err := c.stream.Recv(); status.Code(err) != c.code {
				t.Errorf("Recv = %v, %v; want %v", b, err, c.code)
			} else {
				t.Log(err)
			}
		})
	}
	if a := append(s.Agents(), hasty.Agents()...); len(a) != 0 {
		t.Errorf("agents: %+v, want none", a)
	}
}

// dial opens a stream that says Hello for node; nothing for "", and something
// else for "-".
func (m *mesh) dial(target string, config *tls.Config, node string) grpc.BidiStreamingClient[feedpb.Report, feedpb.Message] {
	m.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	m.t.Cleanup(cancel)
	stream, err := feedpb.NewFeedClient(conn).Subscribe(ctx)
	if err != nil {
		m.t.Fatal(err)
	}
	report := &feedpb.Report{Report: &feedpb.Report_Hello{Hello: &feedpb.Hello{Node: node, Roots: roots()}}}
	if node == "-" {
		report = &feedpb.Report{Report: &feedpb.Report_Applied{Applied: &feedpb.Applied{}}}
	}
	if node != "" {
		_ = stream.Send(report) // of an error Recv says more
	}
	return stream
}

// roots are those of an agent that has nothing.
func roots() []*feedpb.Root {
	h := &feedpb.Hello{}
	OpenState(StateConfig{}).hello(h)
	return h.Roots
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, got := newMesh(t), newSink()
	s := NewServer(ServerConfig{Logger: quiet, Registerer: registry})
	apply(s, viewsOf(view("web", "east"), view("api", "east")))
	apply(s, slicesOf(slice("web", 0, "10.1.0.1")))
	apply(s, service.Delta{Views: map[service.Name]*service.View{{Namespace: "shop", Name: "api"}: nil}})
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	_, stop := m.agent(target, "node-1", got)
	got.expect(t, s, viewsOf(view("web", "east")), slicesOf(slice("web", 0, "10.1.0.1")))
	values := func() map[string]float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]float64{}
		for _, f := range families {
			for _, metric := range f.GetMetric() {
				name := f.GetName()
				for _, l := range metric.GetLabel() {
					name += " " + l.GetValue()
				}
				out[name] = metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			}
		}
		return out
	}
	eventually(t, "all bytes are counted", func() bool { return values()["causeway_feed_sent_bytes_total"] > 0 })
	for name, want := range map[string]float64{
		"causeway_feed_subscribers":     1,
		"causeway_feed_resources view":  1,
		"causeway_feed_resources slice": 1,
		"causeway_feed_snapshots_total": 1,
	} {
		if got := values()[name]; got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	stop()
	eventually(t, "nobody is subscribed", func() bool { return values()["causeway_feed_subscribers"] == 0 })
}

// What an agent says for people cannot make the server keep much, nor break
// who reads it.
func TestClip(t *testing.T) {
	long := strings.Repeat("ü", maxText)
	for in, want := range map[string]string{
		"":            "",
		"map full":    "map full",
		"bad\xff":     "bad",
		long:          long[:maxText],
		"x" + long:    "x" + long[:maxText-2],
		long + "\xff": long[:maxText],
	} {
		if got := clip(in); got != want {
			t.Errorf("clip(%.20q of %d bytes) has %d bytes, want %d", in, len(in), len(got), len(want))
		}
	}
}
