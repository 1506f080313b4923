package publish

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/causeway-mesh/causeway/pkg/node"
)

// mesh gives each node an address a family out of ranges that the cluster has for
// that, its mesh address: what the node's own packets to other clusters come from.
// take, sync and end belong to one goroutine, problems to any. nil is that of a
// cluster without ranges: its nodes have none.
type mesh struct {
	ranges    []netip.Prefix
	allocator *allocator[netip.Addr, meshHolder]
	// nodes are those that are to have addresses, pending the ones that wait.
	nodes   set[string]
	pending set[meshHolder]
	starved set[meshHolder]
	// changed are nodes of which it is not told yet which addresses they have.
	changed set[string]
	// settled says that the claims of earlier runs have been held against a
	// whole listing of the source once.
	settled bool

	mu      sync.Mutex
	last    error // why some have none
	unsaved error // why the file is behind
}

func newMesh(cfg Config, wake func()) *mesh {
	if len(cfg.MeshRanges) == 0 {
		return nil
	}
	return &mesh{
		ranges: cfg.MeshRanges, allocator: newAllocator(cfg, meshSpace(cfg.MeshRanges), cfg.MeshFile, wake),
		nodes: set[string]{}, pending: set[meshHolder]{}, starved: set[meshHolder]{}, changed: set[string]{},
	}
}

// take returns which nodes came (true) and went since the last call. The caller
// holds the index's lock.
func (m *mesh) take(x *index) map[string]bool {
	if m == nil {
		x.dirty.hosts = set[string]{}
		return nil
	}
	found := make(map[string]bool, len(x.dirty.hosts))
	for name := range x.dirty.hosts {
		found[name] = x.nodes[name] != nil
	}
	x.dirty.hosts = set[string]{}
	return found
}

// sync gives new nodes their addresses and frees those of nodes that went. An
// error means that some wait; they are kept. listed says that the source has
// listed everything, so that an address without a node is free.
func (m *mesh) sync(ctx context.Context, found map[string]bool, listed bool) error {
	for name, there := range found {
		m.changed.add(name)
		if there {
			m.nodes.add(name)
		} else {
			delete(m.nodes, name)
		}
		for _, p := range m.ranges {
			h := meshHolder{name, p.Addr().Is6()}
			delete(m.starved, h)
			delete(m.pending, h)
			if there {
				m.pending.add(h)
			} else if a, ok := m.allocator.numbers[h]; ok && m.settled {
				m.allocator.free(a)
			}
		}
	}
	err := m.assign(ctx, listed)
	for a := range m.allocator.moved {
		if n := m.allocator.claims[a].Holder.node; n != "" {
			m.changed.add(n)
		}
	}
	clear(m.allocator.moved)
	m.report(err)
	if errors.Is(err, errMeshFull) {
		return nil // waiting helps nothing: sweep tries again
	}
	return err
}

// assign gives what waits its addresses, and frees those of nodes that are gone.
func (m *mesh) assign(ctx context.Context, listed bool) error {
	began, err := m.allocator.turn(ctx)
	if err != nil {
		return err
	}
	if began {
		m.settled = false
		for h, a := range m.allocator.numbers {
			if _, ok := m.nodes[h.node]; ok {
				m.allocator.revive(a) // the node came back when nobody wrote
			}
		}
	}
	wanted := make([]meshHolder, 0, len(m.pending))
	for h := range m.pending {
		wanted = append(wanted, h)
	}
	got, err := m.allocator.assign(ctx, wanted)
	for _, h := range wanted {
		if _, ok := got[h]; ok {
			delete(m.pending, h)
			m.changed.add(h.node)
		} else if errors.Is(err, errMeshFull) {
			m.starved.add(h)
			delete(m.pending, h)
		}
	}
	if err != nil {
		return err
	}
	if listed && !m.settled {
		m.settled = true
		for a, c := range m.allocator.claims {
			if _, ok := m.nodes[c.Holder.node]; !ok {
				m.allocator.free(a)
			}
		}
	}
	if len(m.starved) > 0 {
		return errMeshFull
	}
	return nil
}

// known returns, once, the addresses of the nodes that have others than before, or
// are new, IPv4 first; a node without one is there with none.
func (m *mesh) known() map[string][]netip.Addr {
	out := make(map[string][]netip.Addr, len(m.changed))
	for name := range m.changed {
		out[name] = nil
		if _, ok := m.nodes[name]; !ok {
			continue
		}
		for _, v6 := range []bool{false, true} {
			if a, ok := m.allocator.numbers[meshHolder{name, v6}]; ok && m.allocator.claims[a].stored {
				out[name] = append(out[name], a)
			}
		}
	}
	clear(m.changed)
	return out
}

// sweep ends the rest of addresses whose time is over. Nodes that got none try
// again the next time: etcd has forgotten them by then.
func (m *mesh) sweep() {
	if m == nil {
		return
	}
	if m.allocator.sweep() > 0 {
		return
	}
	for h := range m.starved {
		m.pending.add(h)
	}
	clear(m.starved)
}

// save brings the file up to date.
func (m *mesh) save() {
	if m == nil {
		return
	}
	err := m.allocator.save()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unsaved = err
}

// end stops what the allocator runs.
func (m *mesh) end() {
	if m == nil {
		return
	}
	m.allocator.stop()
	m.save()
}

func (m *mesh) report(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = err
}

// problems says why nodes lack addresses, and that they are not saved.
func (m *mesh) problems() []string {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, err := range []error{m.last, m.unsaved} {
		if err != nil {
			out = append(out, "mesh addresses: "+err.Error())
		}
	}
	return out
}

// conflict returns what is wrong with a node in a cluster with these ranges.
func (m *mesh) conflict(n *node.Node) error {
	if m == nil {
		return nil
	}
	for _, r := range m.ranges {
		for _, p := range n.PodCIDRs {
			if r.Overlaps(p) {
				return fmt.Errorf("its range for pods, %s, overlaps --mesh-cidr %s: %w", p, r, errMeshOverlap)
			}
		}
		for _, a := range n.Addresses {
			if r.Contains(a.IP) {
				return fmt.Errorf("its address %s is in --mesh-cidr %s: %w", a.IP, r, errMeshOverlap)
			}
		}
	}
	return nil
}

// joined returns a node with its mesh addresses, unless it must not have them.
// There is no telling a node apart from one that will have addresses soon before
// the first pass over all of them: ok is false then.
func (m *mesh) joined(n *node.Node, x *index) (out *node.Node, ok bool, err error) {
	if m == nil {
		return n, true, nil
	}
	if !x.meshed {
		return n, false, nil
	}
	if err := m.conflict(n); err != nil {
		return n, true, err
	}
	for _, a := range x.mesh[n.Name] {
		n.Addresses = append(n.Addresses, node.Address{Type: node.CiliumInternalIP, IP: a})
	}
	return n, true, nil
}

// meshNodes notes which addresses nodes have, and marks those of which that is new.
func (x *index) meshNodes(known map[string][]netip.Addr) {
	first := !x.meshed
	x.meshed = true
	for name, addrs := range known {
		if x.nodes[name] == nil {
			delete(x.mesh, name)
			continue
		}
		if slices.Equal(x.mesh[name], addrs) && !first {
			continue
		}
		x.mesh[name] = addrs
		x.dirty.nodes.add(name)
	}
	if first {
		for name := range x.nodes {
			x.dirty.nodes.add(name)
		}
	}
}

// host notes that a node came or went.
func (x *index) host(n *corev1.Node, deleted bool) {
	if (x.nodes[n.Name] == nil) != deleted {
		x.dirty.hosts.add(n.Name)
	}
}
