package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// pieceSize is how many addresses the programs are given at once.
const pieceSize = 4096

// reconcile brings the node closer to what the feed says, and returns after how
// long to try again, 0 when all is in effect.
func (m *Mesh) reconcile(ctx context.Context) time.Duration {
	n, ok := m.take()
	if !ok {
		return 0
	}
	start := time.Now()
	err := m.pass(ctx, &n)
	m.metrics.duration.Observe(time.Since(start).Seconds())
	m.settled(n.heard)
	if err != nil {
		m.restore(n)
	} else {
		m.effect = n.revision
	}
	return m.schedule(err)
}

func (m *Mesh) pass(ctx context.Context, n *news) error {
	if err := m.read(n); err != nil {
		return err
	}
	self, size := m.known.self()
	if self == nil {
		return m.leave(n.whole)
	}
	if m.packets == nil {
		packets, host, err := m.config.Network.Open(ctx)
		if err != nil {
			return err
		}
		m.packets, m.host, m.pruned, m.removed = packets, host, false, false
		m.known.forget()
		n.all = true
	}
	nodes, problems := m.known.remote(self)
	m.known.problems = problems
	change := packet.Change{Self: self, Size: size}
	m.known.nodeChanges(nodes, &change)
	look := n.ranges
	if n.all || n.nodes {
		look = m.known.everyRange()
	}
	m.known.rangeChanges(look, &change)
	// What fails costs nothing else; all of it is tried again.
	applied := m.packets.Apply(change)
	if applied == nil {
		m.known.done(change)
	}
	addresses := m.addresses(n, self)
	err := errors.Join(applied, addresses, m.host.Apply(m.known.desired(self, m.config.Port)))
	m.tell(n, self)
	// What earlier agents left may be what takes the room.
	if err == nil || applied == nil && errors.Is(addresses, packet.ErrFull) {
		err = errors.Join(err, m.prune(n.whole, self))
	}
	return err
}

// read brings known up to date.
func (m *Mesh) read(n *news) error {
	k := &m.known
	if n.all || n.nodes {
		nodes, peers, err := m.config.State.Nodes()
		if err != nil {
			return fmt.Errorf("read the nodes: %w", err)
		}
		maps.DeleteFunc(peers, func(_ string, p *route.Peer) bool { return p.Validate() != nil })
		// Who has another number has other addresses for the programs.
		n.all = n.all || !sameIDs(k.peers, peers)
		k.nodes, k.peers = nodes, peers
	}
	if n.all {
		ranges, err := m.config.State.Ranges()
		if err != nil {
			return fmt.Errorf("read the ranges: %w", err)
		}
		k.ranges = ranges
		k.sort()
		return nil
	}
	if len(n.ranges) == 0 {
		return nil
	}
	for p := range n.ranges {
		r, err := m.config.State.Range(p)
		if err != nil {
			return fmt.Errorf("read range %s: %w", p, err)
		}
		if r == nil {
			delete(k.ranges, p)
		} else {
			k.ranges[p] = r
		}
		// The addresses in a range are somebody's only as long as it is.
		if p.IsSingleIP() {
			n.addresses[p] = struct{}{}
		} else {
			n.every = true
		}
	}
	k.sort()
	return nil
}

func sameIDs(a, b map[string]*route.Peer) bool {
	if len(a) != len(b) {
		return false
	}
	for name, p := range a {
		if q := b[name]; q == nil || p.ID != q.ID {
			return false
		}
	}
	return true
}

// leave takes away what was made for a node that takes no part, once an API
// server has said so.
func (m *Mesh) leave(whole bool) error {
	if !whole || m.removed {
		return nil
	}
	m.packets, m.host = nil, nil
	if m.config.Neighbours != nil {
		m.config.Neighbours(nil)
	}
	if err := m.config.Network.Remove(); err != nil {
		return fmt.Errorf("take away what carried packets between clusters: %w", err)
	}
	m.removed = true
	m.known.forget()
	return nil
}

