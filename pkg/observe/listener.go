package observe

import (
	"context"
	"io"
	"maps"
	"slices"
	"time"
)

const (
	// MaxLast is how many remembered events a listener may ask for.
	MaxLast = 4096
	// listenerQueue is how many events wait for a listener.
	listenerQueue = 4096
	// recallTimeout is how long agents have to say what they remember.
	recallTimeout = 3 * time.Second
)

// Listener is one who wants to see events. What it is told waits for Next;
// events that find no room there are lost, and counted.
type Listener struct {
	server *Server
	id     uint64
	filter Filter
	last   int
	follow bool
	nodes  []string

	// All below is the server's mu's.

	queue   []*Seen
	lost    map[string]uint64      // by node; "" is the listener itself
	changes map[string]ChangeState // the newest, by node
	// pending are the nodes that have not yet said what they remember. Until all
	// have, or had the time for it, remembered holds what they said and early
	// what has happened since.
	pending    map[string]bool
	remembered []*Seen
	early      []*Seen
	settled    bool
	timeout    *time.Timer
	// ready has one element when there is something for Next.
	ready chan struct{}
}

func newListener(s *Server, id uint64, f Filter, last int, follow bool) *Listener {
	return &Listener{
		server: s, id: id, filter: f, last: min(max(last, 0), MaxLast), follow: follow,
		lost: map[string]uint64{}, changes: map[string]ChangeState{}, pending: map[string]bool{}, ready: make(chan struct{}, 1),
	}
}

// Nodes returns, sorted, the nodes that could be seen when the listener came.
func (l *Listener) Nodes() []string { return l.nodes }

// Close ends it; agents are told to stop when it was the last one.
func (l *Listener) Close() {
	s := l.server
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners[l.id] != l {
		return
	}
	delete(s.listeners, l.id)
	s.metrics.listeners.Set(float64(len(s.listeners)))
	if l.timeout != nil {
		l.timeout.Stop()
	}
	s.wake(l.filter)
}

// Next returns what there is to be told, at least one Item, and waits for it.
// Without follow it returns io.EOF after all of what is remembered. It is not
// called twice at a time.
func (l *Listener) Next(ctx context.Context) ([]Item, error) {
	for {
		items, done := l.take()
		if len(items) > 0 {
			return items, nil
		}
		if done {
			return nil, io.EOF
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *Listener) take() (items []Item, done bool) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	for _, node := range slices.Sorted(maps.Keys(l.changes)) {
		items = append(items, Item{Change: &Change{Node: node, State: l.changes[node]}})
	}
	for _, e := range l.queue {
		items = append(items, Item{Seen: e})
	}
	for _, node := range slices.Sorted(maps.Keys(l.lost)) {
		items = append(items, Item{Lost: &Lost{Node: node, Events: l.lost[node]}})
	}
	l.server.metrics.given.Add(float64(len(l.queue)))
	l.queue = nil
	clear(l.changes)
	clear(l.lost)
	return items, l.settled && !l.follow
}

// The rest is called with the server's mu held.

// share is how many events each agent may say that it remembers.
func (l *Listener) share() int {
	return min(l.last, Remembered, max(allRecall/max(len(l.nodes), 1), 1))
}

// begin waits for what agents remember, if there is anything to wait for.
func (l *Listener) begin() {
	if len(l.pending) == 0 {
		l.settle()
		return
	}
	l.timeout = time.AfterFunc(recallTimeout, func() {
		l.server.mu.Lock()
		defer l.server.mu.Unlock()
		l.settle()
	})
}

// remember takes what a node remembers.
func (l *Listener) remember(node string, events []*Seen) {
	if !l.pending[node] {
		return
	}
	delete(l.pending, node)
	for _, e := range events {
		if l.filter.allowsNamed(e) {
			l.remembered = append(l.remembered, e)
		}
	}
	if len(l.remembered) > 2*l.last+maxSend { // seldom, as it takes a look at all
		l.cut()
	}
	if len(l.pending) == 0 {
		l.settle()
	}
}

// cut keeps the newest, in order.
func (l *Listener) cut() {
	slices.SortStableFunc(l.remembered, func(a, b *Seen) int { return a.Time.Compare(b.Time) })
	if over := len(l.remembered) - l.last; over > 0 {
		l.remembered = slices.Clone(l.remembered[over:])
	}
}

// settle gives the listener what agents remember. Those who have not said it by
// now are too late.
func (l *Listener) settle() {
	if l.settled {
		return
	}
	l.settled = true
	l.cut()
	if l.timeout != nil {
		l.timeout.Stop()
	}
	for node := range l.pending {
		l.changes[node] = Silent
	}
	clear(l.pending)
	for _, e := range slices.Concat(l.remembered, l.early) {
		l.put(e)
	}
	l.remembered, l.early = nil, nil
	l.wake()
}

// happen takes what has just happened at a node. What comes from one that has
// not said yet what it remembers is a part of that.
func (l *Listener) happen(node string, events []*Seen, lost uint64) {
	if !l.follow || !l.filter.allowsNode(node) || l.pending[node] {
		return
	}
	for _, e := range events {
		switch {
		case !l.filter.allowsNamed(e):
		case l.settled:
			l.put(e)
		case len(l.early) < listenerQueue:
			l.early = append(l.early, e)
		default:
			l.lose("", 1)
		}
	}
	if lost > 0 {
		l.lose(node, lost)
	}
	l.wake()
}

// change tells that a node's agent came or went. One that went has nothing more
// to remember.
func (l *Listener) change(node string, state ChangeState) {
	if !l.filter.allowsNode(node) || !l.follow && !l.pending[node] {
		return
	}
	l.changes[node] = state
	if state == Away && l.pending[node] {
		delete(l.pending, node)
		if len(l.pending) == 0 {
			l.settle()
		}
	}
	l.wake()
}

// put lets an event wait for Next.
func (l *Listener) put(e *Seen) {
	if len(l.queue) >= listenerQueue {
		l.lose("", 1)
		return
	}
	l.queue = append(l.queue, e)
}

func (l *Listener) lose(node string, n uint64) {
	l.lost[node] += n
	by := lostByAgent
	if node == "" {
		by = lostByListener
	}
	l.server.metrics.lost.WithLabelValues(by).Add(float64(n))
}

func (l *Listener) wake() {
	select {
	case l.ready <- struct{}{}:
	default:
	}
}
