package gateway

import (
	"fmt"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Whoever fills what is theirs takes no place of another.
func TestCrowd(t *testing.T) {
	c := newCrowd()
	peer := pki.Subject{Cluster: "east", Role: pki.RolePeer, Name: "west"}
	agent := pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: "n1"}
	var leavePeer func()
	for i := range maxOf(pki.RolePeer) {
		leave, ok := c.enter(true, peer)
		if !ok {
			t.Fatalf("connection %d of a peer is refused", i)
		}
		leavePeer = leave
	}
	if _, ok := c.enter(true, peer); ok {
		t.Error("a peer has more connections than it may")
	}
	for range maxAnonymous {
		if _, ok := c.enter(false, pki.Subject{}); !ok {
			t.Fatal("a stranger is refused too early")
		}
	}
	if _, ok := c.enter(false, pki.Subject{}); ok {
		t.Error("there are more strangers than there may be")
	}
	for range maxHandshakes {
		if !c.begin() {
			t.Fatal("a handshake is refused too early")
		}
	}
	if c.begin() {
		t.Error("there are more handshakes than there may be")
	}
	if _, ok := c.enter(true, agent); !ok {
		t.Error("an agent is refused because of others")
	}
	leavePeer()
	if _, ok := c.enter(true, peer); !ok {
		t.Error("a place that was given back is not to be had")
	}
	for range maxHandshakes {
		c.end()
	}
	if !c.begin() {
		t.Error("no handshake after all have ended")
	}
}

func TestCrowdAsAWhole(t *testing.T) {
	c := newCrowd()
	var leaves []func()
	for i := range maxConnections {
		leave, ok := c.enter(true, pki.Subject{Role: pki.RoleAgent, Name: fmt.Sprint(i)})
		if !ok {
			t.Fatalf("connection %d is refused", i)
		}
		leaves = append(leaves, leave)
	}
	if _, ok := c.enter(true, pki.Subject{Role: pki.RoleAdmin}); ok {
		t.Error("there are more connections than there may be")
	}
	for _, leave := range leaves {
		leave()
	}
	if len(c.bySubject) != 0 || c.known != 0 {
		t.Errorf("after all have left: %+v", c)
	}
}
