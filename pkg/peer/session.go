package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// session is all about one peer, from its file's appearance to its end. Its
// file may change meanwhile; what the peer said before stays in use then.
type session struct {
	name     string
	ours     cluster.Config
	engine   Engine
	registry *registry
	cache    *cache
	log      *slog.Logger
	metrics  *metrics
	progress chan<- struct{} // poked at every change

	// known are the keys in use, in the cache's layout, with the number of the
	// attempt that saw each last. Only the one goroutine that seeds, follows or
	// drains has it.
	known   map[string]uint64
	attempt uint64

	// nudge wakes the data loop when something that it depends on changed.
	nudge chan struct{}

	mu         sync.Mutex
	whole      bool // the cache was whole when the session began
	facts      facts
	since      time.Time // of the state
	lastState  State
	lastWhy    string    // the reason that was logged last, see withoutNumbers
	told       time.Time // when it was
	endpoints  []string
	lastChange time.Time
	heartbeat  time.Time
	markers    map[wire.Kind]bool
	refused    map[string]int
	lastRefuse string
}

func newSession(name string, m *Manager) *session {
	return &session{
		name: name, ours: m.cfg.Cluster, engine: m.cfg.Engine, registry: m.registry,
		cache: newCache(name, m.cfg.Etcd, m.cfg.Logger), log: m.cfg.Logger.With("cluster", name), metrics: m.metrics, progress: m.progress,
		known: map[string]uint64{}, nudge: make(chan struct{}, 1),
		since: time.Now(), lastState: Connecting, refused: map[string]int{},
	}
}

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
	if state == s.lastState && !s.newReason(why) {
		return
	}
	s.log.Info("peer session", "state", state, "was", s.lastState, "reason", why)
	now := time.Now()
	if state != s.lastState {
		s.lastState, s.since = state, now
	}
	s.lastWhy, s.told = withoutNumbers(why), now
}

// newReason reports whether a reason is worth a line though the state is not
// new: of a peer that never answered, only the reason says what to do.
func (s *session) newReason(why string) bool {
	if why == "" || withoutNumbers(why) == s.lastWhy {
		return false
	}
	return s.lastWhy == "" || time.Since(s.told) > tellAgain
}

// withoutNumbers drops what differs between two failures of one kind, like the
// port of the client's side.
func withoutNumbers(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsDigit(r) {
			return -1
		}
		return r
	}, text)
}

// seed puts what an earlier run cached in use. It reports whether that is all
// that the peer had published.
func (s *session) seed(ctx context.Context) (whole bool, err error) {
	update, keys := newUpdate(), 0
	config, whole, err := s.cache.load(ctx, func(item kvstore.Item) error {
		c := kvstore.Change{Key: item.Key, Value: item.Value}
		if err := put(&update, s.cache.layout, kindOf(s.cache.layout, item.Key), c); err != nil {
			s.refuse(item.Key, err)
			return nil
		}
		s.known[item.Key] = s.attempt
		s.cache.state.Set(item.Key, item.Value)
		keys++
		return nil
	})
	if err != nil {
		return false, err
	}
	if config != nil {
		if err := s.registry.claim(config.ID, s.name); err != nil {
			s.log.Warn("cached state is not used", "error", err)
			return false, nil
		}
		if err := s.cache.setConfig(*config); err != nil {
			return false, err
		}
	}
	s.engine.Apply(s.name, update)
	s.log.Info("cached state of the peer is in use", "keys", keys, "whole", whole)
	return whole, nil
}

// run keeps a session with the peer that file describes until ctx ends.
func (s *session) run(ctx context.Context, file File) {
	s.attempt++
	s.change(func() {
		s.facts, s.markers, s.endpoints = facts{}, map[wire.Kind]bool{}, file.Endpoints
	})
	client, ok := s.dial(ctx, file)
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
		return client.Follow(ctx, kvstore.FollowConfig{Ranges: ranges, Handler: (*control)(s), Logger: s.log})
	})
	g.Go(func() error { return s.followData(ctx, client) })
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		s.log.Error("peer session ended", "error", err)
	}
	if err := client.Close(); err != nil {
		s.log.Debug("close the connection to the peer", "error", err)
	}
}

