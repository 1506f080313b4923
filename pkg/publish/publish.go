// Package publish turns the objects of a cluster into what its peers read from
// its etcd, and into the local part of what its own nodes are told.
//
// Two loops work off what changed: one for nodes, services and slices, which
// asks nobody, and one for addresses, which may have to wait for etcd to hand
// out an identity. So a slow etcd never delays a change of a local service.
//
// Guarantees: memory first (the local part is handed over before etcd is
// written); nothing is pruned from etcd, and no marker is set, before the
// source has listed everything once; a marker is set only when all that it
// speaks for is written.
package publish

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/source"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// savePeriod is how far the file of identities lags behind at most.
const savePeriod = time.Second

// The heartbeat's period and the life of its lease: a reader sees within two
// periods that the publisher is gone.
const (
	heartbeatInterval = 60 * time.Second
	heartbeatTTL      = 150 * time.Second
)

// Config says what a Publisher publishes and where to.
type Config struct {
	Cluster cluster.Config
	Etcd    *kvstore.Client
	// Local receives the cluster's own part, from two goroutines.
	Local func(merge.Update)
	// Wrong is told what is wrong with a Service, each time when that was looked at;
	// nil where nobody wants to know. It must not block.
	Wrong func(name service.Name, uid string, problems []error)
	// Filter decides which labels make up an identity.
	Filter identity.Filter
	// Election decides when this process writes to Etcd, where several share
	// it; nil when no other process may. While another one writes, Local is
	// given the same, with the identities that the writer allocates.
	Election *kvstore.Election
	// IdentitiesFile keeps the allocated identities outside Etcd, so that its
	// loss renumbers nothing. Empty for none.
	IdentitiesFile string
	// MeshRanges are what nodes get their mesh addresses from, at most one a
	// family; none for no mesh addresses. MeshFile is to them what
	// IdentitiesFile is to identities.
	MeshRanges []netip.Prefix
	MeshFile   string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Publisher is the sink of a source. Apply and Complete may be called before
// and during Run.
type Publisher struct {
	cfg     Config
	origin  origin
	layout  wire.Layout
	writer  *kvstore.Writer // cilium/state/..., the config and the markers
	objects *objects
	pods    *workloads
	mesh    *mesh

	// wire is the way to writer.
	wire *sequence

	configuring sync.Mutex
	gateway     []string // by which others reach the cluster, none while it is not known
	begun       bool     // the config is published

	mu     sync.Mutex
	index  *index
	state  uint64 // counts what the source said
	listed uint64 // the state in which the source had listed everything once, 0 before

	wakeObjects chan struct{}
	wakePods    chan struct{}
	// local is closed when the whole source has been handed to Local once, less
	// the addresses; addressed when those have been too.
	local     chan struct{}
	addressed chan struct{}
}

// New returns a Publisher that does nothing until Run.
func New(cfg Config) *Publisher {
	layout := wire.Layout{Cluster: cfg.Cluster.Name}
	var prefixes, markers []string
	for _, kind := range wire.Kinds() {
		prefixes = append(prefixes, layout.Prefix(kind))
	}
	for _, kind := range markedKinds() {
		markers = append(markers, layout.Marker(kind))
	}
	p := &Publisher{
		cfg:    cfg,
		origin: origin{name: cfg.Cluster.Name, id: cfg.Cluster.ID},
		layout: layout,
		writer: kvstore.NewWriter(kvstore.WriterConfig{
			Client: cfg.Etcd, Name: "state", Prefixes: prefixes, Marks: append([]string{wire.ConfigKey(cfg.Cluster.Name)}, markers...),
			Election: cfg.Election, Logger: cfg.Logger, Registerer: cfg.Registerer,
		}),
		index:       newIndex(),
		wakeObjects: make(chan struct{}, 1),
		wakePods:    make(chan struct{}, 1),
		local:       make(chan struct{}),
		addressed:   make(chan struct{}),
	}
	p.wire = newSequence(layout, p.writer.Set, p.writer.Delete)
	p.mesh = newMesh(cfg, func() { poke(p.wakePods) })
	p.objects = newObjects(p.origin, layout, p.mesh, cfg.Wrong, cfg.Logger)
	p.pods = newWorkloads(p.origin, layout, cfg.Filter,
		newAllocator(cfg, identitySpace(cfg.Cluster.ID, cfg.Cluster.Size), cfg.IdentitiesFile, func() { poke(p.wakePods) }))
	newMetrics(cfg.Registerer, p)
	return p
}

// Apply takes in changes of the source; it does not block on etcd.
func (p *Publisher) Apply(_ context.Context, changes []source.Change) error {
	p.mu.Lock()
	for _, c := range changes {
		p.index.apply(c)
	}
	p.state++
	p.mu.Unlock()
	p.wake()
	return nil
}

// Complete says that what the source has not given by now does not exist.
func (p *Publisher) Complete(context.Context) error {
	p.mu.Lock()
	p.state++
	if p.listed == 0 {
		p.listed = p.state
	}
	p.mu.Unlock()
	p.wake()
	return nil
}

func (p *Publisher) wake() {
	poke(p.wakeObjects)
	poke(p.wakePods)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Listed is closed when nodes, services and slices of the whole source have
// been handed to Local once.
func (p *Publisher) Listed() <-chan struct{} { return p.local }

// Addressed is closed when the addresses and identities have been, too.
func (p *Publisher) Addressed() <-chan struct{} { return p.addressed }

// Problems returns what is wrong with objects of the source, and which keys
// etcd refuses, sorted. Safe for concurrent use.
func (p *Publisher) Problems() []string {
	out := slices.Concat(p.objects.problems(), p.pods.problems(), p.mesh.problems())
	for key, failure := range p.writer.Failures() {
		out = append(out, fmt.Sprintf("etcd refuses %s: %s", key, failure.Reason))
	}
	slices.Sort(out)
	return out
}

// Err says why peers are not told what is new at present, nil when they are: etcd
// takes no writes, or there are no identities to give. Safe for concurrent use.
func (p *Publisher) Err() error { return errors.Join(p.writer.Err(), p.pods.err()) }

// Run publishes until ctx ends and returns nil then. What is in etcd stays:
// the cluster is still there when its API server is not.
func (p *Publisher) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.writer.Run(ctx) })
	g.Go(func() error { return p.runObjects(ctx) })
	g.Go(func() error { return p.runWorkloads(ctx) })
	g.Go(func() error { return p.finish(ctx) })
	g.Go(func() error {
		now := func() []byte { return wire.EncodeTime(time.Now()) }
		return p.cfg.Etcd.Heartbeat(ctx, p.cfg.Election, wire.HeartbeatKey, now, heartbeatInterval, heartbeatTTL)
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("publish cluster %s: %w", p.cfg.Cluster.Name, err)
	}
	return nil
}

