package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told is what the feed has said.
type told struct {
	mu        sync.Mutex
	nodes     map[node.Key]*node.Node
	peers     map[string]*route.Peer
	ranges    map[netip.Prefix]*route.Range
	addresses map[netip.Prefix]*endpoint.Owner
	labels    map[identity.Number]identity.Labels
}

func newTold() *told {
	return &told{
		nodes: map[node.Key]*node.Node{}, peers: map[string]*route.Peer{},
		ranges: map[netip.Prefix]*route.Range{}, addresses: map[netip.Prefix]*endpoint.Owner{},
		labels: map[identity.Number]identity.Labels{},
	}
}

func (s *told) Nodes() (nodes []*node.Node, peers map[string]*route.Peer, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		nodes = append(nodes, n)
	}
	return nodes, maps.Clone(s.peers), nil
}

func (s *told) Ranges() (map[netip.Prefix]*route.Range, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ranges), nil
}

func (s *told) Range(p netip.Prefix) (*route.Range, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ranges[p], nil
}

func (s *told) Owner(p netip.Prefix) (*endpoint.Owner, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addresses[p], nil
}

func (s *told) Identity(n identity.Number) (*identity.Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if labels, ok := s.labels[n]; ok {
		return &identity.Identity{Number: n, Labels: labels}, nil
	}
	return nil, nil
}

func (s *told) Owners(fn func(map[netip.Prefix]*endpoint.Owner) error) error {
	s.mu.Lock()
	all := maps.Clone(s.addresses)
	s.mu.Unlock()
	return fn(all)
}

// kernel is a machine that keeps what it is given, also from one opening to the
// next, as the kernel does.
type kernel struct {
	mu        sync.Mutex
	open      bool
	self      *route.Self
	nodes     map[node.Key]packet.Node
	ranges    map[netip.Prefix]cluster.ID
	addresses map[netip.Addr]packet.Address
	network   *host.Desired // nil where there is none
	problems  []host.Problem
	// room is how many addresses fit, 0 for any number.
	room int
	// fail, if not nil, is what the next calls return.
	fail                     error
	opens, applies, removals int
}

func newKernel() *kernel {
	k := &kernel{}
	k.wipe()
	return k
}

func (k *kernel) wipe() {
	k.self, k.network = nil, nil
	k.nodes, k.ranges, k.addresses = map[node.Key]packet.Node{}, map[netip.Prefix]cluster.ID{}, map[netip.Addr]packet.Address{}
}

func (k *kernel) Open(context.Context) (Packets, Host, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.opens++
	if k.fail != nil {
		return nil, nil, k.fail
	}
	k.open = true
	return programs{k}, network{k}, nil
}

func (k *kernel) Remove() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.removals++
	k.wipe()
	k.open = false
	return k.fail
}

func (k *kernel) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.open = false
	return nil
}

type programs struct{ k *kernel }

func (p programs) Apply(c packet.Change) error {
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	if p.k.fail != nil {
		return p.k.fail
	}
	if !p.k.open {
		return errors.New("used after it was given up")
	}
	p.k.applies++
	if c.Self != nil {
		p.k.self = c.Self
	}
	for _, key := range c.GoneNodes {
		delete(p.k.nodes, key)
	}
	for _, n := range c.Nodes {
		p.k.nodes[n.Key] = n
	}
	for _, r := range c.GoneRanges {
		delete(p.k.ranges, r)
	}
	for _, r := range c.Ranges {
		p.k.ranges[r.Prefix] = r.Cluster
	}
	for _, a := range c.GoneAddresses {
		delete(p.k.addresses, a)
	}
	for _, a := range c.Addresses {
		if _, there := p.k.addresses[a.Addr]; !there && p.k.room > 0 && len(p.k.addresses) == p.k.room {
			return packet.ErrFull
		}
		p.k.addresses[a.Addr] = a
	}
	return nil
}

func (p programs) Prune(keep packet.Keep) error {
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	maps.DeleteFunc(p.k.nodes, func(key node.Key, _ packet.Node) bool { return !keep.Node(key) })
	maps.DeleteFunc(p.k.ranges, func(r netip.Prefix, _ cluster.ID) bool { return !keep.Range(r) })
	maps.DeleteFunc(p.k.addresses, func(a netip.Addr, _ packet.Address) bool { return !keep.Address(a) })
	return p.k.fail
}

type network struct{ k *kernel }

func (n network) Apply(d host.Desired) error {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	if n.k.fail != nil {
		return n.k.fail
	}
	n.k.network = &d
	return nil
}

func (n network) Problems() []host.Problem {
	n.k.mu.Lock()
	defer n.k.mu.Unlock()
	return n.k.problems
}

