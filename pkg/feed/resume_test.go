package feed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// plenty is a state with n services, n slices of 20 endpoints and 20 n addresses.
func plenty(n int) merge.Delta {
	d := merge.Delta{
		Services:  newDelta(),
		Addresses: map[netip.Prefix]*endpoint.Owner{}, Identities: map[identity.Number]*identity.Identity{70000: {Number: 70000, Labels: "k8s:app=web;"}},
	}
	for i := range n {
		name := fmt.Sprint("service-", i)
		v, s := view(name, "east", "west"), slice(name, 0)
		for j := range 20 {
			ip := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)})
			s.Endpoints = append(s.Endpoints, service.BackendEndpoint{IP: ip, Node: "node-1", Pod: fmt.Sprint(name, "-", j)})
			d.Addresses[netip.PrefixFrom(ip, 32)] = &endpoint.Owner{Cluster: "west", Identity: 70000, Pod: fmt.Sprint(name, "-", j)}
		}
		d.Services.Views[v.Name], d.Services.Slices[s.BackendSliceKey] = v, s
	}
	return d
}

func opened(ds ...merge.Delta) *Server {
	s := newServer()
	for _, d := range ds {
		s.Apply(d)
	}
	s.Open()
	return s
}

// An agent that comes back to the same server is sent what changed meanwhile.
func TestSameServer(t *testing.T) {
	m, s, got := newMesh(t), opened(plenty(50)), newSink()
	target, _ := m.serve(s, "127.0.0.1:0")
	wire := newWire(t, target)
	m.agent(wire.address(), "node-1", got)
	got.expect(t, s, plenty(50).Services)

	before := value(s.metrics.sentBytes)
	wire.cut()
	apply(s, viewsOf(view("new", "east")))
	got.expect(t, s, plenty(50).Services, viewsOf(view("new", "east")))
	if sent := value(s.metrics.sentBytes) - before; sent > 200 {
		t.Errorf("%v bytes sent for one change", sent)
	}
	if _, snapshots := got.counts(); snapshots != 1 {
		t.Errorf("%d snapshots, want 1", snapshots)
	}
	wire.cut()
	eventually(t, "it is connected again though nothing changed", func() bool {
		return value(s.metrics.resumed.WithLabelValues("revision")) >= 2
	})
}

// Another server with the same content sends nothing: agents come back to it
// for less than 1 % of what one of them was sent at first.
func TestAnotherServerWithTheSame(t *testing.T) {
	const count = 10
	m, first := newMesh(t), opened(plenty(100))
	target, stop := m.serve(first, "127.0.0.1:0")
	sinks := make([]*sink, count)
	for i := range sinks {
		sinks[i] = newSink()
		m.agent(target, fmt.Sprint("node-", i), sinks[i])
	}
	for _, s := range sinks {
		s.expect(t, first, plenty(100).Services)
	}
	whole := m.traffic.sent.Load() / count
	stop()
	m.traffic.sent.Store(0)
	m.traffic.received.Store(0)

	second := opened(plenty(100))
	m.serve(second, target)
	for _, s := range sinks {
		s.expect(t, second, plenty(100).Services)
		if _, snapshots := s.counts(); snapshots != 1 {
			t.Fatalf("%d snapshots, want 1", snapshots)
		}
		if n := s.given(); n != 0 {
			t.Fatalf("%d views and slices given again", n)
		}
	}
	each := (m.traffic.sent.Load() + m.traffic.received.Load()) / count
	t.Logf("%d bytes at first, %d bytes both ways after the restart: %.2f %%", whole, each, 100*float64(each)/float64(whole))
	if each*100 >= whole {
		t.Errorf("%d bytes for each agent, a snapshot has %d", each, whole)
	}
	if sent := value(second.metrics.sentBytes); sent != 0 {
		t.Errorf("%v bytes of resources sent", sent)
	}
}

// Of another server's content only the buckets that differ are sent, and only
// what differs is given to the sink.
func TestAnotherServerWithSomethingElse(t *testing.T) {
	m, first, got := newMesh(t), opened(plenty(300)), newSink()
	state := OpenState(StateConfig{Logger: quiet})
	target, stop := m.serve(first, "127.0.0.1:0")
	m.agent(target, "node-1", got, state)
	got.expect(t, first, plenty(300).Services)
	stop()

	changed := plenty(300)
	gone, other := slice("service-7", 0).BackendSliceKey, slice("service-8", 0, "10.9.9.9")
	delete(changed.Services.Slices, gone)
	changed.Services.Slices[other.BackendSliceKey] = other
	changed.Services.Views[view("new").Name] = view("new", "east")
	delete(changed.Addresses, netip.MustParsePrefix("10.0.3.3/32"))
	changed.Identities[70001] = &identity.Identity{Number: 70001, Labels: "k8s:app=api;"}
	second := opened(changed)
	m.serve(second, target)
	got.expect(t, second, changed.Services)
	if n := got.given(); n != 3 {
		t.Errorf("%d views and slices given, want 3", n)
	}
	who, err := state.Directory()
	if err != nil || len(who.Addresses) != len(changed.Addresses) || who.Identities[70001] == nil {
		t.Errorf("%d addresses, %v, %v", len(who.Addresses), who.Identities, err)
	}
	var all update
	for _, k := range allKinds().list() {
		second.table.all(k, &all)
	}
	if sent := value(second.metrics.sentBytes); sent == 0 || sent > float64(all.size)/50 {
		t.Errorf("%v bytes sent, the state has %d", sent, all.size)
	}
}

