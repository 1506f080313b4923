package feed

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

// A server that is frozen is left after keepaliveTime + keepaliveTimeout; a
// connection that is not made within connectTimeout is given up.
const (
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
	connectTimeout   = 10 * time.Second
	// reportPause is how long an agent that made a report waits with the next. A
	// report for each of hundreds of changes a second would cost both ends as
	// much as the changes.
	reportPause = 200 * time.Millisecond
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 5 * time.Second

	// A stream that lived for steadyTime was a good one, so that the next attempt
	// is as quick as the first. One that another agent's took the place of is
	// tried again after replacedDelay, give or take a half: two that share a
	// certificate would else replace each other as fast as they can connect.
	steadyTime    = 10 * time.Second
	replacedDelay = 30 * time.Second
)

// errShared is why an agent is replaced: it has only one stream itself.
var errShared = errors.New("another agent subscribes with this node's certificate, and each ends the other's stream: run one agent a node, and give each node a certificate of its own")

// ClientConfig is what a Client needs.
type ClientConfig struct {
	// Target is the gateway's host:port, or those of several replicas with
	// commas: the next one is tried when one is lost.
	Target string
	// TLS is used for each connection anew, so a certificate that it reads at
	// the handshake may change meanwhile.
	TLS *tls.Config
	// Node and Version are what the agent says of itself; Node must be what its
	// certificate says.
	Node, Version string
	// State is what the node was told before. It must be this Client's alone; its
	// Run is the caller's to run. nil begins with nothing, in memory.
	State *State
	Sink  Sink
	// Watch, if not nil, is told after each change what of the State is different
	// of who is where; it must not block.
	Watch func(Reach)
	// Beside, if not nil, is called with each connection, to use it for other
	// services of the API server while it lasts: until ctx ends. How it ends
	// changes nothing for the feed, but the connection waits for it.
	Beside     func(ctx context.Context, conn grpc.ClientConnInterface)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Client receives the state for one node.
type Client struct {
	cfg     ClientConfig
	metrics *clientMetrics

	mu sync.Mutex
	// applied is the newest report, nil before the first.
	applied *Applied
	// reported has one element when applied was not sent yet.
	reported chan struct{}

	// attempts counts the connections that were tried. It is Run's own.
	attempts int
	// handed says that the Sink has all that is in the State, confirmed that an
	// API server has said what the state is. They are Run's own.
	handed, confirmed bool
	// given are the kinds that an API server has told all of. It is Run's own.
	given kindSet
	// mesh is the newest report of it, nil before the first.
	mesh *Mesh
}

// NewClient returns a client. It does not connect; Run does.
func NewClient(cfg ClientConfig) *Client {
	if cfg.State == nil {
		cfg.State = OpenState(StateConfig{Logger: cfg.Logger})
	}
	return &Client{cfg: cfg, metrics: newClientMetrics(cfg.Registerer), reported: make(chan struct{}, 1)}
}

// Report says how far the agent is, less what the Client itself keeps. It never
// blocks: of reports within reportPause, and of those that could not be sent in
// time, only the newest is, after a new connection again.
func (c *Client) Report(applied Applied) {
	c.mu.Lock()
	c.applied = &applied
	c.mu.Unlock()
	c.wakeReport()
}

// ReportMesh says how far the node is with the routing between clusters, like
// Report.
func (c *Client) ReportMesh(m Mesh) {
	c.mu.Lock()
	c.mesh = &m
	c.mu.Unlock()
	c.wakeReport()
}

func (c *Client) wakeReport() {
	select {
	case c.reported <- struct{}{}:
	default:
	}
}

// Run hands what the State has to the Sink, connects, hands over what it
// receives, and connects anew whenever the stream ends, until ctx ends; it
// returns nil then. Nothing else ends it.
func (c *Client) Run(ctx context.Context) error {
	again := retrying{wait: minBackoff}
	for {
		lived, err := c.subscribe(ctx)
		if stopped(ctx) {
			return nil
		}
		c.metrics.disconnects.Inc()
		if lived >= steadyTime {
			again = retrying{wait: minBackoff}
		}
		delay := again.next()
		if errors.Is(err, errShared) {
			delay = replacedDelay/2 + rand.N(replacedDelay)
		}
		level := slog.LevelDebug
		if again.tell(err, time.Now()) {
			level = slog.LevelWarn
		}
		c.cfg.Logger.Log(ctx, level, "no feed from the API server, what the node has stays as it is; trying again",
			"target", c.cfg.Target, "attempt", again.attempt, "delay", delay, "error", err)
		if !retry.Sleep(ctx, delay) {
			return nil
		}
	}
}

// stopped reports whether a failure is only the end that was asked for.
func stopped(ctx context.Context) bool { return ctx.Err() != nil }

// retrying is what is to be remembered between attempts.
type retrying struct {
	attempt int
	wait    time.Duration
	reason  retry.Reason
}

// next returns how long to wait before the next attempt: twice as long each
// time up to maxBackoff, and spread, since all agents lose a server at once.
func (r *retrying) next() time.Duration {
	delay := r.wait/2 + rand.N(r.wait)
	r.attempt++
	r.wait = min(2*r.wait, maxBackoff)
	return delay
}

// tell reports whether a person should hear of this attempt: of the first, of
// one that failed for another reason, and once a minute. Many reasons have one
// code: a server that is away, and one whose certificate is not trusted.
func (r *retrying) tell(err error, now time.Time) bool {
	return r.reason.Tell(err.Error(), now, 0, time.Minute)
}

// subscribe serves one connection and returns why it ended, and for how long the
// server had something to say on it, 0 for not at all.
func (c *Client) subscribe(ctx context.Context) (lived time.Duration, err error) {
	if err := c.hand(ctx); err != nil {
		return 0, err
	}
	targets := strings.Split(c.cfg.Target, ",")
	target := targets[c.attempts%len(targets)]
	c.attempts++
	// A connection of its own for each attempt: nothing of a failed one stays.
	conn, err := grpc.NewClient("passthrough:///"+target,
		grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(c.cfg.TLS)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: connectTimeout}),
	)
	if err != nil {
		return 0, fmt.Errorf("connect to %s: %w", target, err)
	}
	defer func() { _ = conn.Close() }()

	group, ctx := errgroup.WithContext(ctx)
	stream, err := feedpb.NewFeedClient(conn).Subscribe(ctx)
	if err != nil {
		return 0, fmt.Errorf("subscribe at %s: %w", target, err)
	}
	var since time.Time // of the first batch
	answers := make(chan *feedpb.Buckets)
	if c.cfg.Beside != nil {
		group.Go(func() error {
			c.cfg.Beside(ctx, conn)
			return nil
		})
	}
	group.Go(func() error { return c.report(ctx, stream, answers) })
	group.Go(func() error {
		defer c.metrics.connected.Set(0)
		return c.receive(ctx, stream, answers, &since)
	})
	if err = group.Wait(); !since.IsZero() {
		lived = time.Since(since)
	}
	return lived, err
}

