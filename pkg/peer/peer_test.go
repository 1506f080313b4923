package peer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

func TestFollowPeer(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitState("west", Synced, "")
	l.awaitNodes("west", "n1", "n2")
	west.node("n3")
	l.awaitNodes("west", "n1", "n2", "n3")
	west.delete(west.layout().NodeKey("n1"))
	l.awaitNodes("west", "n2", "n3")
	<-l.Seeded()
}

// Neither the name of one peer, nor what is cached of it, gets into that of
// another whose name begins alike.
func TestPeerWhoseNameIsAPrefix(t *testing.T) {
	t.Parallel()
	l, west, west2 := newLocal(t), newRemote(t, "west", 2), newRemote(t, "west2", 3)
	west2.node("other")
	l.connect(west)
	l.connect(west2)
	l.awaitNodes("west", "n1", "n2")
	l.awaitNodes("west2", "n1", "n2", "other")
	l.awaitCache("west")
	l.awaitCache("west2")
	l.remove("west")
	l.awaitNodes("west")
	eventually(t, func() error {
		if left := l.cached("west"); len(left) > 0 {
			return fmt.Errorf("still cached of west: %v", left)
		}
		return nil
	})
	l.stop()
	l.start()
	l.awaitNodes("west2", "n1", "n2", "other")
}

// What a peer said is in use after a restart while the peer is away, and what it
// deleted meanwhile goes when it is back.
func TestRestartWhileThePeerIsAway(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitNodes("west", "n1", "n2")
	l.awaitCache("west")
	l.stop()
	west.delete(west.layout().NodeKey("n1"))
	west.node("n3")
	west.stop()
	l.start()
	<-l.Seeded()
	if got := l.nodes("west"); !slices.Equal(got, []string{"n1", "n2"}) {
		t.Fatalf("after the restart nodes %v are in use", got)
	}
	west.start()
	l.awaitNodes("west", "n2", "n3")
	l.awaitState("west", Synced, "")
}

// A peer whose store was wiped is listed anew; nothing is dropped before it says
// again that it is complete.
func TestWipedPeer(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitNodes("west", "n1", "n2")
	west.wipe()
	l.awaitState("west", Waiting, "")
	if got := l.nodes("west"); !slices.Equal(got, []string{"n1", "n2"}) {
		t.Fatalf("a peer that has not published yet: nodes %v are in use", got)
	}
	west.node("n9")
	for _, kind := range wire.Kinds() {
		west.put(west.layout().Marker(kind), []byte("now"), nil)
	}
	west.configure()
	l.awaitNodes("west", "n9")
	l.awaitState("west", Synced, "")
}

func TestRemovedPeerIsForgottenWithoutAProcess(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitCache("west")
	awaitClaims := func(want bool) {
		t.Helper()
		eventually(t, func() error {
			_, found, err := l.etcd.Get(t.Context(), claimsPrefix+"west")
			if err != nil || found != want {
				return fmt.Errorf("claims are kept: %t, %w", found, err)
			}
			return nil
		})
	}
	awaitClaims(true)
	l.stop()
	l.remove("west")
	l.start()
	eventually(t, func() error {
		if left := l.cached("west"); len(left) > 0 {
			return fmt.Errorf("still cached: %v", left)
		}
		return nil
	})
	awaitClaims(false)
}

// A directory that is away is not an empty one.
func TestMissingDirectory(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitNodes("west", "n1", "n2")
	away := l.dir + ".away"
	if err := os.Rename(l.dir, away); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if p := l.Problems(); len(p) != 1 || p[0].File != "" || !strings.Contains(p[0].Message, "no such file") {
			return fmt.Errorf("problems: %+v", p)
		}
		return nil
	})
	west.node("n3") // the session goes on
	l.awaitNodes("west", "n1", "n2", "n3")
	if err := os.Rename(away, l.dir); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if p := l.Problems(); len(p) != 0 {
			return fmt.Errorf("problems: %+v", p)
		}
		return nil
	})
	l.awaitState("west", Synced, "")
}

// Also at a start: what an earlier run knew is in use, and nothing waits for it.
func TestMissingDirectoryAtTheStart(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitCache("west")
	l.stop()
	away := l.dir + ".away"
	if err := os.Rename(l.dir, away); err != nil {
		t.Fatal(err)
	}
	l.start()
	<-l.Seeded()
	l.awaitNodes("west", "n1", "n2")
	if err := os.Rename(away, l.dir); err != nil {
		t.Fatal(err)
	}
	west.node("n3")
	l.awaitNodes("west", "n1", "n2", "n3")
}

