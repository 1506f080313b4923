package peer

import (
	"fmt"
	"sync"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// registry knows which peer holds which cluster id: the first that comes keeps
// it until it leaves. Safe for concurrent use.
type registry struct {
	mu      sync.Mutex
	holders map[cluster.ID]string
	changed chan struct{} // closed and replaced when an id becomes free
}

func newRegistry() *registry {
	return &registry{holders: map[cluster.ID]string{}, changed: make(chan struct{})}
}

// claim gives id to the peer, which gives back any other that it held.
func (r *registry) claim(id cluster.ID, peer string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if holder, ok := r.holders[id]; ok && holder != peer {
		return fmt.Errorf("id %d is held by %s: %w", id, holder, ErrIDTaken)
	}
	if r.holders[id] != peer {
		r.drop(peer)
		r.holders[id] = peer
	}
	return nil
}

// release gives back what the peer held.
func (r *registry) release(peer string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(peer)
}

func (r *registry) drop(peer string) {
	for id, holder := range r.holders {
		if holder == peer {
			delete(r.holders, id)
			close(r.changed)
			r.changed = make(chan struct{})
		}
	}
}

// freed returns a channel that is closed when an id becomes free after the call.
func (r *registry) freed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}
