package gateway

import (
	"sync"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// crowd counts the connections of the port by who is at the other end, so that
// nobody takes the places of others: neither strangers, who are not known before
// their handshake is over, nor the holder of one certificate. Safe for
// concurrent use.
type crowd struct {
	mu          sync.Mutex
	handshaking int
	anonymous   int
	known       int
	bySubject   map[pki.Subject]int
}

func newCrowd() *crowd { return &crowd{bySubject: map[pki.Subject]int{}} }

// maxOf is how many connections one certificate may hold. A reader of the
// protocol has one; more than one process may share a peer's or an operator's.
func maxOf(role pki.Role) int {
	if role == pki.RoleAgent {
		return 4 // the old and the new one while it is restarted, and again
	}
	return 32
}

// begin takes a place for a handshake; false: there is none.
func (c *crowd) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handshaking >= maxHandshakes {
		return false
	}
	c.handshaking++
	return true
}

// end gives the place of a handshake back.
func (c *crowd) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handshaking--
}

// enter takes a place for a connection whose handshake is over; false: there is
// none. leave, called once, gives it back.
func (c *crowd) enter(known bool, subject pki.Subject) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !known {
		if c.anonymous >= maxAnonymous {
			return nil, false
		}
		c.anonymous++
		return func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.anonymous--
		}, true
	}
	if c.known >= maxConnections || c.bySubject[subject] >= maxOf(subject.Role) {
		return nil, false
	}
	c.known++
	c.bySubject[subject]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.known--
		if c.bySubject[subject]--; c.bySubject[subject] == 0 {
			delete(c.bySubject, subject)
		}
	}, true
}