func (p *Publisher) runObjects(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wakeObjects:
		}
		p.mu.Lock()
		state, listed := p.state, p.listed
		out := p.objects.sync(p.index)
		whole := listed > 0 && (p.mesh == nil || p.index.meshed)
		p.mu.Unlock()
		p.emit(sideObjects, state, out, true)
		if whole {
			closeOnce(p.local)
		}
	}
}

// runWorkloads tries again on its own while etcd gives no identities.
func (p *Publisher) runWorkloads(ctx context.Context) error {
	sweep := time.NewTicker(time.Hour)
	defer sweep.Stop()
	// What was allocated goes to the file a moment later, many at once.
	saving := time.NewTicker(savePeriod)
	defer saving.Stop()
	defer func() { p.pods.end(); p.mesh.end() }()
	pause := retry.Backoff{First: time.Second, Limit: 5 * time.Second}
	var again <-chan time.Time
	_, elected := p.cfg.Election.Term()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wakePods:
		case <-again:
		case <-elected:
			_, elected = p.cfg.Election.Term()
		case <-saving.C:
			p.pods.save()
			p.mesh.save()
			continue
		case <-sweep.C:
			p.pods.sweep()
			p.mesh.sweep()
		}
		switch err := inTrouble(p.syncMesh(ctx), p.syncWorkloads(ctx)); {
		case err == nil:
			pause.Reset()
			again = nil
		case ctx.Err() == nil:
			delay := pause.Next()
			again = time.After(delay)
			p.cfg.Logger.Warn("identities are not allocated, will retry", "error", err, "attempt", pause.Attempts(), "delay", delay)
		}
	}
}

