package observe

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/observe/observepb"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

func newAgent(t *testing.T) *Agent {
	return NewAgent(AgentConfig{Logger: logger(t), Registerer: prometheus.NewRegistry()})
}

// An API server that comes again is told what happens from then on, and what
// the agent remembers from before.
func TestServerRestarts(t *testing.T) {
	b := newBed(t)
	n1 := b.agent("n1")
	l := b.listen(Filter{}, 0, true)
	b.wanted(n1, 1)
	b.stop()
	b.wanted(n1, 0)
	n1.drop(1)
	l.Close()
	b.start()
	b.eventually("the agent is back", func() bool { return b.has("n1") })
	l = b.listen(Filter{}, 9, true)
	if diff := cmp.Diff([]string{"n1 1"}, b.heard(l, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	n1.drop(2)
	if diff := cmp.Diff([]string{"n1 2"}, b.heard(l, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A listener hears of agents that go and come.
func TestAgentRestarts(t *testing.T) {
	b := newBed(t)
	n1 := b.agent("n1")
	l := b.listen(Filter{}, 0, true)
	n1.stop()
	if diff := cmp.Diff([]string{"n1 away"}, b.heard(l, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	n1 = b.agent("n1")
	if diff := cmp.Diff([]string{"n1 back"}, b.heard(l, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	b.wanted(n1, 1)
	n1.drop(1)
	if diff := cmp.Diff([]string{"n1 1"}, b.heard(l, 1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A node is one that can be observed only while it has a source.
func TestNoSource(t *testing.T) {
	b := newBed(t)
	a := newAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	conn := b.dial(pki.RoleAgent, "n1")
	go func() {
		a.Serve(ctx, conn)
		close(served)
	}()
	for range 2 {
		running, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() {
			done <- a.Run(running, func(ctx context.Context, _ func(Event)) error {
				<-ctx.Done()
				return nil
			})
		}()
		b.eventually("the node can be observed", func() bool { return b.has("n1") })
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.eventually("the node can not be observed", func() bool { return !b.has("n1") })
	}
	cancel()
	<-served
}

// An API server of another version is not asked again and again.
func TestServerWithoutObserve(t *testing.T) {
	b := newBed(t)
	a := newAgent(t)
	a.turn(true)
	a.Serve(t.Context(), refusing(codes.Unimplemented))
	a.Serve(t.Context(), b.dial(pki.RolePeer, "n1")) // refused by role
}

// refusing is a connection on which every call has that outcome.
type refusing codes.Code

func (r refusing) Invoke(context.Context, string, any, any, ...grpc.CallOption) error {
	return status.Error(codes.Code(r), "no")
}

func (r refusing) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Code(r), "no")
}

// What is more than may be sent, or waits for longer than there is room, is
// lost and counted; and what a call could not send, too.
func TestLost(t *testing.T) {
	a := newAgent(t)
	filter := []*observepb.Filter{{}}
	if err := a.take(&observepb.Wanted{Filters: filter, Rate: 5}); err != nil {
		t.Fatal(err)
	}
	a.limit = rate.NewLimiter(0, 5) // the clock gives none back
	for i := range 8 {
		a.note(dropped(uint16(i)))
	}
	requests := a.pending()
	if len(requests) != 1 || len(requests[0].Events) != 5 || requests[0].Lost != 3 {
		t.Fatalf("got %v", requests)
	}
	a.note(dropped(9))
	if r := a.pending(); len(r) != 1 || len(r[0].Events) != 0 || r[0].Lost != 1 {
		t.Errorf("with losses alone: %v", r)
	}
	a.limit = rate.NewLimiter(rate.Inf, 0)
	for i := range agentQueue + 2 {
		a.note(dropped(uint16(i)))
	}
	requests = a.pending()
	if len(requests) != agentQueue/maxSend || requests[0].Lost != 2 || requests[1].Lost != 0 {
		t.Errorf("%d requests, the first lost %d", len(requests), requests[0].Lost)
	}
	if err := a.call(t.Context(), observepb.NewObserveClient(refusing(codes.Unavailable)), requests[1]); err == nil {
		t.Error("a call that failed is none")
	}
	for why, want := range map[string]float64{lostRate: 4, lostQueue: 2, lostSend: maxSend} {
		if got := value(t, a.metrics.lost.WithLabelValues(why)); got != want {
			t.Errorf("lost by %s: %g, want %g", why, got, want)
		}
	}
	// Who comes next has nothing to do with it.
	a.reset()
	if err := a.take(&observepb.Wanted{Filters: filter, Rate: 5}); err != nil {
		t.Fatal(err)
	}
	if r := a.pending(); len(r) != 0 {
		t.Errorf("after a new beginning: %v", r)
	}
}

func TestPast(t *testing.T) {
	var p past
	ports := func(f Filter, last int) (out []uint16) {
		for _, e := range p.newest(f, last) {
			out = append(out, e.Destination.Port())
		}
		return out
	}
	if got := ports(Filter{}, 5); got != nil {
		t.Errorf("nothing has happened, and it remembers %d", got)
	}
	for i := range Remembered + 3 {
		e := dropped(uint16(i))
		if i%2 == 0 {
			e.Direction = ToMesh
		}
		p.add(e)
	}
	if got := ports(Filter{}, Remembered+9); len(got) != Remembered || got[0] != 3 || got[Remembered-1] != Remembered+2 || !slices.IsSorted(got) {
		t.Errorf("%d, from %d to %d", len(got), got[0], got[len(got)-1])
	}
	if diff := cmp.Diff([]uint16{Remembered - 2, Remembered, Remembered + 2}, ports(Filter{Direction: ToMesh}, 3)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestWantedIsWrong(t *testing.T) {
	a := newAgent(t)
	wrong := &observepb.Filter{From: &observepb.Prefix{Ip: []byte{1, 2, 3, 4}, Bits: 33}}
	for _, m := range []*observepb.Wanted{
		{Filters: []*observepb.Filter{wrong}},
		{Recalls: []*observepb.Recall{{Filter: wrong}}},
		{Filters: []*observepb.Filter{{To: &observepb.Prefix{Ip: []byte{1}}}}},
	} {
		if err := a.take(m); err == nil {
			t.Errorf("%v was taken", m)
		}
	}
}

// What is sent is what arrives.
func TestProto(t *testing.T) {
	whole := dropped(80)
	for _, e := range []Event{whole, {Time: whole.Time, Direction: ToMesh, Reason: "malformed"}} {
		data, err := proto.Marshal(eventToProto(e))
		if err != nil {
			t.Fatal(err)
		}
		var m observepb.Event
		if err := proto.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		got, err := eventFromProto(&m)
		if err != nil || !got.Time.Equal(e.Time) {
			t.Errorf("%+v, %v", got, err)
		}
		if got.Time = e.Time; got != e {
			t.Errorf("got %+v, want %+v", got, e)
		}
	}
}