// rig is a Mesh between a feed and a kernel.
type rig struct {
	t       *testing.T
	told    *told
	kernel  *kernel
	mesh    *Mesh
	reports chan feed.Mesh
	asked   atomic.Pointer[probe.Neighbours] // the last that was said of them
	n       uint64
	stop    func()
}

func newRig(t *testing.T, told *told, k *kernel) *rig {
	t.Helper()
	r := &rig{t: t, told: told, kernel: k, reports: make(chan feed.Mesh, 100)}
	r.mesh = New(Config{
		State: told, Network: k, Cluster: "east", Node: "e1", Port: 8473,
		Report: func(m feed.Mesh) { r.reports <- m }, Neighbours: r.asked.Store, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.mesh.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// say changes what the feed has said, tells of it, and waits until it is in effect.
func (r *rig) say(reach feed.Reach, change func(*told)) feed.Mesh {
	r.t.Helper()
	r.told.mu.Lock()
	change(r.told)
	r.told.mu.Unlock()
	r.n++
	reach.Revision = feed.Revision{Epoch: "a", N: r.n}
	r.mesh.Watch(reach)
	return r.await(func(m feed.Mesh) bool { return m.Revision == reach.Revision && m.Error == "" })
}

func (r *rig) await(ok func(feed.Mesh) bool) feed.Mesh {
	r.t.Helper()
	timeout := time.After(60 * time.Second)
	for {
		select {
		case m := <-r.reports:
			if ok(m) {
				return m
			}
		case <-timeout:
			r.t.Fatal("no such report")
		}
	}
}

// kernelText is what the machine does, for comparison.
func (k *kernel) text() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	text := fmt.Sprintf("ranges %v addresses %v", k.ranges, k.addresses)
	for _, key := range []string{"w1", "w2"} {
		if n, ok := k.nodes[node.Key{Cluster: "west", Name: key}]; ok {
			text += fmt.Sprintf(" node %s %d %v %v", key, n.Cluster, n.Underlay, n.Mesh)
		}
	}
	if k.network != nil {
		text += fmt.Sprintf(" network %v %v %v", k.network.Mesh, k.network.Routes, k.network.Nodes)
	}
	return text
}

func prefix(text string) netip.Prefix { return netip.MustParsePrefix(text) }

func machine(cluster, name string, id cluster.ID, underlay, mesh string) *node.Node {
	n := &node.Node{Cluster: cluster, Name: name, ClusterID: id}
	n.Addresses = append(n.Addresses, node.Address{Type: node.InternalIP, IP: netip.MustParseAddr(underlay)})
	if mesh != "" {
		n.Addresses = append(n.Addresses, node.Address{Type: node.CiliumInternalIP, IP: netip.MustParseAddr(mesh)})
	}
	return n
}

func (s *told) setNode(n *node.Node) { s.nodes[node.Key{Cluster: n.Cluster, Name: n.Name}] = n }

func (s *told) setRange(text, cluster string) {
	s.ranges[prefix(text)] = &route.Range{Prefix: prefix(text), Cluster: cluster}
}

// two is the state of two clusters.
func two(s *told) {
	s.setNode(machine("east", "e1", 1, "192.0.2.11", "10.200.1.1"))
	s.setNode(machine("west", "w1", 2, "192.0.2.21", "10.200.2.1"))
	s.peers["west"] = &route.Peer{Cluster: "west", ID: 2, Size: cluster.Size255, Mode: route.VXLAN}
	s.setRange("10.1.0.0/24", "east")
	s.setRange("10.2.0.0/24", "west")
	s.setRange("10.200.2.1/32", "west")
	host := netip.MustParseAddr("192.0.2.21")
	s.addresses[prefix("10.1.0.5/32")] = &endpoint.Owner{Cluster: "east", Identity: 65800, HostIP: netip.MustParseAddr("192.0.2.11")}
	s.addresses[prefix("10.2.0.5/32")] = &endpoint.Owner{Cluster: "west", Identity: 131400, HostIP: host}
	s.addresses[prefix("10.9.0.5/32")] = &endpoint.Owner{Cluster: "west", Identity: 131400, HostIP: host} // in no range of west's
}

const twoText = "ranges map[10.2.0.0/24:2 10.200.2.1/32:2] addresses map[10.1.0.5:{10.1.0.5 1 65800 192.0.2.11} 10.2.0.5:{10.2.0.5 2 131400 192.0.2.21}]" +
	" node w1 2 [192.0.2.21] [10.200.2.1] network [10.200.1.1] [{10.2.0.0/24 vxlan} {10.200.2.1/32 vxlan}] [192.0.2.21]"

func (r *rig) want(want string) {
	r.t.Helper()
	if got := r.kernel.text(); got != want {
		r.t.Errorf("got  %s\nwant %s", got, want)
	}
}