// syncMesh gives nodes their mesh addresses and lets the other loop publish them.
func (p *Publisher) syncMesh(ctx context.Context) error {
	p.mu.Lock()
	listed := p.listed
	found := p.mesh.take(p.index)
	p.mu.Unlock()
	if p.mesh == nil {
		return nil
	}
	err := p.mesh.sync(ctx, found, listed > 0)
	p.mu.Lock()
	if err == nil && listed > 0 || p.index.meshed {
		p.index.meshNodes(p.mesh.known())
	}
	p.mu.Unlock()
	poke(p.wakeObjects)
	return err
}

// inTrouble returns the first error that trying again helps against: for what
// another replica has to allocate there is nothing to do but to wait for it.
func inTrouble(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, errStandby) {
			return err
		}
	}
	return nil
}

func (p *Publisher) syncWorkloads(ctx context.Context) error {
	p.mu.Lock()
	state, listed := p.state, p.listed
	found := p.pods.take(p.index)
	p.mu.Unlock()
	out, err := p.pods.sync(ctx, found, listed > 0)
	if p.pods.renumbered() {
		p.mu.Lock()
		p.index.markAll()
		p.mu.Unlock()
		poke(p.wakePods)
	}
	p.wire.tighten(errors.Is(err, kvstore.ErrNoSpace))
	p.emit(sideWorkloads, state, out, err == nil)
	if err != nil {
		return err
	}
	if listed > 0 {
		closeOnce(p.addressed)
	}
	return nil
}

// emit hands over memory first, then what goes to etcd.
func (p *Publisher) emit(from int, state uint64, out publication, done bool) {
	if out.update.Len() > 0 {
		p.cfg.Local(out.update)
	}
	p.wire.add(from, state, out.keys, done)
}

// SetGateway has those who read this cluster told by which addresses, host:port, they
// reach it from now on. It may be called before and during Run, and does not wait.
func (p *Publisher) SetGateway(addresses []string) {
	p.configuring.Lock()
	defer p.configuring.Unlock()
	p.gateway = addresses
	if p.begun {
		_ = p.publishConfig() // it could be encoded before
	}
}

// begin publishes the config.
func (p *Publisher) begin() error {
	p.configuring.Lock()
	defer p.configuring.Unlock()
	p.begun = true
	return p.publishConfig()
}

func (p *Publisher) publishConfig() error {
	config, err := wire.EncodeConfig(p.cfg.Cluster, p.gateway...)
	if err != nil {
		return err
	}
	p.writer.Set(wire.ConfigKey(p.cfg.Cluster.Name), config)
	return nil
}

// finish prunes and sets the markers, once.
func (p *Publisher) finish(ctx context.Context) error {
	if err := p.begin(); err != nil {
		return err
	}
	for _, listed := range []<-chan struct{}{p.local, p.addressed} {
		select {
		case <-ctx.Done():
			return nil
		case <-listed:
		}
	}
	p.mu.Lock()
	listed := p.listed
	p.mu.Unlock()
	if err := p.wire.await(ctx, listed); err != nil {
		return nil // only ctx ends it
	}
	p.writer.Complete()
	if err := p.synced(ctx); err != nil {
		return nil // only ctx ends it
	}
	now := wire.EncodeTime(time.Now())
	for _, kind := range markedKinds() {
		p.writer.Set(p.layout.Marker(kind), now)
	}
	p.cfg.Logger.Info("published the whole source", "cluster", p.cfg.Cluster.Name)
	return nil
}

// synced waits until all is written, by this process: while another one writes,
// that one sets the markers.
func (p *Publisher) synced(ctx context.Context) error {
	for {
		_, elected := p.cfg.Election.Term()
		if err := p.writer.Synced(ctx); !errors.Is(err, kvstore.ErrStandby) {
			return err
		}
		select {
		case <-elected:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// markedKinds are the kinds that readers wait for: service exports too, of which
// there are none.
func markedKinds() []wire.Kind { return append(wire.Kinds(), wire.ServiceExports) }

// closeOnce closes c unless it is; one goroutine may do so for each c.
func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// publication is what one pass has to say: values for memory, and keys for etcd
// (nil deletes).
type publication struct {
	update merge.Update
	keys   map[string][]byte
}

func newPublication() publication {
	return publication{
		update: merge.Update{
			Services: map[service.Name]*service.Service{},
			Slices:   map[merge.SliceName]*service.Slice{},
		},
		keys: map[string][]byte{},
	}
}
