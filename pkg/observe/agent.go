package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/observe/observepb"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	// Remembered is how many events an agent remembers.
	Remembered = 512
	// agentQueue is how many events wait to be sent.
	agentQueue = 1024
	// maxSend is how many events one call takes; the answer to a Recall, too.
	maxSend = Remembered
	// gather is for how long events wait for others to be sent with.
	gather = 100 * time.Millisecond
	// sendTimeout bounds one call.
	sendTimeout = 10 * time.Second
	// How long an agent waits before it tries again what failed.
	minBackoff = 200 * time.Millisecond
	maxBackoff = 10 * time.Second
)

// errOff ends the calls of a node that can not be observed any more.
var errOff = errors.New("no packets are carried any more")

// AgentConfig is what an Agent needs.
type AgentConfig struct {
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Agent remembers the newest events of a node and sends those that are wanted.
// What is remembered outlives its source.
// Its methods are safe for concurrent use.
type Agent struct {
	log     *slog.Logger
	metrics *agentMetrics

	mu   sync.Mutex
	past past
	// filters are empty while nothing is wanted; then the queue is, too.
	filters []Filter
	limit   *rate.Limiter
	queue   []Event
	lost    uint64
	recalls []recall
	tap     *tap // nil while no Server attends
	// some has one element when there is something to send.
	some chan struct{}
	// on says that there is a source of events; turned is closed, and replaced,
	// when that changes.
	on     bool
	turned chan struct{}
}

// recall is a question for what is remembered.
type recall struct {
	id     uint64
	filter Filter
	last   int
}

// NewAgent returns an Agent that remembers nothing. It starts nothing.
func NewAgent(cfg AgentConfig) *Agent {
	return &Agent{
		log: cfg.Logger, metrics: newAgentMetrics(cfg.Registerer),
		limit: rate.NewLimiter(0, 0), some: make(chan struct{}, 1), turned: make(chan struct{}),
	}
}

// Source gives each event to note as it happens, until ctx ends.
type Source func(ctx context.Context, note func(Event)) error

// Run takes the events of a source until that ends, and returns what it
// returned. Without a source the node is none that can be observed, as the API
// server is told: nothing is known of its packets then. Run is not called twice
// at a time.
func (a *Agent) Run(ctx context.Context, source Source) error {
	a.turn(true)
	defer a.turn(false)
	return source(ctx, a.note)
}

func (a *Agent) turn(on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.on = on
	close(a.turned)
	a.turned = make(chan struct{})
}

// until returns when there is a source, or is none any more, and false when ctx
// ended first.
func (a *Agent) until(ctx context.Context, on bool) bool {
	for {
		a.mu.Lock()
		now, turned := a.on, a.turned
		a.mu.Unlock()
		if now == on {
			return true
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return false
		}
	}
}

// note takes an event that has happened. It never blocks.
func (a *Agent) note(e Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.past.add(e)
	if a.tap != nil {
		a.tap.add(e)
	}
	if !slices.ContainsFunc(a.filters, func(f Filter) bool { return f.allows(e) }) {
		return
	}
	switch {
	case len(a.queue) >= agentQueue:
		a.lose(lostQueue, 1)
	case !a.limit.Allow():
		a.lose(lostRate, 1)
	default:
		a.queue = append(a.queue, e)
	}
	a.wake()
}

// lose counts events that were wanted. The caller holds a.mu.
func (a *Agent) lose(why string, n int) {
	a.lost += uint64(n)
	a.metrics.lost.WithLabelValues(why).Add(float64(n))
}

func (a *Agent) wake() {
	select {
	case a.some <- struct{}{}:
	default:
	}
}

// Serve asks the API server at the other end of conn what is wanted and sends
// it, until ctx ends. An API server that has no use for events is asked once.
// Serve is not called twice at a time.
func (a *Agent) Serve(ctx context.Context, conn grpc.ClientConnInterface) {
	client := observepb.NewObserveClient(conn)
	backoff := retry.Backoff{First: minBackoff, Limit: maxBackoff}
	for a.until(ctx, true) {
		began := time.Now()
		err := a.serve(ctx, client)
		a.reset()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errOff) {
			backoff.Reset()
			continue
		}
		if code := status.Code(err); code == codes.Unimplemented || code == codes.PermissionDenied {
			a.log.Info("the API server takes no events of dropped packets", "error", err)
			return
		}
		if time.Since(began) > maxBackoff {
			backoff.Reset()
		}
		delay := backoff.Next()
		a.log.Debug("dropped packets of this node can not be seen at present, trying again", "attempt", backoff.Attempts(), "delay", delay, "error", err)
		if !retry.Sleep(ctx, delay) {
			return
		}
	}
}

