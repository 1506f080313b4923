package peer

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// session is all about one peer, from its file's appearance to its end. Its
// file may change meanwhile; what the peer said before stays in use then.
type session struct {
	name     string
	ours     cluster.Config
	engine   Engine
	registry *registry
	book     *trust.Book
	ledger   *ledger
	cache    *cache
	contest  *contest
	log      *slog.Logger
	metrics  *metrics
	progress chan<- struct{} // poked at every change
	renewed  func()          // see Config.Renewed
	reached  func([]string)  // see Config.Reached

	// known are the keys in use, in the cache's layout, with the number of the
	// attempt that saw each last. Only the one goroutine that seeds, follows or
	// drains has it.
	known   map[string]entry
	attempt uint32
	// judge decides what of it is believed; special are addresses with a node's
	// identity, in use or not. They belong to the same goroutine.
	judge   *trust.Judge
	special map[netip.Addr]kvstore.Change
	// specialBytes are those of their values.
	specialBytes int
	// inUse is the cluster id under which what is known was said; 0: nothing is.
	// It belongs to the same goroutine.
	inUse cluster.ID

	// says bounds what it says about itself, pace the rest.
	says, pace *pace

	// nudge wakes the data loop when something that it depends on changed.
	nudge chan struct{}

	// agreeing is held while it is decided what the peer may claim.
	agreeing sync.Mutex
	declared []trust.Claim // by its file; nil when that does not say
	joined   []trust.Claim // when it joined; nil when it said nothing, or did not
	gone     bool          // the peer is removed: nothing is agreed any more

	mu         sync.Mutex
	doubted    bool // all is to be judged anew
	judgedAt   time.Time
	rules      trust.Rules
	heldAt     time.Time // until when it was held back last, see pace
	offences   []Offence
	whole      bool // the cache was whole when the session began
	facts      facts
	file       File            // what is in use of it
	client     *kvstore.Client // to it; nil while there is none
	since      time.Time       // of the state
	lastState  State
	lastWhy    retry.Reason    // that was logged last
	keeper     *renewal.Keeper // of the certificate; nil before the first session
	lastChange time.Time
	heartbeat  time.Time
	markers    map[wire.Kind]bool
	refused    map[string]int
	lastRefuse string
	// lastRefusedKey is the key that lastRefuse is about.
	lastRefusedKey string
}

func newSession(name string, m *Manager, file File) *session {
	s := &session{
		name: name, ours: m.cfg.Cluster, engine: m.cfg.Engine, registry: m.registry, book: m.cfg.Book, ledger: m.ledger,
		cache: newCache(name, m.cfg.Etcd, m.cfg.Election, m.cfg.Logger), log: m.cfg.Logger.With("cluster", name), metrics: m.metrics, progress: m.progress, renewed: func() { m.cfg.Renewed(name) }, reached: func(addresses []string) { m.cfg.Reached(name, addresses) },
		known: map[string]entry{}, special: map[netip.Addr]kvstore.Change{}, nudge: make(chan struct{}, 1),
		since: time.Now(), lastState: Connecting, refused: map[string]int{},
	}
	s.says = newPace(func() int { return minListBytes }, s.hold)
	s.pace = newPace(s.quotaBytes, s.hold)
	s.contest = &contest{session: s, lost: map[string][]byte{}}
	s.declared, s.joined = file.Claims, file.Agreed
	s.agree()
	s.judge = trust.NewJudge(trust.JudgeConfig{Book: m.cfg.Book, Peer: name, Size: m.cfg.Cluster.Size})
	s.regard(file)
	s.mu.Lock()       // others know of it since agree
	s.doubted = false // nothing was judged yet
	s.mu.Unlock()
	return s
}

// crowdedDelay is how long a peer is left alone that has more keys than are
// remembered of it: each try reads as many.
const crowdedDelay = 10 * time.Second

// minKeyBytes is enough for some thousand keys, however small the quota.
const minKeyBytes = 1 << 20

// tellAgain is how long a reason that keeps changing is not logged anew.
const tellAgain = 10 * time.Second

// change applies fn to the facts and logs a new state, or a new reason for it.
func (s *session) change(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	select {
	case s.progress <- struct{}{}:
	default:
	}
	state, why := s.facts.state()
	s.metrics.state(s.name, state)
	now := time.Now()
	was := s.lastState
	if state != was {
		s.lastState, s.since, s.lastWhy = state, now, retry.Reason{}
	}
	// A new reason for an old state is worth a line, too: of a peer that never
	// answered, only the reason says what to do.
	tell := why != "" && s.lastWhy.Tell(why, now, tellAgain, math.MaxInt64)
	if tell || state != was {
		s.log.Info("peer session", "state", state, "was", was, "reason", why)
	}
}