// An agent that starts anew goes on from its file: nothing is sent.
func TestFromTheFile(t *testing.T) {
	dir := t.TempDir()
	m, s, got := newMesh(t), opened(plenty(20)), newSink()
	target, stopServer := m.serve(s, "127.0.0.1:0")
	k := openState(dir, "boot")
	_, stop := m.agent(target, "node-1", got, k.State)
	got.expect(t, s, plenty(20).Services)
	stop()
	k.end(t)
	stopServer()

	// Without a server the sink has the state all the same.
	again := newSink()
	k = openState(dir, "boot")
	_, stop = m.agent(target, "node-1", again, k.State)
	again.expect(t, s, plenty(20).Services)
	second := opened(plenty(20))
	m.serve(second, target)
	again.expect(t, second, plenty(20).Services)
	if _, snapshots := again.counts(); snapshots != 1 || again.given() != 0 {
		t.Errorf("%d snapshots and %d views and slices more, want 1 and none", snapshots, again.given())
	}
	if sent := value(second.metrics.sentBytes); sent != 0 {
		t.Errorf("%v bytes sent", sent)
	}
	stop()
	k.end(t)
}

// While the server does not know all of a kind, an agent keeps what it has of it.
func TestKindsOpenOneByOne(t *testing.T) {
	m, first, got := newMesh(t), opened(plenty(5)), newSink()
	state := OpenState(StateConfig{Logger: quiet})
	target, stop := m.serve(first, "127.0.0.1:0")
	client, _ := m.agent(target, "node-1", got, state)
	got.expect(t, first, plenty(5).Services)
	stop()

	second := newServer()
	less := plenty(5)
	less.Addresses, less.Identities = nil, nil
	delete(less.Services.Views, view("service-0").Name)
	second.Apply(less)
	second.Open(View, Slice, Node)
	m.serve(second, target)
	got.expect(t, second, less.Services)
	addresses := func() int {
		var c Counts
		state.count(&c)
		return c.Addresses
	}
	if n := addresses(); n != 100 {
		t.Errorf("%d addresses while the server does not know them, want 100", n)
	}
	client.Report(Applied{Revision: second.Revision()})
	eventually(t, "it is current", func() bool { return second.Agents()[0].Current })

	some := plenty(4).Addresses
	second.Apply(merge.Delta{Addresses: some})
	second.Open()
	got.expect(t, second, less.Services)
	if n := addresses(); n != len(some) {
		t.Errorf("%d addresses, want %d", n, len(some))
	}
	if a := second.Agents()[0]; a.Current {
		t.Errorf("current by what it had before: %+v", a)
	}
	client.Report(Applied{Revision: second.Revision()})
	eventually(t, "what it knows is told", func() bool {
		a := second.Agents()[0]
		return a.Current && a.Applied.Counts.Addresses == len(some) && a.Applied.Counts.Identities == 0
	})
}

// An agent is given only the kinds that it knows of.
func TestAgentThatKnowsLess(t *testing.T) {
	m, s := newMesh(t), opened(plenty(3))
	target, _ := m.serve(s, "127.0.0.1:0")
	stream := m.hello(target, "node-1", roots()[:1], nil)
	b, err := stream.Recv()
	if err != nil || len(b.GetBatch().GetResources()) != 3 || !b.GetBatch().GetLast() {
		t.Fatalf("%d resources, %v; want the 3 views", len(b.GetBatch().GetResources()), err)
	}
	revision := b.GetBatch().GetRevision()

	// With a newer version it lacks the other kinds, though it has the revision.
	stream = m.hello(target, "node-1", roots(), revision)
	if b, err = stream.Recv(); err != nil || len(b.GetBatch().GetResources()) != 3+60+1 {
		t.Errorf("%d resources, %v; want all but the views", len(b.GetBatch().GetResources()), err)
	}
}

