package merge

import "sync"

// Sink takes what changed for the nodes. It is called with one delta at a
// time, in order, and must not block: everybody who has something to say to
// the Engine waits for it.
type Sink interface {
	Apply(delta Delta)
}

// Engine is a State that many may use at once.
type Engine struct {
	mu    sync.Mutex
	state *State
	sink  Sink
}

// NewEngine returns an engine with an empty state for the cluster of that
// name. It starts nothing.
func NewEngine(local string, sink Sink) *Engine {
	return &Engine{state: New(local), sink: sink}
}

// Apply takes a change of one cluster's state and hands what it changes for
// the nodes to the sink before it returns.
func (e *Engine) Apply(cluster string, u Update) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.give(e.state.Apply(cluster, u))
}

// Remove forgets a cluster and hands what that changes to the sink before it
// returns.
func (e *Engine) Remove(cluster string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.give(e.state.Remove(cluster))
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
}