// seed puts what an earlier run cached in use. It reports whether that is all
// that the peer had published.
func (s *session) seed(ctx context.Context) (whole bool, err error) {
	config, err := s.cache.config(ctx)
	if config == nil || err != nil {
		return false, err
	}
	if err := s.registry.claim(config.ID, s.name); err != nil {
		s.log.Warn("cached state is not used", "error", err)
		return false, nil
	}
	if err := s.cache.setConfig(*config); err != nil {
		return false, err
	}
	s.begin(config.ID)
	var items []kvstore.Change
	use := func() {
		s.deliver(s.cache.layout, items)
		items = nil
	}
	whole, err = s.cache.load(ctx, func(item kvstore.Item) error {
		if items = append(items, kvstore.Change{Key: item.Key, Value: item.Value}); len(items) == maxPieceKeys {
			use()
		}
		return nil
	})
	use()
	if err != nil {
		return false, err
	}
	s.log.Info("cached state of the peer is in use", "keys", len(s.known), "whole", whole)
	return whole, nil
}

// begin says under which id the peer says what is known from now on.
func (s *session) begin(id cluster.ID) {
	s.inUse = id
	s.judge.Begin(id)
}

// open says by which file the next run is.
func (s *session) open(file File) {
	s.change(func() { s.facts, s.markers, s.file = facts{}, map[wire.Kind]bool{}, file })
}

// move has the session go on at other addresses. What is read at one that stays goes on
// as it is.
func (s *session) move(endpoints []string) {
	s.change(func() {
		s.file.Endpoints = endpoints
		if s.client != nil {
			s.client.Move(endpoints)
		}
	})
}

// run keeps a session with the peer until ctx ends. Only addresses change meanwhile.
func (s *session) run(ctx context.Context) {
	s.attempt++
	client, file, ok := s.dial(ctx)
	if !ok {
		return
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		ranges := []kvstore.Range{kvstore.Key(wire.ConfigKey(s.name)), kvstore.Key(wire.HeartbeatKey)}
		for _, kind := range wire.Kinds() {
			for _, cached := range []bool{false, true} {
				l := wire.Layout{Cluster: s.name, Cached: cached}
				ranges = append(ranges, kvstore.Key(l.Marker(kind)))
			}
		}
		return client.Follow(ctx, kvstore.FollowConfig{Ranges: ranges, Proof: wire.HeartbeatKey, Handler: (*control)(s), Allow: s.says.allow, Logger: s.log})
	})
	g.Go(func() error { return s.followData(ctx, client) })
	g.Go(func() error {
		s.keepCertificate(ctx, file, client)
		return nil
	})
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		s.log.Error("peer session ended", "error", err)
	}
	s.change(func() { s.client = nil })
	if err := client.Close(); err != nil {
		s.log.Debug("close the connection to the peer", "error", err)
	}
}

// dial tries until the peer's files can be used: certificates may come after the
// file that names them.
func (s *session) dial(ctx context.Context) (*kvstore.Client, File, bool) {
	for {
		s.mu.Lock()
		file := s.file
		s.mu.Unlock()
		tls, err := pki.ClientConfig(file.TLS, pki.MeshNames(s.name)...)
		if err == nil {
			var client *kvstore.Client
			client, err = kvstore.Dial(kvstore.ClientConfig{Endpoints: file.Endpoints, TLS: tls, Logger: s.log})
			if err == nil {
				s.change(func() {
					s.facts.setup, s.client = nil, client
					client.Move(s.file.Endpoints) // they may be others by now
				})
				return client, file, true
			}
		}
		err = s.explain(err)
		s.change(func() { s.facts.setup = err })
		select {
		case <-ctx.Done():
			return nil, File{}, false
		case <-time.After(2*time.Second + rand.N(time.Second)):
		}
	}
}

// plan is how a peer's data is read; it changes with the peer's config.
type plan struct {
	id       cluster.ID
	cached   bool
	slices   bool
	canaries bool
}

// followData reads the peer's data while its config is accepted and its markers
// are there, anew when the config changes.
func (s *session) followData(ctx context.Context, client *kvstore.Client) error {
	var running plan
	stop := func() {}
	defer func() { stop() }()
	for {
		freed := s.registry.freed()
		doubted, later := s.due(time.Now())
		if doubted {
			stop()
			stop, running = func() {}, plan{}
			s.attempt++
			s.rejudge()
		}
		want, verdict := s.desired()
		if want != running && running != (plan{}) {
			stop()
			stop, running = func() {}, plan{}
			s.change(func() { s.facts.complete, s.facts.behind = false, nil })
			s.attempt++
		}
		// An id that can not be accepted drains nothing: what the peer said before
		// stays in use, as with any other refusal. One that can does, also when
		// another peer holds it: two that swap ids would wait for each other.
		if want.id != 0 && s.inUse != 0 && want.id != s.inUse {
			if err := s.drain(ctx); err != nil {
				return nil // only ctx ends it
			}
			continue
		}
		if want.id != 0 {
			verdict = s.registry.claim(want.id, s.name)
		}
		if s.decide(want, verdict) && running == (plan{}) {
			s.begin(want.id)
			stop = s.startData(ctx, client, want)
			running = want
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.nudge:
		case <-freed:
		case <-later:
		}
	}
}

