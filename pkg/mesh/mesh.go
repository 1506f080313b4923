// Package mesh makes a node carry packets between clusters as the feed says. It
// reads from the state of the feed which nodes, ranges and addresses there are,
// works out what this node's part is, and tries until the programs and the host's
// network do it:
//
//   - Nothing is changed before the feed has said all there is, or what it had
//     said before this process began; nothing that an earlier process left is
//     taken away before an API server has said that it is gone.
//   - A node without a mesh address takes no part: nothing is made on it, and what
//     was made goes.
//   - What is in effect when the process ends stays.
package mesh

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// State is what the feed has said; a feed.State.
type State interface {
	Nodes() ([]*node.Node, map[string]*route.Peer, error)
	Ranges() (map[netip.Prefix]*route.Range, error)
	Range(netip.Prefix) (*route.Range, error)
	Owner(netip.Prefix) (*endpoint.Owner, error)
	Identity(identity.Number) (*identity.Identity, error)
	Owners(func(map[netip.Prefix]*endpoint.Owner) error) error
}

// Packets are the programs; a packet.Plane. All may be repeated.
type Packets interface {
	Apply(packet.Change) error
	Prune(packet.Keep) error
}

// Host is the network around them; a host.Host. All may be repeated.
type Host interface {
	Apply(host.Desired) error
	Problems() []host.Problem
}

// Network is what carries packets on this node.
type Network interface {
	// Open takes over what there is, or makes it. It is called again after Remove.
	Open(ctx context.Context) (Packets, Host, error)
	// Remove takes away all that was ever made. It may be repeated.
	Remove() error
	// Close gives up what Open took; what is in the kernel stays.
	Close() error
}

// Config is what New needs.
type Config struct {
	State   State
	Network Network
	// Cluster and Node are where this agent runs.
	Cluster, Node string
	// Port is the UDP port of tunnels.
	Port uint16
	// Report, if not nil, is told how far the node is whenever that changes. It
	// must not block.
	Report func(feed.Mesh)
	// Neighbours, if not nil, is told which nodes of peers there are whenever that
	// may have changed; nil when this node takes no part. It must not block.
	Neighbours func(*probe.Neighbours)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Mesh is a node's part in the routing between clusters.
type Mesh struct {
	config  Config
	metrics *metrics
	wake    chan struct{}

	urgent chan struct{} // somebody waits in Settle

	mu   sync.Mutex
	news news
	// heard counts what may change routes, looked up to which of it a pass came.
	heard, looked uint64
	moved         chan struct{} // closed and replaced when looked changes

	// Run's own.
	known    known
	packets  Packets // nil while it takes no part
	host     Host
	pruned   bool
	removed  bool          // what earlier processes left is gone
	effect   feed.Revision // the newest in effect
	pods     []netip.Addr  // that Neighbours was told of
	reported *feed.Mesh
	retry    retry.Backoff
	logged   string // the error that was logged last
}

// news is what was heard and not looked at yet.
type news struct {
	revision     feed.Revision
	heard        uint64
	begun, whole bool
	all, nodes   bool
	every        bool // addresses
	ranges       map[netip.Prefix]struct{}
	addresses    map[netip.Prefix]struct{}
}

func newNews() news {
	return news{ranges: map[netip.Prefix]struct{}{}, addresses: map[netip.Prefix]struct{}{}}
}

// New returns a Mesh that has nothing to do yet.
func New(c Config) *Mesh {
	return &Mesh{
		config: c, metrics: newMetrics(c.Registerer), wake: make(chan struct{}, 1), urgent: make(chan struct{}, 1), moved: make(chan struct{}), news: newNews(), known: newKnown(c.Cluster, c.Node),
		retry: retry.Backoff{First: 100 * time.Millisecond, Limit: 30 * time.Second},
	}
}

// Watch is told what changed in the State; it never blocks.
func (m *Mesh) Watch(r feed.Reach) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := &m.news
	n.revision = r.Revision
	if r.Restored || r.Whole {
		n.all = n.all || !n.begun
		n.begun = true
	}
	n.whole = n.whole || r.Whole
	n.all, n.nodes = n.all || r.All, n.nodes || r.Nodes
	if r.All || r.Nodes || len(r.Ranges) > 0 {
		m.heard++
	}
	for _, p := range r.Ranges {
		n.ranges[p] = struct{}{}
	}
	for _, p := range r.Addresses {
		n.addresses[p] = struct{}{}
	}
	poke(m.wake)
}

// Settle waits until what Watch was told of nodes and ranges has been put in effect,
// or could not be, but no longer than limit: who leads connections to pods of a node
// that is new waits until packets get there. It does not wait for anything before
// the first complete state.
func (m *Mesh) Settle(ctx context.Context, limit time.Duration) {
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	m.mu.Lock()
	want := m.heard
	m.mu.Unlock()
	for {
		m.mu.Lock()
		done, moved := !m.news.begun || m.looked >= want, m.moved
		m.mu.Unlock()
		if done {
			return
		}
		poke(m.urgent)
		select {
		case <-moved:
		case <-timeout.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// settled says that a pass came up to what was heard.
func (m *Mesh) settled(heard uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.looked = max(m.looked, heard)
	close(m.moved)
	m.moved = make(chan struct{})
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take returns what was heard since the last call; false before there is enough
// to begin with.
func (m *Mesh) take() (news, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.news.begun {
		return news{}, false
	}
	n := m.news
	n.heard = m.heard
	m.news = newNews()
	m.news.begun, m.news.whole, m.news.revision = true, n.whole, n.revision
	return n, true
}

// restore keeps for the next pass what this one could not put in effect.
func (m *Mesh) restore(n news) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.news.all, m.news.nodes, m.news.every = m.news.all || n.all, m.news.nodes || n.nodes, m.news.every || n.every
	for p := range n.ranges {
		m.news.ranges[p] = struct{}{}
	}
	for p := range n.addresses {
		m.news.addresses[p] = struct{}{}
	}
}

// restFactor is how much longer than a pass the loop rests after it, restLimit how
// long at most: what changes meanwhile is put in effect together. With a few
// thousand ranges a pass takes less than a millisecond; a peer with 100,000 pods
// outside of its nodes' ranges, which come and go all the time, costs a fifth of a
// CPU.
const (
	restFactor = 4
	restLimit  = 5 * time.Second
)

// lookInterval is how often the host's problems are looked at.
const lookInterval = 2 * time.Second

// Run puts in effect what Watch is told, and tries again what failed, until ctx is
// done. What is in effect then stays. It returns nil.
func (m *Mesh) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	timer.Stop()
	rested := time.NewTimer(0)
	rested.Stop()
	defer rested.Stop()
	wake := m.wake
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	defer func() {
		if err := m.config.Network.Close(); err != nil {
			m.config.Logger.Warn("the network between clusters is not given up in order", "error", err)
		}
	}()
	for {
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-look.C:
			m.report(m.logged)
			continue
		case <-rested.C:
			wake = m.wake
			continue
		case <-wake:
		case <-m.urgent:
		case <-timer.C:
		}
		start := time.Now()
		if delay := m.reconcile(ctx); delay > 0 {
			timer.Reset(delay)
		} else {
			timer.Stop()
		}
		wake = nil
		rested.Reset(min(restFactor*time.Since(start), restLimit))
	}
}
