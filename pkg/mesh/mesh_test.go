package mesh

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

func TestCarries(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	m := r.say(feed.Reach{All: true, Whole: true}, two)
	r.want(twoText)
	if fmt.Sprint(m.Addresses, m.Peers, m.Ranges, m.Problems) != "[10.200.1.1] 1 2 []" {
		t.Errorf("reported %+v", m)
	}
	if self := r.kernel.self; fmt.Sprint(self.Pods, self.Underlay, self.ID) != "[10.1.0.0/24] [192.0.2.11] 1" {
		t.Errorf("this node is %+v", self)
	}

	// An address is somebody's, goes, and is in a range only since that came.
	gone, came := prefix("10.2.0.5/32"), prefix("10.9.0.0/24")
	r.say(feed.Reach{Ranges: []netip.Prefix{came}, Addresses: []netip.Prefix{gone}}, func(s *told) {
		delete(s.addresses, gone)
		s.setRange("10.9.0.0/24", "west")
	})
	r.want("ranges map[10.2.0.0/24:2 10.9.0.0/24:2 10.200.2.1/32:2] addresses map[10.1.0.5:{10.1.0.5 1 65800 192.0.2.11} 10.9.0.5:{10.9.0.5 2 131400 192.0.2.21}]" +
		" node w1 2 [192.0.2.21] [10.200.2.1] network [10.200.1.1] [{10.2.0.0/24 vxlan} {10.9.0.0/24 vxlan} {10.200.2.1/32 vxlan}] [192.0.2.21]")
	r.say(feed.Reach{Ranges: []netip.Prefix{came}}, func(s *told) { delete(s.ranges, came) })
	r.want("ranges map[10.2.0.0/24:2 10.200.2.1/32:2] addresses map[10.1.0.5:{10.1.0.5 1 65800 192.0.2.11}]" +
		" node w1 2 [192.0.2.21] [10.200.2.1] network [10.200.1.1] [{10.2.0.0/24 vxlan} {10.200.2.1/32 vxlan}] [192.0.2.21]")

	// A node has another address, another one comes, the mode is another.
	r.say(feed.Reach{Nodes: true}, func(s *told) {
		s.setNode(machine("west", "w1", 2, "192.0.2.29", ""))
		s.setNode(machine("west", "w2", 2, "192.0.2.22", "10.200.9.9")) // in no range of west's
		s.peers["west"] = &route.Peer{Cluster: "west", ID: 2, Size: cluster.Size255, Mode: route.Native}
	})
	r.want("ranges map[10.2.0.0/24:2 10.200.2.1/32:2] addresses map[10.1.0.5:{10.1.0.5 1 65800 192.0.2.11}]" +
		" node w1 2 [192.0.2.29] [] node w2 2 [192.0.2.22] [] network [10.200.1.1] [{10.2.0.0/24 native} {10.200.2.1/32 native}] [192.0.2.22 192.0.2.29]")

	// The peer goes.
	r.say(feed.Reach{Nodes: true, Ranges: []netip.Prefix{prefix("10.2.0.0/24"), prefix("10.200.2.1/32")}}, func(s *told) {
		delete(s.nodes, node.Key{Cluster: "west", Name: "w1"})
		delete(s.nodes, node.Key{Cluster: "west", Name: "w2"})
		delete(s.peers, "west")
		delete(s.ranges, prefix("10.2.0.0/24"))
		delete(s.ranges, prefix("10.200.2.1/32"))
	})
	r.want("ranges map[] addresses map[10.1.0.5:{10.1.0.5 1 65800 192.0.2.11}] network [10.200.1.1] [] []")
}

// TestNoPart: without a mesh address nothing is made, and what was made goes when an
// API server says so, and not before.
func TestNoPart(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	without := func(s *told) { s.setNode(machine("east", "e1", 1, "192.0.2.11", "")) }
	m := r.say(feed.Reach{All: true, Whole: true}, func(s *told) { two(s); without(s) })
	if r.kernel.opens != 0 || r.kernel.removals != 1 || len(m.Addresses) != 0 {
		t.Errorf("opened %d times, removed %d times, reported %+v", r.kernel.opens, r.kernel.removals, m)
	}
	r.say(feed.Reach{Nodes: true}, two)
	r.want(twoText)
	m = r.say(feed.Reach{Nodes: true}, without)
	r.want("ranges map[] addresses map[]")
	if len(m.Addresses)+m.Peers+m.Ranges != 0 {
		t.Errorf("reported %+v", m)
	}
	r.say(feed.Reach{Nodes: true}, two)
	r.want(twoText)
}

