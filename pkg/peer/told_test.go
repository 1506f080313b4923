package peer

import (
	"errors"
	"testing"
)

// TestKnown checks when what a peer has not said is taken as not so: when it was
// listed, when an earlier run did that, and when it is no peer; not while nothing of
// it has ever come.
func TestKnown(t *testing.T) {
	t.Parallel()
	l, west, north := newLocal(t), newRemote(t, "west", 2), newRemote(t, "north", 3)
	if !l.Known("nobody") {
		t.Error("of who is no peer something is waited for")
	}
	north.stop()
	l.connect(west)
	l.connect(north)
	l.awaitState("west", Synced, "")
	if !l.Known("west") || l.Known("north") {
		t.Errorf("known: west %v, north, which never answered, %v", l.Known("west"), l.Known("north"))
	}
	l.awaitCache("west")
	l.stop()
	west.stop()
	l.start()
	eventually(t, func() error {
		if len(l.nodes("west")) != 2 || !l.Known("west") {
			return errors.New("what the cache has of west is not known")
		}
		return nil
	})
	if l.Known("north") {
		t.Error("north is known after a restart")
	}
	l.remove("north")
	eventually(t, func() error {
		if !l.Known("north") {
			return errors.New("north is waited for though it is no peer any more")
		}
		return nil
	})
}