// What was forgotten meanwhile is found by digests, on the same stream.
func TestForgotten(t *testing.T) {
	m, s, got := newMesh(t), opened(plenty(20)), newSink()
	s.table.minTombstones = 1
	target, _ := m.serve(s, "127.0.0.1:0")
	m.agent(target, "node-1", got)
	got.expect(t, s, plenty(20).Services)
	release := got.hold()
	apply(s, viewsOf(view("wake", "east")))
	d := plenty(20)
	for name := range d.Services.Views {
		d.Services.Views[name] = nil
	}
	for key := range d.Services.Slices {
		d.Services.Slices[key] = nil
	}
	for p := range d.Addresses {
		d.Addresses[p] = nil
	}
	s.Apply(d)
	s.Apply(merge.Delta{Identities: map[identity.Number]*identity.Identity{70000: nil}})
	release()
	got.expect(t, s, viewsOf(view("wake", "east")))
	if _, snapshots := got.counts(); snapshots != 1 {
		t.Errorf("%d snapshots, want 1", snapshots)
	}
}

// Agents that are to be sent much take turns; who does not read loses its turn.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(2)
		late := make(chan int, 1)
		var mu sync.Mutex
		var order []int
		hold := func(i int) *turn {
			turn, err := turns.take(t.Context(), func() { late <- i })
			if err != nil {
				t.Error(err)
			}
			return turn
		}
		a, b := hold(0), hold(1)
		for i := 2; i < 6; i++ {
			go func() {
				turn := hold(i)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				turn.end()
			}()
			synctest.Wait() // so they come in this order
		}
		if len(order) != 0 {
			t.Errorf("%v have a turn, though two have", order)
		}
		b.end()
		synctest.Wait()
		if fmt.Sprint(order) != "[2 3 4 5]" {
			t.Errorf("turns in the order %v", order)
		}
		a.extend(10 * slowestRate)
		time.Sleep(turnTime + 9*time.Second)
		if len(late) != 0 {
			t.Error("too late before its time")
		}
		time.Sleep(2 * time.Second)
		if len(late) != 1 {
			t.Error("never too late")
		}
		a.end()

		full := newTurns(0)
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errReplaced)
		if _, err := full.take(ctx, nil); !errors.Is(err, errReplaced) {
			t.Errorf("a wait that ends = %v, want %v", err, errReplaced)
		}
	})
}

// An agent that reads nothing keeps neither the others nor its successor waiting.
func TestAgentThatDoesNotRead(t *testing.T) {
	m, s, got := newMesh(t), opened(plenty(1000)), newSink()
	s.turns = newTurns(1)
	target, _ := m.serve(s, "127.0.0.1:0")
	stuck := m.hello(target, "stuck", roots(), nil)
	eventually(t, "it has the turn", func() bool { return value(s.metrics.snapshots) == 1 })
	m.agent(target, "node-1", got)
	eventually(t, "the other waits", func() bool { return value(s.metrics.waiting) == 1 })

	// A newer stream of the node ends the older, whose Send is blocked.
	m.hello(target, "stuck", roots(), nil)
	got.expect(t, s, plenty(1000).Services)
	for {
		if _, err := stuck.Recv(); err != nil {
			if status.Code(err) != codes.Aborted {
				t.Errorf("the older stream ended with %v", err)
			}
			break
		}
	}
}

// What an agent answers is not believed.
func TestWrongDigests(t *testing.T) {
	m, s := newMesh(t), opened(plenty(3))
	target, _ := m.serve(s, "127.0.0.1:0")
	wrong := roots()
	for _, r := range wrong {
		r.Digest = make([]byte, digestSize)
	}
	for name, buckets := range map[string]*feedpb.Buckets{
		"another-kind": {Kind: feedpb.Kind_NODE},
		"malformed":    {Kind: feedpb.Kind_VIEW, Numbers: []uint32{1}},
	} {
		t.Run(name, func(t *testing.T) {
			stream := m.hello(target, name, wrong[:1], nil)
			if got, err := stream.Recv(); err != nil || len(got.GetAsk().GetKinds()) != 1 {
				t.Fatalf("%v, %v; want Ask", got, err)
			}
			if err := stream.Send(&feedpb.Report{Report: &feedpb.Report_Buckets{Buckets: buckets}}); err != nil {
				t.Fatal(err)
			}
			if got, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%v, %v; want InvalidArgument", got, err)
			}
		})
	}
}

func (m *mesh) hello(target, node string, roots []*feedpb.Root, revision *feedpb.Revision) clientStream {
	m.t.Helper()
	stream := m.dial(target, m.tls(pki.RoleAgent, node), "")
	hello := &feedpb.Hello{Node: node, Roots: roots, Revision: revision}
	if err := stream.Send(&feedpb.Report{Report: &feedpb.Report_Hello{Hello: hello}}); err != nil {
		m.t.Fatal(err)
	}
	return stream
}
