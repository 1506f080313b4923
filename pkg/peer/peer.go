// Package peer keeps a session with each remote cluster of the mesh and puts
// what it says in use: in memory at once, and in our own etcd behind it.
//
// Guarantees: what a peer said stays in use while the peer is away, and over our
// own restart; a peer's key is dropped only when the peer says that it is gone,
// or a complete listing lacks it; a peer is removed, and all that came from it
// with it, only when its file is removed from a directory that could be read.
// One bad key, one bad file, one bad peer costs no other.
package peer

import (
	"context"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// seedTimeout is how long a start waits for peers of which no whole cache is
// there, before nodes are told a state without them.
const seedTimeout = 10 * time.Second

// Config says where peers are described and who uses what they say.
type Config struct {
	Cluster cluster.Config
	// Dir holds a file for each peer, see ParseFile.
	Dir        string
	Etcd       *kvstore.Client
	Engine     Engine
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Manager keeps the sessions.
type Manager struct {
	cfg      Config
	registry *registry
	metrics  *metrics
	seeded   chan struct{}
	// progress wakes announceSeeded when a session got on.
	progress chan struct{}

	mu       sync.Mutex
	peers    map[string]*peer
	problems []Problem
}

// peer is a session with the goroutines that serve it.
type peer struct {
	*session
	file      File
	broken    bool   // its file could not be used when the session began
	stop      func() // nil before it began
	stopCache func()
}

// New returns a Manager that does nothing until Run.
func New(cfg Config) *Manager {
	return &Manager{
		cfg: cfg, registry: newRegistry(), metrics: newMetrics(cfg.Registerer),
		seeded: make(chan struct{}), progress: make(chan struct{}, 1), peers: map[string]*peer{},
	}
}

// Seeded is closed when what peers said is in use as far as it is to be had: from
// the cache of an earlier run, or from the peer itself. A peer of which neither
// came in time is not waited for.
func (m *Manager) Seeded() <-chan struct{} { return m.seeded }

// Status returns the sessions by name of the peer. Safe for concurrent use.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Status, 0, len(m.peers))
	for _, name := range slices.Sorted(maps.Keys(m.peers)) {
		out = append(out, m.peers[name].status())
	}
	return out
}

// Problems returns what is wrong with the directory and its files, by file. Safe
// for concurrent use.
func (m *Manager) Problems() []Problem {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.problems)
}

// Run follows the directory and keeps the sessions until ctx ends; it returns
// nil then. What peers said stays in our etcd.
func (m *Manager) Run(ctx context.Context) error {
	started, stopAnnounce := false, func() {}
	watchDirectory(ctx, m.cfg.Dir, func() {
		found, err := readDirectory(m.cfg.Dir, m.cfg.Cluster.Name)
		m.report(found, err)
		if err != nil {
			return // not an empty directory: everything stays
		}
		if !started {
			err := m.forgetOrphans(ctx, found)
			if ctx.Err() != nil {
				return // the end, and no failure
			}
			if err != nil {
				m.cfg.Logger.Warn("peers of an earlier run are not forgotten, will retry", "error", err)
				return
			}
		}
		m.reconcile(ctx, found)
		if !started {
			started = true
			stopAnnounce = start(ctx, m.announceSeeded)
		}
	})
	stopAnnounce()
	for _, p := range m.peers { // no look runs any more
		p.stop()
		p.stopCache()
	}
	return nil
}