func (a *Agent) serve(ctx context.Context, client observepb.ObserveClient) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		stream, err := client.Await(ctx, &observepb.AwaitRequest{})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			if err := a.take(m); err != nil {
				return err
			}
		}
	})
	group.Go(func() error { return a.send(ctx, client) })
	group.Go(func() error {
		if a.until(ctx, false) {
			return errOff
		}
		return ctx.Err()
	})
	return group.Wait()
}

// take does what an API server wants from now on.
func (a *Agent) take(m *observepb.Wanted) error {
	filters := make([]Filter, 0, len(m.GetFilters()))
	for _, f := range m.GetFilters() {
		filter, err := filterFromProto(f)
		if err != nil {
			return fmt.Errorf("what the API server wants to see: %w", err)
		}
		filters = append(filters, filter)
	}
	recalls := make([]recall, 0, len(m.GetRecalls()))
	for _, r := range m.GetRecalls() {
		filter, err := filterFromProto(r.GetFilter())
		if err != nil {
			return fmt.Errorf("what the API server wants to see: %w", err)
		}
		recalls = append(recalls, recall{r.GetId(), filter, int(min(r.GetLast(), Remembered))})
	}
	a.want(filters, recalls, m.GetRate())
	return nil
}

func (a *Agent) want(filters []Filter, recalls []recall, perSecond uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(filters) == 0 || len(a.filters) == 0 {
		a.queue, a.lost = nil, 0
	}
	a.filters = filters
	if limit := rate.Limit(perSecond); limit != a.limit.Limit() {
		a.limit = rate.NewLimiter(limit, int(perSecond)) // begins full
	}
	a.metrics.wanted.Set(float64(min(len(filters), 1)))
	a.recalls = append(a.recalls, recalls...)
	if len(a.recalls) > 0 {
		a.wake()
	}
}

// reset forgets what was wanted by an API server that is no longer there.
func (a *Agent) reset() {
	a.want(nil, nil, 0)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.recalls = nil
}

// send sends what there is to send until a call fails or ctx ends.
func (a *Agent) send(ctx context.Context, client observepb.ObserveClient) error {
	for {
		select {
		case <-a.some:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !retry.Sleep(ctx, gather) {
			return ctx.Err()
		}
		for _, request := range a.pending() {
			if err := a.call(ctx, client, request); err != nil {
				return err
			}
		}
	}
}

func (a *Agent) call(ctx context.Context, client observepb.ObserveClient, request *observepb.SendRequest) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	n := len(request.GetEvents())
	if _, err := client.Send(ctx, request); err != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.lose(lostSend, n)
		return fmt.Errorf("send %d events: %w", n, err)
	}
	a.metrics.sent.Add(float64(n))
	return nil
}

// pending takes all there is to send. What is remembered comes after what has
// just happened, as of one moment: what an API server gets before the answer to
// a Recall is in the answer, and what it gets after it is not.
func (a *Agent) pending() []*observepb.SendRequest {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []*observepb.SendRequest
	for events := range slices.Chunk(a.queue, maxSend) {
		out = append(out, &observepb.SendRequest{Events: eventsToProto(events)})
	}
	if a.lost > 0 {
		if len(out) == 0 {
			out = append(out, &observepb.SendRequest{})
		}
		out[0].Lost = a.lost
	}
	for _, r := range a.recalls {
		out = append(out, &observepb.SendRequest{Recall: r.id, Events: eventsToProto(a.past.newest(r.filter, r.last))})
	}
	a.queue, a.lost, a.recalls = a.queue[:0], 0, nil
	return out
}

func eventsToProto(events []Event) []*observepb.Event {
	out := make([]*observepb.Event, 0, len(events))
	for _, e := range events {
		out = append(out, eventToProto(e))
	}
	return out
}

// past holds the newest events, at most Remembered.
type past struct {
	events []Event
	next   int // where the next one goes once there is no more room
}

func (p *past) add(e Event) {
	if len(p.events) < Remembered {
		p.events = append(p.events, e)
		return
	}
	p.events[p.next] = e
	p.next = (p.next + 1) % Remembered
}

// newest returns the last events that the filter allows, at most so many, in
// the order in which they happened.
func (p *past) newest(f Filter, last int) []Event {
	var out []Event
	for i := len(p.events) - 1; i >= 0 && len(out) < last; i-- {
		if e := p.events[(p.next+i)%len(p.events)]; f.allows(e) {
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out
}
