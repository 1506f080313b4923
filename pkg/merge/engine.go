package merge

import (
	"sync"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// Sink takes what changed for the nodes. It is called with one delta at a
// time, in order, and must not block: everybody who has something to say to
// the Engine waits for it.
type Sink interface {
	Apply(delta Delta)
}

// removePiece is how many keys of a cluster that goes are forgotten at once:
// others have their turn in between.
const removePiece = 256

// Engine is a State that many may use at once. It is held for as long as one
// change takes, so changes should be small.
type Engine struct {
	mu      sync.Mutex
	state   *State
	sink    Sink
	parties map[string]func(Ruling)
	watcher func([]service.Name)
}

// NewEngine returns an engine with an empty state for the cluster of that
// name. It starts nothing.
func NewEngine(local string, sink Sink) *Engine {
	return &Engine{state: New(local), sink: sink, parties: map[string]func(Ruling){}}
}

// Route makes the deltas say how the own cluster's nodes reach the others. It is
// called before anything is applied, or not at all.
func (e *Engine) Route(r Routing) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state.Route(r)
}

// Reroute looks anew at how packets go to a cluster, and hands what that changes for
// the nodes to the sink before it returns.
func (e *Engine) Reroute(cluster string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.give(e.state.Reroute(cluster))
}

// Apply takes a change of one cluster's state and hands what it changes for
// the nodes to the sink before it returns.
func (e *Engine) Apply(cluster string, u Update) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.give(e.state.Apply(cluster, u))
}

// Remove forgets a cluster and hands what that changes to the sink before it
// returns, in pieces. Nothing may be applied for the cluster meanwhile.
func (e *Engine) Remove(cluster string) {
	for e.removeSome(cluster) {
	}
}

func (e *Engine) removeSome(cluster string) (more bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delta, more := e.state.removeSome(cluster, removePiece)
	e.give(delta)
	return more
}

// Hear calls fn with every Ruling about a cluster's claims from now on, until it
// is called with nil. fn is called within the Apply or Remove that decided, also
// another cluster's; it must not block, nor call the engine.
func (e *Engine) Hear(cluster string, fn func(Ruling)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if fn == nil {
		delete(e.parties, cluster)
	} else {
		e.parties[cluster] = fn
	}
}

// Watch calls fn with the services of which something changed, from now on. It is
// called before anything is applied, or not at all; fn must not block, nor call the
// engine.
func (e *Engine) Watch(fn func([]service.Name)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watcher = fn
}

// Read calls fn with the state, which stays as it is meanwhile. fn must not
// keep it, nor call the engine.
func (e *Engine) Read(fn func(*State)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fn(e.state)
}

func (e *Engine) give(delta Delta) {
	if !delta.Empty() {
		e.sink.Apply(delta)
	}
	if touched := e.state.Touched(); e.watcher != nil && len(touched) > 0 {
		e.watcher(touched)
	}
	for _, r := range e.state.Rulings() {
		if fn := e.parties[r.Cluster]; fn != nil {
			fn(r)
		}
	}
}