// desired returns how the peer's config wants the data read, the zero plan when
// there is none; verdict says why what it wants can not be.
func (s *session) desired() (want plan, verdict error) {
	s.mu.Lock()
	config, malformed := s.facts.config, s.facts.malformed
	s.mu.Unlock()
	if config == nil {
		return plan{}, malformed
	}
	if err := accept(s.ours, *config); err != nil {
		return plan{}, err
	}
	return plan{
		id: config.ID, cached: config.Cached, canaries: config.SyncedCanaries,
		slices: config.ExportMode == cluster.ExportServicesAndSlices,
	}, nil
}

// decide keeps what decides on reading the data, and reports whether it may begin.
func (s *session) decide(p plan, verdict error) bool {
	missing := ""
	s.change(func() {
		if p.id != 0 {
			missing = s.missingMarker(p)
		}
		s.facts.verdict, s.facts.missing = verdict, missing
	})
	return p.id != 0 && verdict == nil && missing == ""
}

// missingMarker returns the first kind that the peer has not written whole, ""
// for none. The caller holds s.mu.
func (s *session) missingMarker(p plan) string {
	if !p.canaries {
		return ""
	}
	for _, kind := range p.kinds() {
		if !s.markers[kind] {
			return string(kind)
		}
	}
	return ""
}

// kinds are those that the peer publishes.
func (p plan) kinds() []wire.Kind {
	var out []wire.Kind
	for _, kind := range inOrder() {
		if kind != wire.Slices || p.slices {
			out = append(out, kind)
		}
	}
	return out
}

// startData follows the data until the returned func is called, which waits.
func (s *session) startData(ctx context.Context, client *kvstore.Client, p plan) (stop func()) {
	layout := wire.Layout{Cluster: s.name, Cached: p.cached}
	var ranges []kvstore.Range
	// The markers are looked for at the revision that is listed: a store that was
	// wiped and is being filled again lacks keys that are not gone.
	var markers []string
	for _, kind := range p.kinds() {
		ranges = append(ranges, kvstore.Prefix(layout.Prefix(kind)))
		if p.canaries {
			markers = append(markers, layout.Marker(kind))
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	follow := func() error {
		d := newData(s, layout)
		defer start(ctx, d.intake.run)()
		return client.Follow(ctx, kvstore.FollowConfig{
			Ranges: ranges, Require: markers, Proof: wire.HeartbeatKey, Handler: d, KeyBytes: s.keyBytes(), Allow: s.pace.allow, Logger: s.log,
		})
	}
	go func() {
		defer close(done)
		for {
			err := follow()
			if err == nil || errors.Is(err, context.Canceled) {
				return
			}
			s.change(func() { s.facts.behind = err })
			// What it said before stays, until a list is complete again.
			if !errors.Is(err, kvstore.ErrTooManyKeys) || !retry.Sleep(ctx, crowdedDelay) {
				return
			}
			s.attempt++
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// keyBytes bounds what is remembered of the peer's keys, refused ones too: by half
// of what its values may take.
func (s *session) keyBytes() int { return max(s.quotaBytes()/2, minKeyBytes) }

// quotaBytes are how many bytes of the peer's values are taken.
func (s *session) quotaBytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rules.Quotas.Bytes
}

// drain takes all that the peer said out of use before it is read under another
// id: its identities mean something else then. The id is free when nothing of it
// is left in use, and the cache does not say that it is whole while it is emptied.
// An error is that of ctx; then drain can be repeated.
func (s *session) drain(ctx context.Context) error {
	s.log.Info("peer has another cluster id, what it said under the old one is drained", "was", s.inUse)
	s.change(func() { s.facts.draining, s.whole = true, false })
	s.engine.Remove(s.name)
	s.contest.forget()
	s.registry.release(s.name)
	s.judge.Forget()
	clear(s.special)
	s.specialBytes = 0
	if err := s.cache.withdraw(ctx); err != nil {
		return err
	}
	for key := range s.known {
		s.cache.state.Delete(key)
	}
	clear(s.known)
	s.inUse = 0
	s.change(func() { s.facts.draining = false })
	return nil
}

// settled reports whether nodes need not wait for this peer: what it said is in
// use, or it has nothing to say that could be used. With cached, what it said to an
// earlier run is enough.
func (s *session) settled(cached bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return cached && s.whole || s.facts.complete || s.facts.setup != nil || s.facts.verdict != nil
}

// Engine takes what peers say; merge.Engine is one.
type Engine interface {
	Apply(cluster string, u merge.Update)
	Remove(cluster string)
	Hear(cluster string, fn func(merge.Ruling))
}