// TestRestored: a state from before adds, and takes nothing away, until an API server
// was heard. A part of what one says does not begin anything.
func TestRestored(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	r.say(feed.Reach{All: true, Whole: true}, func(s *told) {
		two(s)
		s.setRange("10.8.0.0/24", "west")
		s.addresses[prefix("10.8.0.5/32")] = &endpoint.Owner{Cluster: "west", Identity: 131400, HostIP: netip.MustParseAddr("192.0.2.21")}
	})
	before := r.kernel.text()
	r.stop()

	older := newTold()
	two(older)
	r = newRig(t, older, r.kernel)
	r.mesh.Watch(feed.Reach{All: true}) // some kinds
	r.say(feed.Reach{All: true, Restored: true}, func(*told) {})
	for _, want := range []string{"10.8.0.0/24:2", "10.8.0.5:{"} {
		if got := r.kernel.text(); !strings.Contains(got, want) {
			t.Errorf("%q was taken away: %s, before %s", want, got, before)
		}
	}
	r.say(feed.Reach{Whole: true}, func(*told) {})
	r.want(twoText)
}

// TestFull: what an earlier process left goes also when what is new has no room
// beside it.
func TestFull(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	left := prefix("10.2.0.4/32")
	r.say(feed.Reach{All: true, Whole: true}, func(s *told) {
		two(s)
		s.addresses[left] = s.addresses[prefix("10.2.0.5/32")]
	})
	r.stop()

	r.kernel.room = len(r.kernel.addresses)
	now := newTold()
	two(now)
	now.addresses[prefix("10.2.0.6/32")] = now.addresses[prefix("10.2.0.5/32")]
	r = newRig(t, now, r.kernel)
	r.say(feed.Reach{All: true, Whole: true}, func(*told) {})
	r.kernel.mu.Lock()
	defer r.kernel.mu.Unlock()
	if _, there := r.kernel.addresses[left.Addr()]; there || len(r.kernel.addresses) != 3 {
		t.Errorf("addresses %v", r.kernel.addresses)
	}
}

// TestPartOfTheState: what a server tells of some kinds alone does not begin anything.
func TestPartOfTheState(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	r.mesh.Watch(feed.Reach{All: true, Nodes: true})
	if n, ok := r.mesh.take(); ok {
		t.Errorf("begins with %+v", n)
	}
	r.say(feed.Reach{Whole: true}, two)
	r.want(twoText)
}

// TestRetries: what fails is tried again, as a whole, and told; what is wrong on the
// host is told without a change of the state.
func TestRetries(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	fail := func(err error) {
		r.kernel.mu.Lock()
		defer r.kernel.mu.Unlock()
		r.kernel.fail = err
	}
	fail(errors.New("no such kernel"))
	r.told.mu.Lock()
	two(r.told)
	r.told.mu.Unlock()
	r.mesh.Watch(feed.Reach{Revision: feed.Revision{Epoch: "b", N: 1}, All: true, Whole: true})
	if m := r.await(func(m feed.Mesh) bool { return m.Error != "" }); m.Revision != (feed.Revision{}) || !strings.Contains(m.Error, "no such kernel") {
		t.Errorf("reported %+v", m)
	}
	fail(nil)
	r.await(func(m feed.Mesh) bool { return m.Error == "" && m.Revision.N == 1 })
	r.want(twoText)

	fail(errors.New("map full"))
	gone := prefix("10.2.0.5/32")
	r.told.mu.Lock()
	delete(r.told.addresses, gone)
	r.told.mu.Unlock()
	r.mesh.Watch(feed.Reach{Revision: feed.Revision{Epoch: "b", N: 2}, Addresses: []netip.Prefix{gone}})
	r.await(func(m feed.Mesh) bool { return strings.Contains(m.Error, "map full") && m.Revision.N == 1 })
	fail(nil)
	r.await(func(m feed.Mesh) bool { return m.Error == "" && m.Revision.N == 2 })
	if _, there := r.kernel.addresses[gone.Addr()]; there {
		t.Errorf("%s is still there", gone)
	}

	r.kernel.mu.Lock()
	r.kernel.problems = []host.Problem{{What: "a route is in the way", Where: "10.2.0.0/24", Do: "remove it"}}
	r.kernel.mu.Unlock()
	r.await(func(m feed.Mesh) bool {
		return len(m.Problems) == 1 && m.Problems[0] == "10.2.0.0/24: a route is in the way: remove it"
	})
}