// dial tries until the peer's files can be used: certificates may come after the
// file that names them.
func (s *session) dial(ctx context.Context, file File) (*kvstore.Client, bool) {
	for {
		tls, err := pki.ClientConfig(file.TLS, pki.MeshNames(s.name)...)
		if err == nil {
			var client *kvstore.Client
			client, err = kvstore.Dial(kvstore.ClientConfig{Endpoints: file.Endpoints, TLS: tls, Logger: s.log})
			if err == nil {
				s.change(func() { s.facts.setup = nil })
				return client, true
			}
		}
		s.change(func() { s.facts.setup = err })
		select {
		case <-ctx.Done():
			return nil, false
		case <-time.After(2*time.Second + rand.N(time.Second)):
		}
	}
}

// plan is how a peer's data is read; it changes with the peer's config.
type plan struct {
	id     cluster.ID
	cached bool
	slices bool
}

// followData reads the peer's data while its config is accepted and its markers
// are there, anew when the config changes.
func (s *session) followData(ctx context.Context, client *kvstore.Client) error {
	var running plan
	stop := func() {}
	defer func() { stop() }()
	for {
		freed := s.registry.freed()
		want, ok := s.decide()
		if want != running && running != (plan{}) {
			stop()
			if want.id != running.id && want.id != 0 {
				s.drain()
			}
			running = plan{}
			s.attempt++
		}
		if ok && running == (plan{}) {
			stop = s.startData(ctx, client, want)
			running = want
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.nudge:
		case <-freed:
		}
	}
}

// decide returns how to read the data now; false: not at all. A zero plan with
// true does not exist.
func (s *session) decide() (plan, bool) {
	s.mu.Lock()
	config := s.facts.config
	s.mu.Unlock()
	if config == nil {
		return plan{}, false
	}
	verdict := accept(s.ours, *config)
	if verdict == nil {
		verdict = s.registry.claim(config.ID, s.name)
	}
	p := plan{id: config.ID, cached: config.Cached, slices: config.ExportMode == cluster.ExportServicesAndSlices}
	missing := ""
	s.change(func() {
		missing = s.missingMarker(*config, p)
		s.facts.verdict, s.facts.missing = verdict, missing
	})
	if verdict != nil {
		return plan{}, false
	}
	if missing != "" {
		return p, false
	}
	return p, true
}

// missingMarker returns the first kind that the peer has not written whole, ""
// for none. The caller holds s.mu.
func (s *session) missingMarker(config cluster.Config, p plan) string {
	if !config.SyncedCanaries {
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
	for _, kind := range wire.Kinds() {
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
	for _, kind := range p.kinds() {
		ranges = append(ranges, kvstore.Prefix(layout.Prefix(kind)))
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := client.Follow(ctx, kvstore.FollowConfig{
			Ranges: ranges, Handler: &data{session: s, layout: layout}, Logger: s.log,
		})
		if err != nil && !errors.Is(err, context.Canceled) {
			s.change(func() { s.facts.trouble = err })
		}
	}()
	return func() {
		cancel()
		<-done
		s.change(func() { s.facts.complete = false })
	}
}

// drain takes all that the peer said out of use.
func (s *session) drain() {
	s.engine.Remove(s.name)
	for key := range s.known {
		s.cache.state.Delete(key)
	}
	clear(s.known)
	s.log.Info("peer is drained")
}

// settled reports whether nodes need not wait for this peer: what it said is in
// use, or it has nothing to say that could be used.
func (s *session) settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole || s.facts.complete || s.facts.setup != nil || s.facts.verdict != nil
}

// refuse counts a key that is not taken over; what it said before stays.
func (s *session) refuse(key string, err error) {
	why := reason(err)
	s.metrics.refused(s.name, why)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused[why]++
	s.lastRefuse = fmt.Sprintf("%s: %v", key, err)
	s.log.Debug("key of the peer is refused", "key", key, "error", err)
}

// Engine takes what peers say; merge.Engine is one.
type Engine interface {
	Apply(cluster string, u merge.Update)
	Remove(cluster string)
}
