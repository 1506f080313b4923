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

// One more handshake takes the place of the oldest one.
func TestHandshakesMakeRoom(t *testing.T) {
	c := newCrowd()
	var cut []int
	var ends []func()
	for i := range maxHandshakes + 2 {
		ends = append(ends, c.begin(func() { cut = append(cut, i) }))
		if i == 5 { // who is done is cut by nobody
			ends[0]()
		}
	}
	if len(cut) != 1 || cut[0] != 1 {
		t.Errorf("cut were %v", cut)
	}
	for _, end := range ends[1:] {
		end()
	}
	if c.handshaking.Len() != 0 {
		t.Errorf("%d are left", c.handshaking.Len())
	}
}

// One more stranger takes the place of the oldest without a call, else of the
// oldest.
func TestStrangersMakeRoom(t *testing.T) {
	c := newCrowd()
	var all []*connection
	for range maxAnonymous {
		one := new(connection)
		one.streams.Store(1)
		all = append(all, one)
		_, _, _ = c.enter(one)
	}
	all[7].streams.Store(0)
	for _, want := range []*connection{all[7], all[0], all[1]} {
		late := new(connection)
		late.streams.Store(1)
		if _, gone, ok := c.enter(late); !ok || gone != want {
			t.Errorf("another one went than the one that should")
		}
	}
	if c.anonymous.Len() != maxAnonymous {
		t.Errorf("%d strangers", c.anonymous.Len())
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
