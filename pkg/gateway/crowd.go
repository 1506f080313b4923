package gateway

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// crowd counts the connections of the port by who is at the other end, so that
// nobody takes the places of others: neither strangers, who are not known before
// their handshake is over, nor the holder of one certificate. Safe for concurrent use.
//
// Where strangers compete for places, one that is drawn loses its own. Were it the
// oldest, a flood that fills all places within a round trip would keep out whoever is
// further away; by lot each has a chance with each try, whoever is slow on purpose
// keeps nobody out, and nobody can reckon whose place goes next. Who has shown a
// certificate, or the secret of an invitation, is not among those who draw.
type crowd struct {
	mu          sync.Mutex
	handshaking []*handshake
	anonymous   []*connection
	known       int
	bySubject   map[pki.Subject]*holder
}

// handshake is a place of a connection of which nothing is known yet.
type handshake struct{ cut func() }

// holder is who has a certificate, over all of its connections.
type holder struct {
	connections int // the crowd's
	// watches and calls are how many are open.
	watches, calls atomic.Int64
	// streams has a place for each stream of watches.
	streams *semaphore.Weighted
}

func newCrowd() *crowd {
	return &crowd{bySubject: map[pki.Subject]*holder{}}
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
	if n := len(c.handshaking); n >= maxHandshakes {
		gone := c.handshaking[rand.IntN(n)]
		c.handshaking = without(c.handshaking, gone)
		defer gone.cut()
	}
	mine := &handshake{cut: cut}
	c.handshaking = append(c.handshaking, mine)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.handshaking = without(c.handshaking, mine)
	}
}

// without drops one, if it is there; places have no order.
func without[T comparable](places []T, one T) []T {
	i := slices.Index(places, one)
	if i < 0 {
		return places
	}
	last := len(places) - 1
	places[i] = places[last]
	clear(places[last:])
	return places[:last]
}

// enter takes a place for a connection whose handshake is over; false: there is
// none. leave, called once, gives it back. The one that had to go for a stranger's
// is in gone, for the caller to cut.
func (c *crowd) enter(conn *connection) (leave func(), gone *connection, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !conn.known {
		gone = c.makeRoom()
		c.anonymous = append(c.anonymous, conn)
		return func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.anonymous = without(c.anonymous, conn)
		}, gone, true
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

// makeRoom takes the place of a stranger away who has shown no secret, or of any when
// all have, and of nobody while there is room. What calls are open says nothing:
// whoever wants to keep others out opens some, and who joins has none at first.
func (c *crowd) makeRoom() *connection {
	if len(c.anonymous) < maxAnonymous {
		return nil
	}
	of := slices.DeleteFunc(slices.Clone(c.anonymous), func(conn *connection) bool { return conn.proven.Load() })
	if len(of) == 0 {
		of = c.anonymous
	}
	gone := of[rand.IntN(len(of))]
	c.anonymous = without(c.anonymous, gone)
	return gone
}

// Proven says that who makes a call without a certificate has shown a secret of this
// cluster: its connection makes no room for those who have not.
func Proven(ctx context.Context) {
	if c, ok := connectionOf(ctx); ok {
		c.proven.Store(true)
	}
}