// A file that is a link to what is not mounted is not a file that was removed.
func TestDanglingLink(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitNodes("west", "n1", "n2")
	l.remove("west")
	if err := os.Symlink(filepath.Join(t.TempDir(), "away"), filepath.Join(l.dir, "west")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if p := l.Problems(); len(p) != 1 || p[0].File != "west" {
			return fmt.Errorf("problems: %+v", p)
		}
		return nil
	})
	if got := l.nodes("west"); len(got) != 2 {
		t.Errorf("nodes %v are left in use", got)
	}
}

// A file that is broken keeps the session of the good one; a wrong one beside it
// costs nothing; a good one again is taken up.
func TestBrokenFile(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitNodes("west", "n1", "n2")
	good, err := os.ReadFile(filepath.Join(l.dir, "west"))
	if err != nil {
		t.Fatal(err)
	}
	l.write("west", []byte("endpoints: []\n"))
	l.write("South", good)
	l.write("east", good)
	eventually(t, func() error {
		text := fmt.Sprint(l.Problems())
		for _, want := range []string{"no endpoints", "South", "own name"} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("problems %s do not mention %q", text, want)
			}
		}
		return nil
	})
	west.node("n3")
	l.awaitNodes("west", "n1", "n2", "n3")

	// Over a restart, too, the broken file's peer keeps what was cached.
	l.awaitCache("west")
	l.stop()
	l.start()
	<-l.Seeded()
	if got := l.nodes("west"); len(got) != 3 {
		t.Fatalf("nodes %v of a peer with a broken file are in use", got)
	}
	l.awaitState("west", Connecting, "no endpoints")
	l.write("west", good)
	l.awaitState("west", Synced, "")
}

func TestRefusedPeers(t *testing.T) {
	t.Parallel()
	l, west, south := newLocal(t), newRemote(t, "west", 2), newRemote(t, "south", 2)
	l.connect(west)
	l.awaitState("west", Synced, "")
	l.connect(south)
	l.awaitState("south", Refused, "id 2 is held by west")
	if got := l.nodes("south"); len(got) != 0 {
		t.Errorf("nodes %v of a refused peer are in use", got)
	}
	// It comes in when the holder leaves.
	l.remove("west")
	l.awaitState("south", Synced, "")
	l.awaitNodes("south", "n1", "n2")

	own := newRemote(t, "north", 1)
	l.connect(own)
	l.awaitState("north", Refused, "this cluster's id")
	own.config.ID = 4
	own.configure()
	own.node("n1")
	own.node("n2")
	l.awaitState("north", Synced, "")
	l.awaitNodes("north", "n1", "n2")
	own.config.Size = cluster.Size511
	own.configure()
	l.awaitState("north", Refused, "sizes of the meshes differ")
	if got := l.nodes("north"); len(got) != 2 {
		t.Errorf("what the peer said before is not in use any more: %v", got)
	}
}

func TestWaitingForMarkers(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	west.delete(west.layout().Marker(wire.Services))
	l.connect(west)
	l.awaitState("west", Waiting, "services")
	if got := l.nodes("west"); len(got) != 0 {
		t.Errorf("nodes %v of a peer that is not complete are in use", got)
	}
	west.put(west.layout().Marker(wire.Services), []byte("now"), nil)
	l.awaitNodes("west", "n1", "n2")
}

// One bad key costs no other, and not what it said before.
func TestBadKeys(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	l.connect(west)
	l.awaitNodes("west", "n1", "n2")
	west.put(west.layout().NodeKey("n1"), []byte("{"), nil)
	west.put(west.layout().NodeKey("bad"), nil, nil)
	west.put(west.layout().Prefix(wire.Addresses)+"not-an-address", []byte("{}"), nil)
	stranger, err := wire.EncodeNode(&node.Node{Cluster: "west", ClusterID: 3, Name: "stranger", Source: "k8s"})
	west.put(west.layout().NodeKey("stranger"), stranger, err)
	west.node("n3")
	l.awaitNodes("west", "n1", "n2", "n3")
	eventually(t, func() error {
		s := l.Status()[0]
		if s.Refused["malformed"] != 3 || s.Refused["wrong_cluster"] != 1 || s.LastRefused == "" {
			return fmt.Errorf("refused: %v, last %q", s.Refused, s.LastRefused)
		}
		return nil
	})
	// A new listing does not take it for gone either.
	l.awaitCache("west")
	west.stop()
	west.start()
	west.node("n4")
	l.awaitNodes("west", "n1", "n2", "n3", "n4")
}

func TestWrongAuthority(t *testing.T) {
	t.Parallel()
	l, west, south := newLocal(t), newRemote(t, "west", 2), newRemote(t, "south", 3)
	l.connect(west)
	l.awaitState("west", Synced, "")
	l.connect(south)
	l.awaitState("south", Synced, "")
	l.write("south.ca.crt", west.ca.CertPEM())
	south.stop()
	south.start()
	l.awaitState("south", Disconnected, "signed by another authority")
	l.write("south.ca.crt", south.ca.CertPEM())
	l.awaitState("south", Synced, "")
}