// addresses gives the programs the addresses that may be different, a piece at a
// time. What failed is in n, and costs the other pieces nothing; the error is that
// of the first one.
func (m *Mesh) addresses(n *news, self *route.Self) error {
	var failed error
	give := func(some map[netip.Prefix]*endpoint.Owner) {
		if err := m.give(some, self); failed == nil {
			failed = err
		}
	}
	if n.all || n.every {
		err := m.config.State.Owners(func(some map[netip.Prefix]*endpoint.Owner) error {
			give(some)
			return nil
		})
		if err != nil {
			return fmt.Errorf("read the addresses: %w", err)
		}
	}
	some := map[netip.Prefix]*endpoint.Owner{}
	for p := range n.addresses {
		owner, err := m.config.State.Owner(p)
		if err != nil {
			return fmt.Errorf("read address %s: %w", p, err)
		}
		some[p] = owner
		if len(some) == pieceSize {
			give(some)
			some = map[netip.Prefix]*endpoint.Owner{}
		}
	}
	give(some)
	return failed
}

func (m *Mesh) give(some map[netip.Prefix]*endpoint.Owner, self *route.Self) error {
	if len(some) == 0 {
		return nil
	}
	var c packet.Change
	label := labels{state: m.config.State, known: map[identity.Number]bool{}}
	for p, owner := range some {
		if a, ok := m.known.address(p, owner, self); ok {
			c.Addresses = append(c.Addresses, a)
			m.known.here(a, self)
			m.known.probe(a.Addr, owner, label.probe(a.Identity))
		} else if p.IsSingleIP() {
			c.GoneAddresses = append(c.GoneAddresses, p.Addr())
			delete(m.known.local, p.Addr())
			m.known.probe(p.Addr(), nil, false)
		}
	}
	return errors.Join(label.failed, m.packets.Apply(c))
}

// prune deletes, once, what the programs have from earlier times and nobody wants.
func (m *Mesh) prune(whole bool, self *route.Self) error {
	if m.pruned || !whole {
		return nil
	}
	var failed error
	err := m.packets.Prune(packet.Keep{
		Node:  func(key node.Key) bool { _, ok := m.known.given[key]; return ok },
		Range: func(p netip.Prefix) bool { _, ok := m.known.placed[p]; return ok },
		Address: func(a netip.Addr) bool {
			p := netip.PrefixFrom(a, a.BitLen())
			owner, err := m.config.State.Owner(p)
			failed = errors.Join(failed, err)
			_, ok := m.known.address(p, owner, self)
			return ok || err != nil
		},
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("delete what earlier agents left: %w", err)
	}
	m.pruned = true
	return nil
}

// schedule reports how far the node is, logs what changed about that, and returns
// the next delay.
func (m *Mesh) schedule(err error) time.Duration {
	was := m.logged
	m.logged = ""
	delay := time.Duration(0)
	if err != nil {
		m.logged = err.Error()
		delay = m.retry.Next()
	} else {
		m.retry.Reset()
	}
	switch {
	case was == m.logged:
	case err == nil:
		m.config.Logger.Info("packets between clusters are carried as the API server says again")
	default:
		m.config.Logger.Warn("packets between clusters are not carried as the API server says", "error", err, "attempt", m.retry.Attempts(), "delay", delay)
	}
	m.report(m.logged)
	return delay
}

// report tells how far the node is, when that is news.
func (m *Mesh) report(failure string) {
	now := feed.Mesh{Revision: m.effect, Error: failure}
	if m.packets != nil {
		if self, _ := m.known.self(); self != nil {
			now.Addresses = self.Mesh
		}
		peers := map[cluster.ID]bool{}
		for _, id := range m.known.placed {
			peers[id] = true
		}
		now.Peers, now.Ranges = len(peers), len(m.known.placed)
		now.Problems = m.known.problems
		for _, p := range m.host.Problems() {
			now.Problems = append(slices.Clip(now.Problems), fmt.Sprintf("%s: %s: %s", p.Where, p.What, p.Do))
		}
	}
	if m.reported != nil && equalReport(*m.reported, now) {
		return
	}
	m.reported = &now
	m.metrics.set(now)
	if m.config.Report != nil {
		m.config.Report(now)
	}
}

func equalReport(a, b feed.Mesh) bool {
	return a.Revision == b.Revision && a.Error == b.Error && a.Peers == b.Peers && a.Ranges == b.Ranges && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Problems, b.Problems)
}
