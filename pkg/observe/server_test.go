package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/observe/observepb"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Each listener is told what its own filter allows, of all nodes.
func TestListeners(t *testing.T) {
	b := newBed(t)
	n1, n2 := b.agent("n1"), b.agent("n2")
	all := b.listen(Filter{}, 0, true)
	second := b.listen(Filter{Node: "n2"}, 0, true)
	pod := b.listen(Filter{From: Selector{Namespace: "shop", Pod: "west-0"}}, 0, true)
	other := b.listen(Filter{From: Selector{Namespace: "shop", Pod: "west-1"}}, 0, true)
	b.wanted(n1, 3)
	b.wanted(n2, 4)
	if diff := cmp.Diff([]string{"n1", "n2"}, all.Nodes()); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	n1.drop(1)
	if diff := cmp.Diff([]string{"n1 1"}, b.heard(all, 1)); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	n2.drop(2, 3)
	for name, test := range map[string]struct {
		l    *Listener
		want []string
	}{
		"all": {all, []string{"n2 2", "n2 3"}}, "second": {second, []string{"n2 2", "n2 3"}},
		"pod": {pod, []string{"n1 1", "n2 2", "n2 3"}},
	} {
		if diff := cmp.Diff(test.want, b.heard(test.l, len(test.want))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if items, _ := other.take(); len(items) > 0 {
		t.Errorf("another pod's listener was told %q", items[0].text())
	}
	if got := value(t, b.server.metrics.given); got != 8 {
		t.Errorf("%g events were given", got)
	}
}

// Nothing is sent for nobody: not before somebody listens, and not after the
// last one has left.
func TestNobodyListens(t *testing.T) {
	b := newBed(t)
	n1 := b.agent("n1")
	n1.drop(1)
	l := b.listen(Filter{}, 0, true)
	b.wanted(n1, 1)
	n1.drop(2)
	if diff := cmp.Diff([]string{"n1 2"}, b.heard(l, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	l.Close()
	b.wanted(n1, 0)
	n1.drop(3)
	l = b.listen(Filter{Reasons: []string{"number"}}, 0, true)
	b.wanted(n1, 1)
	n1.drop(4)
	l.Close()
	l.Close() // once more does nothing
	l = b.listen(Filter{}, 0, true)
	b.wanted(n1, 1)
	b.eventually("the new filter is there", func() bool {
		n1.mu.Lock()
		defer n1.mu.Unlock()
		return len(n1.filters) == 1 && len(n1.filters[0].Reasons) == 0
	})
	n1.drop(5)
	if diff := cmp.Diff([]string{"n1 5"}, b.heard(l, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := value(t, b.server.metrics.received); got != 2 {
		t.Errorf("%g events were sent, 2 were wanted", got)
	}
	b.eventually("the agent counts them", func() bool { return value(t, n1.metrics.sent) == 2 })
}

// What is remembered comes first and in order, what happens meanwhile after it
// and once.
func TestRemembered(t *testing.T) {
	b := newBed(t)
	n1, n2 := b.agent("n1"), b.agent("n2")
	n1.drop(1, 4, 5)
	n2.drop(2, 3, 6)
	before := b.listen(Filter{}, 0, true) // so that n1 sends what happens, whatever it is asked
	b.wanted(n1, 1)
	n1.drop(7)

	once := b.listen(Filter{}, 4, false)
	want := []string{"n1 4", "n1 5", "n2 6", "n1 7"}
	if diff := cmp.Diff(want, b.heard(once, 4)); diff != "" {
		t.Errorf("once (-want +got):\n%s", diff)
	}
	if _, err := once.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the last one: %v", err)
	}
	follow := b.listen(Filter{}, 3, true)
	n1.drop(8)
	n2.drop(9)
	got := b.heard(follow, 3)
	b.eventually("all is heard", func() bool {
		items, _ := follow.take()
		for _, i := range items {
			got = append(got, i.text())
		}
		return slices.Contains(got, "n1 8") && slices.Contains(got, "n2 9")
	})
	for i, e := range got {
		if slices.Contains(got[:i], e) {
			t.Errorf("%q was told twice: %q", e, got)
		}
	}
	if got := b.heard(before, 3); got[0] != "n1 7" {
		t.Errorf("before: %q", got)
	}
	pod := b.listen(Filter{Node: "n2", To: Selector{Prefix: netip.MustParsePrefix("10.1.0.0/24")}}, MaxLast, false)
	if got := b.heard(pod, 4); len(got) != 4 {
		t.Errorf("n2 remembers %q", got)
	}
}

// Without agents there is nothing to wait for.
func TestNoAgents(t *testing.T) {
	b := newBed(t)
	l := b.listen(Filter{}, 10, false)
	if _, err := l.Next(t.Context()); !errors.Is(err, io.EOF) || len(l.Nodes()) > 0 {
		t.Errorf("nodes %q, error %v", l.Nodes(), err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.listen(Filter{}, 0, true).Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: %v", err)
	}
}

// One that says nothing, and one that goes, are not waited for for ever.
func TestSilentAgents(t *testing.T) {
	b := newBed(t)
	n1 := b.agent("n1")
	n1.drop(1)
	silent := observepb.NewObserveClient(b.dial(pki.RoleAgent, "n2"))
	await := func(ctx context.Context) {
		t.Helper()
		stream, err := silent.Await(ctx, &observepb.AwaitRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	await(t.Context())
	if diff := cmp.Diff([]string{"n2 silent", "n1 1"}, b.heard(b.listen(Filter{}, 9, false), 2)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	await(ctx) // in place of the other one
	began := time.Now()
	l := b.listen(Filter{Node: "n2"}, 9, false)
	cancel()
	if diff := cmp.Diff([]string{"n2 away"}, b.heard(l, 1)); diff != "" {
		t.Errorf("after %s (-want +got):\n%s", time.Since(began), diff)
	}
	if _, err := l.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after all is said: %v", err)
	}
}

// A listener that does not read loses events and is told how many; others lose
// none.
func TestSlowListener(t *testing.T) {
	b := newBed(t)
	slow, quick := b.listen(Filter{}, 0, true), b.listen(Filter{}, 0, true)
	const batches = listenerQueue/maxSend + 2
	for i := range batches {
		events := make([]*Seen, maxSend)
		for j := range events {
			events[j] = &Seen{Event: dropped(uint16(i*maxSend + j)), Node: "n1"}
		}
		b.server.give("n1", 0, events, 0)
		if got := b.heard(quick, maxSend); len(got) != maxSend {
			t.Fatalf("%d events, want %d", len(got), maxSend)
		}
	}
	got := b.heard(slow, listenerQueue+1)
	if len(got) != listenerQueue+1 || got[0] != "n1 0" || got[listenerQueue] != " lost 1024" {
		t.Errorf("%d items, the first %q, the last %q", len(got), got[0], got[len(got)-1])
	}
	b.server.give("n1", 0, []*Seen{{Event: dropped(7), Node: "n1"}}, 3)
	if diff := cmp.Diff([]string{"n1 7", "n1 lost 3"}, b.heard(slow, 2)); diff != "" {
		t.Errorf("once it reads again (-want +got):\n%s", diff)
	}
	for by, want := range map[string]float64{lostByListener: 1024, lostByAgent: 6} {
		if got := value(t, b.server.metrics.lost.WithLabelValues(by)); got != want {
			t.Errorf("lost by %s: %g, want %g", by, got, want)
		}
	}
}

func TestTooManyListeners(t *testing.T) {
	b := newBed(t)
	var last *Listener
	for range maxListeners {
		last = b.listen(Filter{}, 0, true)
	}
	if _, err := b.server.Listen(Filter{}, 0, true); !errors.Is(err, ErrTooMany) {
		t.Errorf("one more: %v", err)
	}
	last.Close()
	b.listen(Filter{}, 0, true)
}

// Only agents may call, and they are who their certificate says.
func TestWhoMayCall(t *testing.T) {
	b := newBed(t)
	for _, role := range []pki.Role{pki.RolePeer, pki.RoleAdmin} {
		client := observepb.NewObserveClient(b.dial(role, "n1"))
		if _, err := client.Send(t.Context(), &observepb.SendRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("send as %s: %v", role, err)
		}
		stream, err := client.Await(t.Context(), &observepb.AwaitRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("await as %s: %v", role, err)
		}
		// Not by the gateway alone.
		ctx := pki.ContextWithSubject(t.Context(), pki.Subject{Cluster: "east", Role: role, Name: "n1"})
		if _, err := (&rpc{server: b.server}).Send(ctx, &observepb.SendRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("send as %s without a gateway: %v", role, err)
		}
	}
	if _, err := (&rpc{server: b.server}).Send(t.Context(), &observepb.SendRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("send as nobody: %v", err)
	}

	l := b.listen(Filter{}, 0, true)
	client := observepb.NewObserveClient(b.dial(pki.RoleAgent, "n1"))
	bad := []*observepb.Event{
		{Direction: "up", Reason: "identity"},
		{Direction: "to_mesh", Reason: "\x1b[2J"},
		{Direction: "to_mesh", Reason: "identity", Source: []byte{1, 2, 3}},
		{Direction: "to_mesh", Reason: "identity", Destination: []byte{1, 2, 3, 4}, DestinationPort: 70000},
		{Direction: "to_mesh", Reason: "identity", Tunnel: []byte{1}},
		{Direction: "to_mesh", Reason: "identity", Protocol: 256},
	}
	good := eventToProto(dropped(1))
	if _, err := client.Send(t.Context(), &observepb.SendRequest{Events: append(bad, good), Lost: 2}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"n1 1", "n1 lost 2"}, b.heard(l, 2)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := value(t, b.server.metrics.refused); got != float64(len(bad)) {
		t.Errorf("%g events were refused, want %d", got, len(bad))
	}
	// An answer that nobody asked this node for is none.
	asked := b.listen(Filter{Node: "n2"}, 9, true)
	if _, err := client.Send(t.Context(), &observepb.SendRequest{Recall: asked.id, Events: []*observepb.Event{good}}); err != nil {
		t.Fatal(err)
	}
	if items, _ := asked.take(); len(items) > 0 {
		t.Errorf("n1 answered for n2: %q", items[0].text())
	}
	many := &observepb.SendRequest{Events: slices.Repeat([]*observepb.Event{good}, maxSend+1)}
	if _, err := client.Send(t.Context(), many); status.Code(err) != codes.InvalidArgument {
		t.Errorf("too many events: %v", err)
	}
}

// However many nodes there are, a listener gets the newest events in order.
func TestManyRemember(t *testing.T) {
	b := newBed(t)
	const nodes, each = 64, 100
	var clients []string
	for i := range nodes {
		clients = append(clients, fmt.Sprintf("n%d", i))
		b.server.join(&agent{node: clients[i], end: func(error) {}, changed: make(chan struct{}, 1)})
	}
	l := b.listen(Filter{}, 10, false)
	for i, node := range clients {
		events := make([]*Seen, each)
		for j := range events {
			events[j] = &Seen{Event: dropped(uint16(j*nodes + i)), Node: node}
		}
		b.server.give(node, l.id, events, 0)
		b.server.give(node, l.id, events, 0) // is not asked twice
	}
	got := b.heard(l, 10)
	for i, e := range got {
		if want := fmt.Sprintf("n%d %d", nodes-10+i, nodes*each-10+i); e != want {
			t.Errorf("%d is %q, want %q", i, e, want)
		}
	}
	if _, err := l.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the last one: %v", err)
	}
	for nodes, want := range map[int]int{0: Remembered, 1: Remembered, 1000: 100, 200000: 1} {
		l := &Listener{nodes: make([]string, nodes), last: MaxLast}
		if got := l.share(); got != want {
			t.Errorf("of %d nodes each gives %d, want %d", nodes, got, want)
		}
	}
}

// Two agents that share a certificate are one node, the one that came last.
func TestSameNode(t *testing.T) {
	b := newBed(t)
	l := b.listen(Filter{}, 0, true)
	client := observepb.NewObserveClient(b.dial(pki.RoleAgent, "n1"))
	old, err := client.Await(t.Context(), &observepb.AwaitRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if w, err := old.Recv(); err != nil || len(w.Filters) != 1 || w.Rate != maxRate {
		t.Fatalf("%v, %v", w, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	again, err := client.Await(ctx, &observepb.AwaitRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := again.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the older stream: %v", err)
	}
	cancel()
	var got []string
	b.eventually("the node is away", func() bool {
		items, _ := l.take()
		for _, i := range items {
			got = append(got, i.text())
		}
		return slices.Contains(got, "n1 away")
	})
}