// hand gives the sink all there is, once, and again after it refused something.
func (c *Client) hand(ctx context.Context) error {
	if c.handed {
		return nil
	}
	b, ok, err := c.cfg.State.whole()
	if err != nil || !ok {
		return err
	}
	b.Restored = !c.confirmed
	if err := c.cfg.Sink.Apply(ctx, b); err != nil {
		return fmt.Errorf("apply the state of revision %d: %w", b.Revision.N, err)
	}
	c.handed = true
	if c.cfg.Watch != nil {
		c.cfg.Watch(Reach{Revision: b.Revision, All: true, Restored: b.Restored, Whole: c.whole()})
	}
	c.metrics.batches.WithLabelValues("snapshot").Inc()
	return nil
}

type clientStream = grpc.BidiStreamingClient[feedpb.Report, feedpb.Message]

// report sends Hello, then each newest report and what receive answers. It is
// the only one that sends.
func (c *Client) report(ctx context.Context, stream clientStream, answers <-chan *feedpb.Buckets) error {
	hello := &feedpb.Hello{Node: c.cfg.Node, Version: c.cfg.Version}
	c.cfg.State.hello(hello)
	if err := stream.Send(&feedpb.Report{Report: &feedpb.Report_Hello{Hello: hello}}); err != nil {
		return c.sendError(ctx, err)
	}
	c.wakeReport() // the new stream has not heard what an older one did
	// reported is nil while a report was made just before.
	reported, rested := c.reported, make(<-chan time.Time)
	for {
		report := &feedpb.Report{}
		select {
		case <-rested:
			reported = c.reported
			continue
		case <-reported:
			applied := c.newest()
			if applied == nil {
				continue
			}
			reported, rested = nil, time.After(reportPause)
			report.Report = &feedpb.Report_Applied{Applied: appliedToProto(*applied)}
		case answer := <-answers:
			report.Report = &feedpb.Report_Buckets{Buckets: answer}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := stream.Send(report); err != nil {
			return c.sendError(ctx, err)
		}
	}
}

// newest returns the report to send, nil before the first.
func (c *Client) newest() *Applied {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.applied == nil {
		return nil
	}
	applied := *c.applied
	c.cfg.State.count(&applied.Counts)
	applied.Mesh = c.mesh
	return &applied
}

// sendError waits for the receiver, since a failed Send only says that the
// stream has ended and Recv knows why.
func (c *Client) sendError(ctx context.Context, err error) error {
	<-ctx.Done()
	return err
}

// receive hands each change to the sink, and answers what it is asked.
func (c *Client) receive(ctx context.Context, stream clientStream, answers chan<- *feedpb.Buckets, since *time.Time) error {
	in := newIncoming()
	for {
		m, err := stream.Recv()
		if status.Code(err) == codes.Aborted { // what the server says of a stream that another one replaced
			err = fmt.Errorf("%w: %w", errShared, err)
		}
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		switch m := m.GetMessage().(type) {
		case *feedpb.Message_Ask:
			if err := c.answer(ctx, m.Ask, answers); err != nil {
				return err
			}
		case *feedpb.Message_Batch:
			last, err := in.add(m.Batch)
			if err != nil {
				return err
			}
			if !last {
				continue
			}
			if err := c.apply(ctx, in); err != nil {
				return err
			}
			if since.IsZero() {
				*since = time.Now()
				c.metrics.connected.Set(1)
				c.cfg.Logger.Info("receiving the feed", "target", c.cfg.Target, "revision", in.revision.N)
			}
			in = newIncoming()
		}
	}
}

func (c *Client) answer(ctx context.Context, ask *feedpb.Ask, answers chan<- *feedpb.Buckets) error {
	for _, kind := range ask.GetKinds() {
		buckets, err := c.cfg.State.answer(kind)
		if err != nil {
			return err
		}
		select {
		case answers <- buckets:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// apply keeps a change, and gives the sink what of it is new to it.
func (c *Client) apply(ctx context.Context, in *incoming) error {
	changes, err := c.cfg.State.accept(in)
	if err != nil {
		return fmt.Errorf("revision %d: %w", in.revision.N, err)
	}
	c.confirmed = true
	c.given |= in.kinds
	c.tellReach(in.revision, changes)
	if !c.handed {
		return c.hand(ctx)
	}
	b := Batch{Revision: in.revision, Delta: newDelta()}
	for _, t := range changes {
		t.addTo(&b.Delta)
	}
	if err := c.cfg.Sink.Apply(ctx, b); err != nil {
		c.handed = false
		return fmt.Errorf("apply revision %d: %w", b.Revision.N, err)
	}
	c.metrics.batches.WithLabelValues("delta").Inc()
	return nil
}
