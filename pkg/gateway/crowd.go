package gateway

import (
	"container/list"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// crowd counts the connections of the port by who is at the other end, so that
// nobody takes the places of others: neither strangers, who are not known before
// their handshake is over, nor the holder of one certificate. Where strangers
// compete for places, the one that has had its place for longest loses it: who is
// slow on purpose keeps nobody out. Safe for concurrent use.
type crowd struct {
	mu          sync.Mutex
	handshaking *list.List // of func() that cut, the oldest first
	anonymous   *list.List // of *connection, the oldest first
	known       int
	bySubject   map[pki.Subject]*holder
}

// holder is who has a certificate, over all of its connections.
type holder struct {
	connections int // the crowd's
	// watches and calls are how many are open.
	watches, calls atomic.Int64
	// streams has a place for each stream of watches.
	streams *semaphore.Weighted
}

func newCrowd() *crowd {
	return &crowd{handshaking: list.New(), anonymous: list.New(), bySubject: map[pki.Subject]*holder{}}
}

// maxOf is how many connections one certificate may hold. A reader of the
// protocol has one; more than one process may share a peer's or an operator's.
func maxOf(role pki.Role) int {
	if role == pki.RoleAgent {
		return 4 // the old and the new one while it is restarted, and again
	}
	return 32
}

// begin takes a place for a handshake, and end, called once, gives it back. cut
// closes the connection; it is called when others need the place.
func (c *crowd) begin(cut func()) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handshaking.Len() >= maxHandshakes {
		oldest := c.handshaking.Front()
		c.handshaking.Remove(oldest)
		defer oldest.Value.(func())()
	}
	return c.leaving(c.handshaking, c.handshaking.PushBack(cut))
}

// leaving returns what gives a place back that may have been taken away.
func (c *crowd) leaving(places *list.List, mine *list.Element) func() {
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		places.Remove(mine)
	}
}

// enter takes a place for a connection whose handshake is over; false: there is
// none. leave, called once, gives it back. The one that had to go for a stranger's
// is in gone, for the caller to cut.
func (c *crowd) enter(conn *connection) (leave func(), gone *connection, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !conn.known {
		gone = c.makeRoom()
		return c.leaving(c.anonymous, c.anonymous.PushBack(conn)), gone, true
	}
	h := c.bySubject[conn.subject]
	if h == nil {
		h = &holder{streams: semaphore.NewWeighted(maxHolderStreams)}
	}
	if c.known >= maxConnections || h.connections >= maxOf(conn.subject.Role) {
		return nil, nil, false
	}
	c.known++
	h.connections++
	c.bySubject[conn.subject] = h
	conn.holder = h
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.known--
		if h.connections--; h.connections == 0 {
			delete(c.bySubject, conn.subject)
		}
	}, nil, true
}

// makeRoom takes the place of the oldest stranger without a call away, of the
// oldest of all when every one has a call, and of nobody while there is room.
func (c *crowd) makeRoom() *connection {
	if c.anonymous.Len() < maxAnonymous {
		return nil
	}
	goes := c.anonymous.Front()
	for e := goes; e != nil; e = e.Next() {
		if e.Value.(*connection).streams.Load() == 0 {
			goes = e
			break
		}
	}
	return c.anonymous.Remove(goes).(*connection)
}
