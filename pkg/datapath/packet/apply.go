package packet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// Apply puts a change in effect. What of it cannot be, is named in the error and
// costs nothing else of it; ErrFull, ErrValue, route.ErrAddress and
// route.ErrPrefix say why. The caller may repeat it, also when nothing changed:
// nodes and this node itself that could not be written are tried again then.
func (p *Plane) Apply(c Change) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, key := range c.GoneNodes {
		if !p.isSelf(key) {
			p.forget(key, Node{})
		}
	}
	errs = append(errs, p.dropRanges(c.GoneRanges), p.dropAddresses(c.GoneAddresses))
	if c.Self != nil {
		errs = append(errs, p.setSelf(c.Self, c.Size))
	}
	var nodes faults
	for _, n := range c.Nodes {
		if err := n.validate(); err != nil {
			nodes.add(err)
		} else if !p.isSelf(n.Key) { // this node knows itself best
			nodes.add(p.setNode(n.Key, n))
		}
	}
	come, words, err := p.intern(c.Addresses)
	// Nothing is referred to before it is there.
	errs = append(errs, nodes.join(), err, p.writeHosts(), p.writeSettings(), p.writeAddresses(come, words), p.writeStale(), p.writeRanges(c.Ranges))
	return errors.Join(append(errs, p.freeHosts())...)
}

// Prune deletes what keep does not want, and what earlier processes left behind.
// The caller has applied the complete state. If the programs still run on maps
// of another layout or capacity, they move to these now. The functions of keep
// must not call the Plane.
func (p *Plane) Prune(keep Keep) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for key := range p.nodes {
		if keep.Node != nil && !keep.Node(key) && !p.isSelf(key) {
			p.forget(key, Node{})
		}
	}
	for key, h := range p.hosts.byIP {
		if h.stays {
			h.stays = false
			p.staleHosts[key] = true
		}
	}
	if keep.Range != nil {
		var gone []netip.Prefix
		for r := range p.ranges {
			if !keep.Range(r) {
				gone = append(gone, r)
			}
		}
		errs = append(errs, p.dropRanges(gone))
	}
	if keep.Address != nil {
		errs = append(errs, p.pruneAddresses(keep.Address))
	}
	errs = append(errs, p.writeHosts(), p.writeSettings(), p.writeStale(), p.freeHosts())
	if p.pending {
		errs = append(errs, p.move())
	}
	return errors.Join(errs...)
}

func (p *Plane) pruneAddresses(keep func(netip.Addr) bool) error {
	var gone []netip.Addr
	for a := range p.addresses {
		if addr := a.addr(); !p.isOwn(a) && !keep(addr) {
			gone = append(gone, addr)
		}
	}
	for a := range p.hidden {
		if addr := a.addr(); !keep(addr) {
			gone = append(gone, addr)
		}
	}
	return p.dropAddresses(gone)
}

func (p *Plane) selfKey() node.Key { return node.Key{Cluster: p.self.Cluster, Name: p.self.Node} }

func (p *Plane) isSelf(key node.Key) bool { return p.self != nil && p.selfKey() == key }

// setSelf says which node this is.
func (p *Plane) setSelf(self *route.Self, size cluster.Size) error {
	if err := self.Validate(); err != nil {
		return err
	}
	bits := size.LocalBits()
	if p.self != nil && p.self.Equal(self) && p.localBits == bits {
		return nil
	}
	if p.self != nil {
		p.forget(p.selfKey(), Node{})
	}
	p.self, p.localBits = self, bits
	// What is its own it has before any other node that names it.
	p.forget(p.selfKey(), Node{})
	// Which family leads to a node, and who is a peer, depends on it.
	for key := range p.hosts.byIP {
		p.staleHosts[key] = true
	}
	return p.setNode(p.selfKey(), Node{Key: p.selfKey(), Cluster: self.ID, Underlay: self.Underlay, Mesh: self.Mesh})
}

// forget takes from a node what it has no longer.
func (p *Plane) forget(key node.Key, stays Node) {
	had := p.nodes[key]
	for _, a := range had.Underlay {
		if !slices.Contains(stays.Underlay, a) {
			p.release(key, ipOf(a))
		}
	}
	for _, a := range had.Mesh {
		if !slices.Contains(stays.Mesh, a) {
			p.releaseMesh(key, ipOf(a))
		}
	}
	delete(p.nodes, key)
}

// setNode notes what a node is.
func (p *Plane) setNode(key node.Key, n Node) error {
	if had, known := p.nodes[key]; known && had.equal(n) {
		return nil
	}
	interned := make([]*host, len(n.Underlay))
	for i, a := range n.Underlay {
		h, err := p.hosts.intern(a)
		if err != nil {
			return fmt.Errorf("node %s/%s: %w", key.Cluster, key.Name, err) // it stays as it was
		}
		interned[i] = h
		p.staleHosts[h.ip] = true
	}
	p.forget(key, n)
	p.nodes[key] = n
	for _, h := range interned {
		p.cover(h.ip)
		h.claim(key, p.isSelf(key))
	}
	for _, a := range n.Mesh {
		p.cover(ipOf(a))
		p.claimMesh(key, ipOf(a))
	}
	return nil
}

func (n Node) equal(other Node) bool {
	return n.Cluster == other.Cluster && slices.Equal(n.Underlay, other.Underlay) && slices.Equal(n.Mesh, other.Mesh)
}

// release takes an underlay address from a node.
func (p *Plane) release(key node.Key, a ip) {
	if h := p.hosts.byIP[a]; h != nil {
		h.release(key)
		p.staleHosts[a], p.staleAddresses[a] = true, true
	}
}

func (p *Plane) claimMesh(key node.Key, a ip) {
	switch {
	case slices.Contains(p.mesh[a], key):
	case p.isSelf(key):
		p.mesh[a] = slices.Insert(p.mesh[a], 0, key)
	default:
		p.mesh[a] = append(p.mesh[a], key)
	}
}

func (p *Plane) releaseMesh(key node.Key, a ip) {
	p.mesh[a] = slices.DeleteFunc(p.mesh[a], func(k node.Key) bool { return k == key })
	if len(p.mesh[a]) == 0 {
		delete(p.mesh, a)
	}
	p.staleAddresses[a] = true
}

// isOwn reports whether an address is a node's own, so that nothing else can be
// behind it.
func (p *Plane) isOwn(a ip) bool {
	h := p.hosts.byIP[a]
	return len(p.mesh[a]) > 0 || (h != nil && len(h.claims) > 0)
}

// cover has an address become a node's own: what was known of it is kept for
// when it is no longer.
func (p *Plane) cover(a ip) {
	if w, ok := p.addresses[a]; ok && !p.isOwn(a) && !p.staleAddresses[a] {
		p.setHidden(a, w)
	}
	p.staleAddresses[a] = true
}

// ownWord returns what the maps are to have of a node's own address: a mesh
// address is a remote node's, an underlay address nobody's, as packets of the
// mesh have no business with it.
func (p *Plane) ownWord(a ip) (word, bool) {
	if h := p.hosts.byIP[a]; h != nil && len(h.claims) > 0 {
		return 0, true
	}
	if len(p.mesh[a]) == 0 {
		return 0, false
	}
	n := p.nodes[p.mesh[a][0]]
	index := uint32(0)
	for _, u := range n.Underlay {
		if h := p.hosts.byIP[ipOf(u)]; h != nil && index == 0 {
			index = h.index
		}
	}
	return newWord(identity.RemoteNode, n.Cluster, index), true
}
