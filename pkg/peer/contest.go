package peer

import (
	"errors"
	"fmt"
	"sync"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// errConflict is the reason why an address of a peer is not taken over.
var errConflict = errors.New("the address is another cluster's, which had it first or is this one; it is taken over when that one has gone")

const reasonConflict = string(trust.AddressConflict)

// contest keeps which addresses of a peer another cluster has. Those are not
// cached, but where the peer had the address before: who had it when this
// process ended has it when the next one begins, whoever is asked first then.
//
// Safe for concurrent use; ruled may come from the session of another peer.
type contest struct {
	session *session

	mu sync.Mutex
	// lost are the keys, in the cache's layout, with the peer's present value;
	// nil when it is not known.
	lost map[string][]byte
}

// ruled takes what was decided about a claim. It blocks on nothing.
func (c *contest) ruled(r merge.Ruling) {
	s := c.session
	key := s.cache.layout.AddressKey(r.Prefix)
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Holder != s.name {
		c.lost[key] = nil
		s.refuse(wire.Addresses, key, fmt.Errorf("%w: %s is %s's", errConflict, r.Prefix, r.Holder))
		return
	}
	if value := c.lost[key]; value != nil {
		s.cache.state.Set(key, value)
	}
	delete(c.lost, key)
	s.resolve(key)
}

// cache keeps a change that is in use in our etcd, if it counts.
func (c *contest) cache(change kvstore.Change) {
	state := c.session.cache.state
	c.mu.Lock()
	defer c.mu.Unlock()
	_, lost := c.lost[change.Key]
	switch {
	case change.Deleted:
		delete(c.lost, change.Key)
		state.Delete(change.Key)
		if lost {
			c.session.resolve(change.Key)
		}
	case lost:
		c.lost[change.Key] = change.Value
	default:
		state.Set(change.Key, change.Value)
	}
}

// value returns what the peer says at a key that is in use, nil when it is not
// known.
func (c *contest) value(key string) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if value, lost := c.lost[key]; lost {
		return value
	}
	return c.session.cache.state.Value(key)
}

// forget ends all contests: the peer claims nothing any more.
func (c *contest) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.lost {
		c.session.resolve(key)
	}
	clear(c.lost)
}

// count returns how many addresses another cluster has now.
func (c *contest) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.lost)
}

// resolve forgets that a key was the last to be refused.
func (s *session) resolve(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lastRefusedKey == key {
		s.lastRefusedKey, s.lastRefuse = "", ""
	}
}
