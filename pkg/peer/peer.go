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
	"errors"
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
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// seedTimeout is how long a start waits for peers of which no whole cache is
// there, before nodes are told a state without them.
const seedTimeout = 10 * time.Second

// cacheGrace is how long a start waits for the peer itself although a whole cache
// is in use: that lags, and the nodes have newer things in effect than what was
// not written yet when an earlier run was killed. They go on with those meanwhile.
const cacheGrace = 3 * time.Second

// Config says where peers are described and who uses what they say.
type Config struct {
	Cluster cluster.Config
	// Dir holds a file for each peer, see ParseFile. Joined holds those that
	// pkg/join writes, and Resources those that pkg/clusterpeer does, see ParseBounded;
	// "" for none. Where several have one, that of Dir counts, then that of Resources.
	Dir       string
	Resources string
	Joined    string
	Etcd      *kvstore.Client
	// Election decides when this process writes to Etcd, where several share
	// it; nil when no other process may.
	Election *kvstore.Election
	Engine   Engine
	// Renewed is told of a peer that the certificate by which it is read, or what is
	// trusted of it, is another one; nil for nobody. It must not wait.
	Renewed func(name string)
	// Reached is told by which addresses, host:port, a peer says that it is reached now, also
	// when it says the same again; nil for nobody. It must not wait.
	Reached func(name string, addresses []string)
	// Book knows what is ours and what peers claim; New makes one if it is nil.
	Book       *trust.Book
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Manager keeps the sessions.
type Manager struct {
	cfg      Config
	registry *registry
	metrics  *metrics
	ledger   *ledger
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
	if cfg.Book == nil {
		cfg.Book = trust.NewBook(nil, nil)
	}
	if cfg.Renewed == nil {
		cfg.Renewed = func(string) {}
	}
	if cfg.Reached == nil {
		cfg.Reached = func(string, []string) {}
	}
	m := &Manager{
		cfg: cfg, registry: newRegistry(), metrics: newMetrics(cfg.Registerer),
		seeded: make(chan struct{}), progress: make(chan struct{}, 1), peers: map[string]*peer{},
	}
	m.ledger = newLedger(cfg.Etcd, cfg.Election, cfg.Logger, m.reagree)
	return m
}

// reagree puts in effect what the replica that writes decided about a peer.
func (m *Manager) reagree(name string) {
	m.mu.Lock()
	p := m.peers[name]
	m.mu.Unlock()
	if p != nil {
		p.agree()
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
		status := m.peers[name].status()
		status.File, status.Bounds = m.peers[name].file.Path, m.peers[name].file.Bounds
		out = append(out, status)
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
	l := &looker{Manager: m, absent: map[string]bool{}, stopAnnounce: func() {}, stopLedger: func() {}}
	dirs := []string{m.cfg.Dir}
	for _, dir := range []string{m.cfg.Resources, m.cfg.Joined} {
		if dir != "" {
			dirs = append(dirs, dir)
		}
	}
	watchDirectories(ctx, dirs, func() bool { return l.look(ctx) })
	l.stopAnnounce()
	l.stopLedger()
	for _, p := range m.peers { // no look runs any more
		p.stop()
		p.stopCache()
	}
	return nil
}

// looker is what Run remembers from one look at the directory to the next.
type looker struct {
	*Manager
	tidied       kvstore.Term // in which peers of an earlier run that have no file were forgotten
	announced    bool         // all peers were added once
	stopAnnounce func()
	loaded       bool // what was agreed with peers is known
	stopLedger   func()
	// absent are peers whose file was not there at the last look.
	absent map[string]bool
}

// look makes the sessions what the directory says; again means that it has to
// look once more to be done.
func (l *looker) look(ctx context.Context) (again bool) {
	if !l.loaded {
		if err := l.ledger.load(ctx); err != nil {
			if ctx.Err() == nil {
				l.cfg.Logger.Warn("claims of peers are not read, will retry", "error", err)
			}
			return ctx.Err() == nil
		}
		l.loaded = true
		l.stopLedger = start(ctx, l.ledger.run)
	}
	found, err := readDirectories(l.cfg.Dir, l.cfg.Resources, l.cfg.Joined, l.cfg.Cluster.Name)
	l.report(found, err)
	if err != nil {
		// Not an empty directory: everything stays, also what an earlier run knew.
		if l.announced {
			return false
		}
		if found, err = l.remembered(ctx, err); err != nil {
			return ctx.Err() == nil
		}
	} else if term, _ := l.cfg.Election.Term(); term.Writes() && term != l.tidied {
		if err := l.forgetOrphans(ctx, found); err != nil {
			if ctx.Err() == nil {
				l.cfg.Logger.Warn("peers of an earlier run are not forgotten, will retry", "error", err)
			}
			return ctx.Err() == nil
		}
		l.tidied = term
	}
	all, missing := l.reconcile(ctx, found, l.absent)
	if all && !l.announced {
		l.announced = true
		l.stopAnnounce = start(ctx, l.announceSeeded)
	}
	return !all || missing
}

// remembered lists the peers of an earlier run as peers whose file can not be
// read.
func (m *Manager) remembered(ctx context.Context, why error) (listing, error) {
	names, err := m.cachedPeers(ctx)
	out := listing{problems: map[string]error{}}
	for _, name := range names {
		out.problems[name] = why
	}
	return out, err
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

// cachedPeers returns the clusters of which our own etcd holds a config.
func (m *Manager) cachedPeers(ctx context.Context) (names []string, err error) {
	prefix := strings.TrimSuffix(wire.ConfigKey("x"), "x")
	err = m.cfg.Etcd.List(ctx, kvstore.Prefix(prefix), func(item kvstore.Item) error {
		if name := strings.TrimPrefix(item.Key, prefix); name != m.cfg.Cluster.Name {
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

// forgetOrphans drops what is cached of clusters whose file went while no API
// server ran, and what was agreed with them.
func (m *Manager) forgetOrphans(ctx context.Context, found listing) error {
	names, err := m.cachedPeers(ctx)
	if err != nil {
		return err
	}
	names = append(names, m.ledger.peers()...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if found.has(name) || m.peers[name] != nil {
			continue
		}
		if err := purge(ctx, name, m.cfg.Etcd, m.cfg.Election, m.cfg.Logger); err != nil {
			return err
		}
		m.ledger.forget(name)
		m.cfg.Logger.Info("removed peer is forgotten", "cluster", name)
	}
	return nil
}

// reconcile makes the sessions what the directory says. A peer is removed when
// its file is not there at two looks in a row, since whoever replaces a file may
// take it away first. all says that every peer has its session, missing that a
// file was not there for the first time.
func (m *Manager) reconcile(ctx context.Context, found listing, absent map[string]bool) (all, missing bool) {
	all = true
	for _, name := range slices.Sorted(maps.Keys(m.peers)) {
		switch {
		case found.has(name):
			delete(absent, name)
		case absent[name]:
			delete(absent, name)
			m.remove(ctx, name)
		default:
			absent[name], missing = true, true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found.files)) {
		all = m.keep(ctx, name, found.files[name]) && all
	}
	for _, name := range slices.Sorted(maps.Keys(found.problems)) {
		if cluster.ValidateName(name) == nil && name != m.cfg.Cluster.Name && m.peers[name] == nil {
			all = m.add(ctx, name, File{}, found.problems[name]) && all
		}
	}
	// What was cached of all of them is in use before any is asked: of two that
	// claim one address the one that had it keeps it.
	for _, p := range m.peers {
		if p.stop == nil {
			p.stop = m.begin(ctx, p)
		}
	}
	return all, missing
}

// begin runs the session with a peer whose file is good.
func (m *Manager) begin(ctx context.Context, p *peer) (stop func()) {
	if p.broken {
		return func() {}
	}
	p.open(p.file)
	return start(ctx, p.run)
}

// keep begins, or begins anew, the session with a peer whose file is good.
func (m *Manager) keep(ctx context.Context, name string, file File) (ok bool) {
	p := m.peers[name]
	switch {
	case p == nil:
		return m.add(ctx, name, file, nil)
	case p.broken || !reflect.DeepEqual(p.file, file):
		if m.moved(p, file) {
			return true
		}
		m.cfg.Logger.Info("peer file changed", "cluster", name)
		p.stop()
		m.mu.Lock()
		p.file, p.broken = file, false
		m.mu.Unlock()
		p.regard(file)
		p.agree()
		p.stop = m.begin(ctx, p)
	}
	return true
}

// moved lets the session go on where the file of a peer that joined says other addresses
// and nothing else. Who writes a file by hand may have replaced what it names, too.
func (m *Manager) moved(p *peer, file File) bool {
	same := p.file
	same.Endpoints = file.Endpoints
	if p.broken || file.Agreed == nil || !reflect.DeepEqual(same, file) {
		return false
	}
	m.cfg.Logger.Info("peer has other addresses", "cluster", p.name, "endpoints", file.Endpoints)
	m.mu.Lock()
	p.file = file
	m.mu.Unlock()
	p.move(file.Endpoints)
	return true
}

// add makes a session of which what is cached is in use, which is all with broken.
// It reports false when that could not be read, which the next look tries again.
func (m *Manager) add(ctx context.Context, name string, file File, broken error) bool {
	s := newSession(name, m, file)
	m.cfg.Engine.Hear(name, s.contest.ruled)
	whole, err := s.seed(ctx)
	if err != nil {
		// The next look begins anew, if the file is still there then.
		m.cfg.Engine.Remove(name)
		m.cfg.Engine.Hear(name, nil)
		m.registry.release(name)
		m.cfg.Book.Remove(name)
		m.cfg.Logger.Warn("cached state of the peer is not read, will retry", "cluster", name, "error", err)
		return false
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
	return true
}

// remove ends a session and takes all that the peer said out of use.
func (m *Manager) remove(ctx context.Context, name string) {
	p := m.peers[name]
	p.stop()
	p.stopCache()
	p.part()
	m.cfg.Engine.Remove(name)
	m.cfg.Engine.Hear(name, nil)
	m.registry.release(name)
	m.cfg.Book.Remove(name)
	m.ledger.forget(name)
	m.mu.Lock()
	delete(m.peers, name)
	m.mu.Unlock()
	m.metrics.forget(name)
	m.cfg.Logger.Info("peer is removed", "cluster", name)
	if err := purge(ctx, name, m.cfg.Etcd, m.cfg.Election, m.cfg.Logger); err != nil && !errors.Is(err, kvstore.ErrStandby) {
		m.cfg.Logger.Warn("cache of the removed peer is left until the next start, or until another replica writes", "cluster", name, "error", err)
	}
}

// announceSeeded closes seeded in time.
func (m *Manager) announceSeeded(ctx context.Context) {
	deadline, grace := time.NewTimer(seedTimeout), time.NewTimer(cacheGrace)
	defer deadline.Stop()
	defer grace.Stop()
	cached := false // a whole cache is enough
	for !m.allSeeded(cached) {
		select {
		case <-ctx.Done():
			return
		case <-grace.C:
			cached = true
		case <-deadline.C:
			m.cfg.Logger.Warn("going on without peers of which nothing is known yet")
			close(m.seeded)
			return
		case <-m.progress:
		}
	}
	close(m.seeded)
}

func (m *Manager) allSeeded(cached bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if !p.settled(cached) {
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
