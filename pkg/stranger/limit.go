package stranger

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// MaxPlaces is how many exchanges may wait for an offer with a right secret at
	// once. Each may send one message of a mebibyte.
	MaxPlaces = 16

	// FailuresPerWindow is how many wrong secrets from one address are answered in
	// a window. Right ones are never held up.
	FailuresPerWindow = 10
	failureWindow     = time.Minute
	// maxWaiting is how many answers to wrong secrets wait at once for one
	// address; more are told so at once.
	maxWaiting = 32
	// maxSources bounds the memory; further addresses count as one.
	maxSources = 4096
)

// Places are those of exchanges of which no secret was right yet. When all are
// taken, one goes that waits for its offer, by lot: were it the oldest, a flood would
// keep out whoever is a long round trip away. Safe for concurrent use.
type Places struct {
	mu    sync.Mutex
	taken []*Place
}

// Place is one exchange's; evict ends its wait and is nil when its offer came.
type Place struct{ evict func() }

// Enter takes a place. It is one that Heard says is gone when all others have
// their offers.
func (p *Places) Enter(evict func()) *Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	mine := &Place{evict: evict}
	if len(p.taken) >= MaxPlaces {
		waiting := slices.DeleteFunc(slices.Clone(p.taken), func(o *Place) bool { return o.evict == nil })
		if len(waiting) == 0 {
			evict()
			return mine
		}
		gone := waiting[rand.IntN(len(waiting))]
		gone.evict()
		p.taken = slices.DeleteFunc(p.taken, func(o *Place) bool { return o == gone })
	}
	p.taken = append(p.taken, mine)
	return mine
}

// Heard keeps the place of an exchange whose offer came, and says whether it has it
// still.
func (p *Places) Heard(mine *Place) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	mine.evict = nil
	return slices.Contains(p.taken, mine)
}

// Leave gives a place up; it may be called again.
func (p *Places) Leave(mine *Place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = slices.DeleteFunc(p.taken, func(o *Place) bool { return o == mine })
}

// Limiter spaces the answers to wrong secrets by the address that they came from.
// Behind a NodePort all callers may have one address: so it only ever holds up
// those whose secret was wrong. Safe for concurrent use.
type Limiter struct {
	mu      sync.Mutex
	sources map[netip.Prefix]*source
	swept   time.Time // when what counts no longer was last dropped
}

// source is what one address did.
type source struct {
	// answers are when the last ones were, or are to be, given.
	answers []time.Time
}

// NewLimiter returns a Limiter that has counted nothing.
func NewLimiter() *Limiter { return &Limiter{sources: map[netip.Prefix]*source{}} }

// Fail counts a wrong secret from an address at now and returns how long its
// answer has to wait; ok is false when too many wait already.
func (l *Limiter) Fail(from netip.Addr, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.source(from, now)
	s.forget(now)
	due := now
	if n := len(s.answers); n >= FailuresPerWindow {
		if n >= FailuresPerWindow+maxWaiting {
			return 0, false
		}
		due = s.answers[n-FailuresPerWindow].Add(failureWindow)
	}
	s.answers = append(s.answers, due)
	return due.Sub(now), true
}

// forget drops what counts no longer.
func (s *source) forget(now time.Time) {
	for len(s.answers) > 0 && now.Sub(s.answers[0]) >= failureWindow {
		s.answers = s.answers[1:]
	}
}

// Over reports whether wrong secrets of an address have to wait at now.
func (l *Limiter) Over(from netip.Addr, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.source(from, now)
	s.forget(now)
	return len(s.answers) >= FailuresPerWindow
}

// sourceOf is what an address counts as: an IPv6 one as its /64, which is one
// holder's; the zero prefix where there is no address.
func sourceOf(from netip.Addr) netip.Prefix {
	from = from.Unmap().WithZone("")
	bits := from.BitLen()
	if from.Is6() {
		bits = 64
	}
	key, _ := from.Prefix(bits)
	return key
}

// source returns what is kept of an address.
func (l *Limiter) source(from netip.Addr, now time.Time) *source {
	key := sourceOf(from)
	if l.sources[key] == nil && len(l.sources) >= maxSources {
		l.sweep(now)
		if len(l.sources) >= maxSources {
			key = netip.Prefix{}
		}
	}
	if l.sources[key] == nil {
		l.sources[key] = &source{}
	}
	return l.sources[key]
}

// sweep drops what counts no longer, now and then: it looks at all.
func (l *Limiter) sweep(now time.Time) {
	if now.Sub(l.swept) < failureWindow/FailuresPerWindow {
		return
	}
	l.swept = now
	for key, s := range l.sources {
		if s.forget(now); len(s.answers) == 0 {
			delete(l.sources, key)
		}
	}
}
