package stranger

import (
	"context"
	"net/netip"
	"sync"
)

const (
	// turnsAtOnce is how many of a costly kind of call run at once, turnsOfOne how
	// many of them for one address.
	turnsAtOnce = 16
	turnsOfOne  = 4
)

// Turns bound how much of what is done for strangers is done at once, for one address
// and for all. Who comes too early waits. Safe for concurrent use.
type Turns struct {
	all chan struct{}

	mu      sync.Mutex
	sources map[netip.Prefix]*line
}

// line is one address's. It is kept while users wait or have their turn.
type line struct {
	users     int
	some, one chan struct{}
}

// NewTurns returns Turns of which none is taken.
func NewTurns() *Turns {
	return &Turns{all: make(chan struct{}, turnsAtOnce), sources: map[netip.Prefix]*line{}}
}

// Take waits for a turn of an address, until ctx ends. Those that are taken with alone
// come one after the other. The caller calls done when its turn is over.
func (t *Turns) Take(ctx context.Context, from netip.Addr, alone bool) (done func(), err error) {
	key := sourceOf(from)
	t.mu.Lock()
	l := t.sources[key]
	if l == nil {
		l = &line{some: make(chan struct{}, turnsOfOne), one: make(chan struct{}, 1)}
		t.sources[key] = l
	}
	l.users++
	t.mu.Unlock()
	places := []chan struct{}{l.some, t.all}
	if alone {
		places = []chan struct{}{l.one, l.some, t.all}
	}
	taken := 0
	done = func() {
		for _, place := range places[:taken] {
			<-place
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(t.sources, key)
		}
	}
	for _, place := range places {
		select {
		case place <- struct{}{}:
			taken++
		case <-ctx.Done():
			done()
			return nil, context.Cause(ctx)
		}
	}
	return done, nil
}