// report replaces what is wrong with the directory, and logs what is new.
func (m *Manager) report(found listing, err error) {
	var problems []Problem
	if err != nil {
		problems = append(problems, Problem{Message: err.Error()})
	}
	for _, name := range slices.Sorted(maps.Keys(found.problems)) {
		problems = append(problems, Problem{File: name, Message: found.problems[name].Error()})
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range problems {
		if !slices.Contains(m.problems, p) {
			m.cfg.Logger.Warn("peer file is wrong", "file", p.File, "problem", p.Message)
		}
	}
	m.problems = problems
}

// forgetOrphans drops what is cached of clusters whose file went while no API
// server ran.
func (m *Manager) forgetOrphans(ctx context.Context, found listing) error {
	var orphans []string
	prefix := strings.TrimSuffix(wire.ConfigKey("x"), "x")
	err := m.cfg.Etcd.List(ctx, kvstore.Prefix(prefix), func(item kvstore.Item) error {
		name := strings.TrimPrefix(item.Key, prefix)
		_, good := found.files[name]
		_, bad := found.problems[name]
		if name != m.cfg.Cluster.Name && !good && !bad {
			orphans = append(orphans, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, name := range orphans {
		if err := purge(ctx, name, m.cfg.Etcd, m.cfg.Logger); err != nil {
			return err
		}
		m.cfg.Logger.Info("removed peer is forgotten", "cluster", name)
	}
	return nil
}

// reconcile makes the sessions what the directory says.
func (m *Manager) reconcile(ctx context.Context, found listing) {
	for _, name := range slices.Sorted(maps.Keys(m.peers)) {
		_, good := found.files[name]
		_, bad := found.problems[name]
		if !good && !bad {
			m.remove(ctx, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found.files)) {
		m.keep(ctx, name, found.files[name])
	}
	for _, name := range slices.Sorted(maps.Keys(found.problems)) {
		if cluster.ValidateName(name) == nil && name != m.cfg.Cluster.Name && m.peers[name] == nil {
			m.add(ctx, name, File{}, found.problems[name])
		}
	}
	// What was cached of all of them is in use before any is asked: of two that
	// claim one address the one that had it keeps it.
	for _, p := range m.peers {
		if p.stop == nil {
			p.stop = m.begin(ctx, p)
		}
	}
}

// begin runs the session with a peer whose file is good.
func (m *Manager) begin(ctx context.Context, p *peer) (stop func()) {
	if p.broken {
		return func() {}
	}
	file := p.file
	return start(ctx, func(ctx context.Context) { p.run(ctx, file) })
}

// keep begins, or begins anew, the session with a peer whose file is good.
func (m *Manager) keep(ctx context.Context, name string, file File) {
	p := m.peers[name]
	switch {
	case p == nil:
		m.add(ctx, name, file, nil)
	case p.broken || !reflect.DeepEqual(p.file, file):
		m.cfg.Logger.Info("peer file changed", "cluster", name)
		p.stop()
		p.file, p.broken = file, false
		p.stop = m.begin(ctx, p)
	}
}

// add makes a session of which what is cached is in use, which is all with broken.
func (m *Manager) add(ctx context.Context, name string, file File, broken error) {
	s := newSession(name, m)
	m.cfg.Engine.Hear(name, s.contest.ruled)
	whole, err := s.seed(ctx)
	if err != nil {
		m.cfg.Engine.Remove(name) // the next look begins anew
		m.cfg.Logger.Warn("cached state of the peer is not read, will retry", "cluster", name, "error", err)
		return // the next look tries again
	}
	p := &peer{session: s, file: file, broken: broken != nil}
	s.change(func() { s.whole, s.facts.setup = whole, broken })
	p.stopCache = start(ctx, func(ctx context.Context) {
		if err := s.cache.run(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("cache of the peer ended", "error", err)
		}
	})
	m.mu.Lock()
	m.peers[name] = p
	m.mu.Unlock()
}

// remove ends a session and takes all that the peer said out of use.
func (m *Manager) remove(ctx context.Context, name string) {
	p := m.peers[name]
	p.stop()
	p.stopCache()
	m.cfg.Engine.Remove(name)
	m.cfg.Engine.Hear(name, nil)
	m.registry.release(name)
	m.mu.Lock()
	delete(m.peers, name)
	m.mu.Unlock()
	m.metrics.forget(name)
	m.cfg.Logger.Info("peer is removed", "cluster", name)
	if err := purge(ctx, name, m.cfg.Etcd, m.cfg.Logger); err != nil {
		m.cfg.Logger.Warn("cache of the removed peer is left until the next start", "cluster", name, "error", err)
	}
}

// announceSeeded closes seeded in time.
func (m *Manager) announceSeeded(ctx context.Context) {
	deadline := time.NewTimer(seedTimeout)
	defer deadline.Stop()
	for !m.allSeeded() {
		select {
		case <-ctx.Done():
			return
		case <-deadline.C:
			m.cfg.Logger.Warn("going on without peers of which nothing is known yet")
			close(m.seeded)
			return
		case <-m.progress:
		}
	}
	close(m.seeded)
}

func (m *Manager) allSeeded() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if !p.settled() {
			return false
		}
	}
	return true
}

// start runs fn in a goroutine until the returned func is called, which waits.
func start(ctx context.Context, fn func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}
