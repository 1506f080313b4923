package probe

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/route"
)

const (
	// interval is how often a path is asked, soon how often while it is not known
	// to be good.
	interval = 10 * time.Second
	soon     = 2 * time.Second // also that of native paths
	// maxMessage is how much is read of a message; the rest is padding.
	maxMessage = 2 * messageSize
	// maxDrops is how many dropped packets are remembered of one round.
	maxDrops = 8
)

// ProberConfig is what NewProber needs.
type ProberConfig struct {
	Network Network
	// Items, if not nil, returns what is ours in the node's network. It is called
	// once a minute.
	Items      func() ([]Item, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Prober asks and answers on one node. Its methods are safe for concurrent use.
type Prober struct {
	config   ProberConfig
	metrics  *metrics
	answerer *answerer
	wake     chan struct{} // for Run

	mu         sync.Mutex
	neighbours *Neighbours // nil while the node takes no part
	tracks     map[target]*track
	drops      map[netip.Addr][]drop // of the round that goes on, by destination
}

// NewProber returns a Prober that asks nobody. It starts nothing.
func NewProber(c ProberConfig) *Prober {
	m := newMetrics(c.Registerer)
	return &Prober{
		config: c, metrics: m, answerer: newAnswerer(m), wake: make(chan struct{}, 1),
		tracks: map[target]*track{}, drops: map[netip.Addr][]drop{},
	}
}

// Know says who the neighbours are from now on; nil when the node takes no part
// in the mesh. The caller does not change n any more. It never blocks.
func (p *Prober) Know(n *Neighbours) {
	p.mu.Lock()
	p.neighbours = n
	p.mu.Unlock()
	if n == nil {
		n = &Neighbours{}
	}
	p.answerer.know(n)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Dropped says that this node's programs dropped a packet that was to leave it,
// with the source that it had by then, and why. It never blocks.
func (p *Prober) Dropped(source, destination netip.AddrPort, reason string) {
	if destination.Port() != Port {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	to := destination.Addr()
	if had, ok := p.drops[to]; ok && len(had) < maxDrops {
		p.drops[to] = append(had, drop{reason, source.Addr()})
	}
}

// worker is a goroutine that can be ended.
type worker struct {
	end  context.CancelFunc
	done chan struct{}
}

func start(ctx context.Context, run func(context.Context)) worker {
	ctx, end := context.WithCancel(ctx)
	w := worker{end, make(chan struct{})}
	go func() {
		defer close(w.done)
		run(ctx)
	}()
	return w
}

func (w worker) stop() {
	w.end()
	<-w.done
}

// Run asks and answers until ctx ends. It returns nil.
func (p *Prober) Run(ctx context.Context) error {
	asking, answering := map[target]worker{}, map[netip.Addr]worker{}
	defer func() {
		for _, w := range asking {
			w.stop()
		}
		for _, w := range answering {
			w.stop()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		n := p.known()
		replace(answering, n.Mesh, func(at netip.Addr) worker {
			return start(ctx, func(ctx context.Context) { p.answer(ctx, at) })
		})
		targets := sample(n)
		replace(asking, targets, func(t target) worker {
			return start(ctx, func(ctx context.Context) { p.follow(ctx, t) })
		})
		p.forget(targets)
	}
}

// replace ends the workers of those that are not wanted, and starts what lacks.
func replace[K comparable](all map[K]worker, wanted []K, start func(K) worker) {
	for k, w := range all {
		if !slices.Contains(wanted, k) {
			w.stop()
			delete(all, k)
		}
	}
	for _, k := range wanted {
		if _, ok := all[k]; !ok {
			all[k] = start(k)
		}
	}
}

// known returns the neighbours; without any, one that has none.
func (p *Prober) known() *Neighbours {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.neighbours == nil {
		return &Neighbours{}
	}
	return p.neighbours
}

// forget drops what is known of paths that are not asked any more.
func (p *Prober) forget(targets []target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t := range p.tracks {
		if !slices.Contains(targets, t) {
			delete(p.tracks, t)
		}
	}
	for _, t := range targets {
		if p.tracks[t] == nil {
			p.tracks[t] = &track{native: t.native}
		}
	}
	p.count()
}

// follow asks on one path until ctx ends.
func (p *Prober) follow(ctx context.Context, t target) {
	hash := rank(t.cluster, t.node, t.from.String(), t.to.String())
	for pause := time.Duration(hash % uint64(soon)); retry.Sleep(ctx, pause); {
		p.begin(t)
		r := ask(ctx, p.config.Network, t, p.known(), p.passed(t))
		if ctx.Err() != nil {
			return
		}
		if !t.native && (r.answered == 0 || r.pod.IsValid() && !r.marked.IsValid()) && !retry.Sleep(ctx, settle) {
			return
		}
		pause = p.note(t, r, hash)
	}
}

// begin forgets what was dropped of an earlier round.
func (p *Prober) begin(t target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drops[t.to] = nil
	p.metrics.rounds.Inc()
}

// passed returns the MTU that was found last, 0 for none.
func (p *Prober) passed(t target) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if track := p.tracks[t]; track != nil {
		return track.last.passes
	}
	return 0
}

// note takes a round into account, and returns when the next one is.
func (p *Prober) note(t target, r round, hash uint64) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.drops[t.to] {
		if d.source != r.pod && (d.source == r.from || r.answered == 0) {
			r.dropped = d
		} else {
			r.podDropped = d
		}
	}
	delete(p.drops, t.to)
	track := p.tracks[t]
	if track == nil {
		return interval
	}
	track.note(r)
	if r.answered > 0 {
		p.metrics.rtt.Observe(r.rtt.Seconds())
	}
	p.count()
	if t.native || track.failed > 0 || track.loss >= lossy || track.unmarked > 0 && track.unmarked < lostMarks {
		return soon
	}
	// Nine to eleven tenths, each path its own, so that they do not stay together.
	return interval*9/10 + time.Duration(hash%uint64(interval/5))
}

// count brings the gauges up to date, which are of the ways in use. The caller holds
// p.mu.
func (p *Prober) count() {
	states, wrong := map[State]int{}, 0
	natives := map[string]bool{}
	if p.neighbours != nil {
		for _, peer := range p.neighbours.Peers {
			natives[peer.Cluster] = peer.Mode == route.Native
		}
	}
	for target, t := range p.tracks {
		if t.native && !natives[target.cluster] {
			continue
		}
		state, troubles := t.state()
		states[state]++
		wrong += len(troubles)
	}
	for _, s := range []State{Pending, Reachable, Degraded, Unreachable} {
		p.metrics.paths.WithLabelValues(string(s)).Set(float64(states[s]))
	}
	p.metrics.changed.Set(float64(wrong))
}

// answer answers at one of our addresses until ctx ends.
func (p *Prober) answer(ctx context.Context, at netip.Addr) {
	backoff := retry.Backoff{First: 100 * time.Millisecond, Limit: interval}
	for {
		conn, err := p.config.Network.Listen(ctx, at)
		if err == nil {
			backoff.Reset()
			err = p.serve(ctx, conn)
		}
		if ctx.Err() != nil {
			return
		}
		delay := backoff.Next()
		p.config.Logger.Warn("other clusters' questions whether packets arrive are not answered", "address", at, "error", err, "attempt", backoff.Attempts(), "delay", delay)
		if !retry.Sleep(ctx, delay) {
			return
		}
	}
}

func (p *Prober) serve(ctx context.Context, conn net.PacketConn) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	buffer := make([]byte, maxMessage)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		source, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		if answer := p.answerer.take(source.AddrPort().Addr().Unmap(), buffer[:n]); answer != nil {
			_, _ = conn.WriteTo(answer, from) // who asked asks again
		}
	}
}

// Report returns what is known now, without Items.
func (p *Prober) Report() *Report {
	r := &Report{Time: time.Now()}
	n := p.known()
	if len(n.Mesh) > 0 {
		r.MTU, _ = p.config.Network.MTU()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var paths []path
	for t, track := range p.tracks {
		paths = append(paths, path{t, *track})
	}
	slices.SortFunc(paths, func(a, b path) int { return a.target.compare(b.target) })
	r.Summaries = summarize(n, paths)
	return r
}