// TestSettle: who waits goes on when the routes are there, or cannot be, and does not
// wait before anything is known.
func TestSettle(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	settle := func() time.Duration {
		start := time.Now()
		r.mesh.Settle(t.Context(), 60*time.Second)
		return time.Since(start)
	}
	r.mesh.Watch(feed.Reach{Nodes: true})
	settle()
	r.say(feed.Reach{All: true, Whole: true}, two)
	for i := range 20 {
		added := fmt.Sprintf("10.2.%d.0/24", 100+i)
		r.told.mu.Lock()
		r.told.setRange(added, "west")
		r.told.mu.Unlock()
		r.mesh.Watch(feed.Reach{Ranges: []netip.Prefix{prefix(added)}})
		if took := settle(); took > 30*time.Second || !strings.Contains(r.kernel.text(), added) {
			t.Errorf("after %v there is no route to %s", took, added)
		}
	}
	r.kernel.mu.Lock()
	r.kernel.fail = errors.New("map full")
	r.kernel.mu.Unlock()
	r.mesh.Watch(feed.Reach{Nodes: true})
	if took := settle(); took > 30*time.Second {
		t.Errorf("waited %v for what cannot be", took)
	}
}

// TestNothingNew: a revision of which nothing concerns the node costs no write.
func TestNothingNew(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	r.say(feed.Reach{All: true, Whole: true}, two)
	start := time.Now()
	for range 100 {
		r.say(feed.Reach{}, func(*told) {})
	}
	t.Logf("100 revisions in %v", time.Since(start))
	if n := r.kernel.applies; n > 110 {
		t.Errorf("%d writes", n)
	}
}

func TestProblemsOfNodes(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	m := r.say(feed.Reach{All: true, Whole: true}, func(s *told) {
		two(s)
		s.setNode(machine("west", "w1", 2, "192.0.2.11", "10.200.2.1")) // our own
		s.setNode(machine("west", "w2", 2, "10.200.1.1", ""))
		s.setNode(machine("west", "w3", 2, "10.1.0.5", ""))
	})
	for i, want := range []string{
		"node w1 of west has this node's own address 192.0.2.11", "node w2 of west has this node's own address 10.200.1.1",
		"node w3 of west has an address of our pods, 10.1.0.5",
	} {
		if len(m.Problems) != 3 || !strings.Contains(m.Problems[i], want) {
			t.Errorf("problems %q, want %q", m.Problems, want)
		}
	}
	for key, n := range r.kernel.nodes {
		if len(n.Underlay) != 0 {
			t.Errorf("tunnels to %v lead to %v", key, n.Underlay)
		}
	}
}

// TestAddress: what cannot be said in a tunnel, or is not its cluster's to have, is
// left out.
func TestAddress(t *testing.T) {
	s := newTold()
	two(s)
	k := newKnown("east", "e1")
	k.nodes, k.peers, k.ranges = []*node.Node{s.nodes[node.Key{Cluster: "east", Name: "e1"}]}, s.peers, s.ranges
	k.sort()
	self, size := k.self()
	if self == nil || size != cluster.Size255 {
		t.Fatalf("self %v, size %d", self, size)
	}
	for text, test := range map[string]struct {
		owner *endpoint.Owner
		want  bool
	}{
		"10.2.0.7/32":  {&endpoint.Owner{Cluster: "west", Identity: 131400}, true},
		"10.2.0.8/32":  {&endpoint.Owner{Cluster: "west", Identity: 0}, false},
		"10.2.0.9/32":  {&endpoint.Owner{Cluster: "west", Identity: 1 << 24}, false},
		"10.2.0.11/32": {&endpoint.Owner{Cluster: "west", Identity: 65800}, false}, // east's
		"10.2.0.12/32": {&endpoint.Owner{Cluster: "west", Identity: 1}, false},     // host
		"10.2.0.13/32": {&endpoint.Owner{Cluster: "west", Identity: 3}, true},      // unmanaged
		"10.2.0.10/32": {&endpoint.Owner{Cluster: "north", Identity: 131400}, false},
		"10.1.0.10/32": {&endpoint.Owner{Cluster: "west", Identity: 131400}, false},
		"10.2.0.0/30":  {&endpoint.Owner{Cluster: "west", Identity: 131400}, false},
		"127.0.0.1/32": {&endpoint.Owner{Cluster: "west", Identity: 131400}, false},
		"10.1.0.11/32": {&endpoint.Owner{Cluster: "east", Identity: 65800}, true},
		"10.1.0.12/32": {nil, false},
	} {
		a, ok := k.address(prefix(text), test.owner, self)
		if ok != test.want || ok && (a.Addr != prefix(text).Addr() || a.Identity != test.owner.Identity) {
			t.Errorf("%s: %+v, %t", text, a, ok)
		}
	}
}

// The real ones are what this package asks for.
var (
	_ Packets = (*packet.Plane)(nil)
	_ Host    = (*host.Host)(nil)
	_ Network = (*Kernel)(nil)
	_ State   = (*feed.State)(nil)
)
