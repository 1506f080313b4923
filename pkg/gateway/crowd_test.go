package gateway

import (
	"fmt"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

func known(role pki.Role, name string) *connection {
	return &connection{known: true, subject: pki.Subject{Cluster: "east", Role: role, Name: name}}
}

// Whoever fills what is theirs takes no place of another.
func TestCrowd(t *testing.T) {
	c := newCrowd()
	var leavePeer func()
	for i := range maxOf(pki.RolePeer) {
		leave, _, ok := c.enter(known(pki.RolePeer, "west"))
		if !ok {
			t.Fatalf("connection %d of a peer is refused", i)
		}
		leavePeer = leave
	}
	if _, _, ok := c.enter(known(pki.RolePeer, "west")); ok {
		t.Error("a peer has more connections than it may")
	}
	for range maxAnonymous {
		if _, gone, ok := c.enter(new(connection)); !ok || gone != nil {
			t.Fatal("a stranger is refused too early")
		}
	}
	if _, _, ok := c.enter(known(pki.RoleAgent, "n1")); !ok {
		t.Error("an agent is refused because of others")
	}
	leavePeer()
	if _, _, ok := c.enter(known(pki.RolePeer, "west")); !ok {
		t.Error("a place that was given back is not to be had")
	}
}

// A holder's connections share their counts, which go with the last of them.
func TestHolder(t *testing.T) {
	c := newCrowd()
	first, second, other := known(pki.RolePeer, "west"), known(pki.RolePeer, "west"), known(pki.RolePeer, "north")
	leaveFirst, _, _ := c.enter(first)
	leaveSecond, _, _ := c.enter(second)
	_, _, _ = c.enter(other)
	if first.holder != second.holder || first.holder == other.holder {
		t.Error("counts are not by holder")
	}
	leaveFirst()
	leaveSecond()
	third := known(pki.RolePeer, "west")
	if _, _, _ = c.enter(third); third.holder == first.holder {
		t.Error("the counts of a holder that has left are kept")
	}
}

// One more handshake takes the place of any that is not over: not always of the oldest,
// never of one that is done, and never its own.
func TestHandshakesMakeRoom(t *testing.T) {
	c := newCrowd()
	const more = 8 * maxHandshakes
	cut := map[int]bool{}
	var ends []func()
	for i := range maxHandshakes + more {
		ends = append(ends, c.begin(func() {
			if cut[i] || i == 5 || i == len(ends) {
				t.Errorf("handshake %d is cut when %d begins", i, len(ends))
			}
			cut[i] = true
		}))
		if i == 5 {
			ends[5]()
		}
	}
	if want := more - 1; len(cut) != want {
		t.Errorf("%d were cut, want %d", len(cut), want)
	}
	inOrder := 0
	for i := range cut {
		if i < len(cut) {
			inOrder++
		}
	}
	if inOrder == len(cut) {
		t.Error("it was always the oldest")
	}
	for _, end := range ends {
		end()
	}
	if len(c.handshaking) != 0 {
		t.Errorf("%d are left", len(c.handshaking))
	}
}

// Who is slow gets through a flood that is done with each of its own at once: with each
// of those that come, one of all places goes.
func TestFloodKeepsNobodyOut(t *testing.T) {
	for range 100 {
		c := newCrowd()
		through := true
		flood := func(n int) {
			for range n {
				c.begin(func() {})
			}
		}
		flood(maxHandshakes)
		c.begin(func() { through = false })
		flood(maxHandshakes) // all places anew within its round trip
		if through {
			return
		}
	}
	t.Error("it was cut each of 100 times") // by chance once in 10^20
}

// One more stranger takes the place of any who has shown no secret, whatever calls are
// open; of any at all when all have shown one.
func TestStrangersMakeRoom(t *testing.T) {
	c := newCrowd()
	proven := map[*connection]bool{}
	var joiner *connection
	for i := range maxAnonymous {
		one := new(connection)
		switch {
		case i%2 == 0:
			one.proven.Store(true)
			proven[one] = true
		case i == 1: // it has no call yet
			joiner = one
		default:
			one.streams.Store(1)
		}
		_, _, _ = c.enter(one)
	}
	kept := false
	for range 100 {
		late := new(connection)
		late.streams.Store(1)
		_, gone, ok := c.enter(late)
		if !ok || gone == nil || gone == late || proven[gone] {
			t.Fatal("another one went than may")
		}
		kept = kept || gone != joiner
	}
	if !kept {
		t.Error("who has no call always goes first")
	}
	if len(c.anonymous) != maxAnonymous {
		t.Errorf("%d strangers", len(c.anonymous))
	}
	for _, one := range c.anonymous {
		one.proven.Store(true)
	}
	if _, gone, ok := c.enter(new(connection)); !ok || gone == nil {
		t.Error("nobody goes when all have shown a secret")
	}
}

// Who has shown a certificate makes room for nobody.
func TestKnownMakeNoRoom(t *testing.T) {
	c := newCrowd()
	peer := known(pki.RolePeer, "west")
	_, _, _ = c.enter(peer)
	for range 10 * maxAnonymous {
		if _, gone, _ := c.enter(new(connection)); gone == peer {
			t.Fatal("a peer is cut for a stranger")
		}
	}
}

func TestCrowdAsAWhole(t *testing.T) {
	c := newCrowd()
	var leaves []func()
	for i := range maxConnections {
		leave, _, ok := c.enter(known(pki.RoleAgent, fmt.Sprint(i)))
		if !ok {
			t.Fatalf("connection %d is refused", i)
		}
		leaves = append(leaves, leave)
	}
	if _, _, ok := c.enter(known(pki.RoleAdmin, "admin")); ok {
		t.Error("there are more connections than there may be")
	}
	for _, leave := range leaves {
		leave()
	}
	if len(c.bySubject) != 0 || c.known != 0 {
		t.Errorf("after all have left: %+v", c)
	}
}
