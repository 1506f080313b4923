package peer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// seeded are a Manager's cache of a peer that an earlier run left, of more keys
// than are put in use at once, and the Manager, which does not run.
func seeded(t *testing.T, name string, id cluster.ID) *local {
	t.Helper()
	l := newLocal(t)
	l.stop()
	c := newCache(name, l.etcd, nil, quiet())
	if err := c.setConfig(cluster.Config{Name: name, ID: id, Size: 255}); err != nil {
		t.Fatal(err)
	}
	for i := range maxPieceKeys + 1 {
		n := &node.Node{Cluster: name, ClusterID: id, Name: fmt.Sprint("n", i), Source: "k8s"}
		value, err := wire.EncodeNode(n)
		if err != nil {
			t.Fatal(err)
		}
		c.state.Set(c.layout.NodeKey(n.Name), value)
	}
	c.complete()
	stop := run(t, c.run)
	if err := c.state.Synced(t.Context()); err != nil {
		t.Fatal(err)
	}
	stop()
	return l
}

// A peer whose cache could be read in part only holds nothing: its file may be
// gone before it is tried again.
func TestSeedThatFails(t *testing.T) {
	t.Parallel()
	l := seeded(t, "west", 2)
	ctx, cancel := context.WithCancel(t.Context())
	l.tap = func(string, merge.Update) { cancel() } // in the middle of it
	if l.add(ctx, "west", File{}, nil) {
		t.Fatal("the cache could be read")
	}
	l.tap = nil
	if nodes := l.nodes("west"); len(nodes) > 0 || l.Manager.peers["west"] != nil {
		t.Errorf("in use: %v", nodes)
	}
	if err := l.registry.claim(2, "north"); err != nil {
		t.Errorf("its id is not free: %v", err)
	}
	l.registry.release("north")

	if !l.add(t.Context(), "west", File{}, errors.New("no file")) || len(l.nodes("west")) != maxPieceKeys+1 {
		t.Errorf("the next time: %d nodes", len(l.nodes("west")))
	}
	l.Manager.peers["west"].stopCache()
}

// A drain that is cut short is begun again, or the peer has its old id again:
// what others had of it before is no contest any more.
func TestDrainThatIsCutShort(t *testing.T) {
	t.Parallel()
	l := seeded(t, "west", 2)
	s := newSession("west", l.Manager, File{})
	if _, err := s.seed(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.contest.ruled(merge.Ruling{Cluster: "west", Prefix: netip.MustParsePrefix("10.1.0.1/32"), Holder: "north"})
	if s.status().Refused[reasonConflict] != 1 {
		t.Fatal("nothing is contested")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := s.drain(ended); !errors.Is(err, context.Canceled) {
		t.Fatalf("drain: %v", err)
	}
	if n := s.status().Refused[reasonConflict]; n != 0 {
		t.Errorf("%d addresses are contested", n)
	}
}
