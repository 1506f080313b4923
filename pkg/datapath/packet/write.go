package packet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// intern returns the addresses that are to be written, with their words: those
// that are there already are left out.
func (p *Plane) intern(addresses []Address) (come []ip, words []word, err error) {
	var errs faults
	for _, a := range addresses {
		if err := a.validate(); err != nil {
			errs.add(err)
			continue
		}
		key, index := ipOf(a.Addr), uint32(0)
		if a.Addr == a.Host {
			errs.add(p.dropAddresses([]netip.Addr{a.Addr}))
			continue
		}
		if a.Host.IsValid() {
			h, err := p.hosts.intern(a.Host)
			if err != nil {
				errs.add(fmt.Errorf("address %v: %w", a.Addr, err))
				continue
			}
			if !h.known {
				p.staleHosts[ipOf(a.Host)] = true
			}
			index = h.index
		}
		w := newWord(a.Identity, a.Cluster, index)
		if p.isOwn(key) || p.staleAddresses[key] {
			p.setHidden(key, w) // writeStale has it
		} else if p.addresses[key] != w {
			come, words = append(come, key), append(words, w)
		}
	}
	return come, words, errs.join()
}

// setAddress notes what the maps have of an address; 0 is nothing.
func (p *Plane) setAddress(a ip, w word) {
	had := p.addresses[a]
	p.countWord(had, -1)
	p.countWord(w, 1)
	by := 1
	switch {
	case had == 0 && w == 0, had != 0 && w != 0:
		by = 0
	case w == 0:
		by = -1
	}
	if a.is4() {
		p.counts.v4 += by
	} else {
		p.counts.v6 += by
	}
	if w == 0 {
		delete(p.addresses, a)
	} else {
		p.addresses[a] = w
	}
}

// setHidden notes what is known of an address that a node has; 0 is nothing.
func (p *Plane) setHidden(a ip, w word) {
	p.countWord(p.hidden[a], -1)
	p.countWord(w, 1)
	if w == 0 {
		delete(p.hidden, a)
	} else {
		p.hidden[a] = w
	}
}

// countWord counts the addresses of a host.
func (p *Plane) countWord(w word, by int) {
	h := p.hosts.byIndex[w.host()]
	if h == nil {
		return
	}
	h.words += by
	if h.words == 0 {
		p.staleHosts[h.ip] = true
	}
}

// writeAddresses writes addresses. Those that have an element already take no
// room, so they are written first: a map that is full still follows them.
func (p *Plane) writeAddresses(come []ip, words []word) error {
	var errs []error
	for _, known := range []bool{true, false} {
		var v4, v6 []ip
		var keys4 []uint32
		var values4, values6 []bpf.MeshAddress
		for i, a := range come {
			if (p.addresses[a] != 0) != known {
				continue
			}
			value := encodeAddress(a, words[i])
			if a.is4() {
				v4, keys4, values4 = append(v4, a), append(keys4, a.v4()), append(values4, value)
			} else {
				v6, values6 = append(v6, a), append(values6, value)
			}
		}
		keys6 := make([]bpf.MeshAddressKey, len(v6))
		for i, a := range v6 {
			keys6[i].Address = a
		}
		n4, err4 := pin.Write(p.maps.v4, keys4, values4)
		n6, err6 := pin.Write(p.maps.v6, keys6, values6)
		for i, a := range v4[:n4] {
			p.setAddress(a, word(values4[i].Bits))
		}
		for i, a := range v6[:n6] {
			p.setAddress(a, word(values6[i].Bits))
		}
		if err4 != nil {
			errs = append(errs, fmt.Errorf("%d of %d IPv4 addresses: %w", len(v4)-n4, len(v4), err4))
		}
		if err6 != nil {
			errs = append(errs, fmt.Errorf("%d of %d IPv6 addresses: %w", len(v6)-n6, len(v6), err6))
		}
		if known { // what has just been written is not looked at again
			come, words = p.missing(come, words)
		}
	}
	return errors.Join(errs...)
}

// missing returns the addresses that have no element.
func (p *Plane) missing(come []ip, words []word) (without []ip, their []word) {
	for i, a := range come {
		if p.addresses[a] == 0 {
			without, their = append(without, a), append(their, words[i])
		}
	}
	return without, their
}

// dropAddresses takes addresses out; one that is not known is fine.
func (p *Plane) dropAddresses(gone []netip.Addr) error {
	var errs faults
	for _, a := range gone {
		key := ipOf(a)
		p.setHidden(key, 0)
		if !p.isOwn(key) {
			errs.add(p.deleteAddress(key))
		}
	}
	return errs.join()
}

func (p *Plane) deleteAddress(a ip) error {
	if _, ok := p.addresses[a]; !ok {
		return nil
	}
	var err error
	if a.is4() {
		err = p.maps.v4.Delete(a.v4())
	} else {
		err = p.maps.v6.Delete(bpf.MeshAddressKey{Address: a})
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete address %v: %w", a.addr(), err)
	}
	p.setAddress(a, 0)
	return nil
}

// writeStale brings the addresses up to date that became, or were, a node's own.
func (p *Plane) writeStale() error {
	var errs faults
	for a := range p.staleAddresses {
		w, own := p.ownWord(a)
		if !own {
			w = p.hidden[a]
		}
		var err error
		switch {
		case w == 0:
			err = p.deleteAddress(a)
		case p.addresses[a] != w:
			err = p.writeAddresses([]ip{a}, []word{w})
		}
		if err != nil {
			errs.add(err)
			continue
		}
		if !own {
			p.setHidden(a, 0)
		}
		delete(p.staleAddresses, a)
	}
	return errs.join()
}

// writeHosts brings the hosts up to date that changed. What does not succeed is
// tried again.
func (p *Plane) writeHosts() error {
	var errs faults
	for key := range p.staleHosts {
		h := p.hosts.byIP[key]
		if h == nil { // damaged
			if err := pin.Delete(p.maps.host, []bpf.MeshAddressKey{{Address: key}}); err != nil {
				errs.add(fmt.Errorf("node at %v: %w", key.addr(), err))
				continue
			}
			delete(p.staleHosts, key)
			continue
		}
		if err := p.writeHost(h); err != nil {
			errs.add(fmt.Errorf("node at %v: %w", key.addr(), err))
			continue
		}
		if !h.isUnused() { // else it is about to be used, or freeHosts has it
			delete(p.staleHosts, key)
		}
	}
	return errs.join()
}

// writeHost writes what is known of one host. Its key comes last: who finds it
// after a restart knows that the index is its own.
func (p *Plane) writeHost(h *host) error {
	c, tunnel := p.peerAt(h)
	if h.stays && len(h.claims) == 0 {
		return nil // as it was, until the complete state is known
	}
	inNode := encodeNode(h.index, tunnel, c)
	if !h.known || h.inNode != inNode {
		if err := p.maps.node.Put(h.index, &inNode); err != nil {
			return fmt.Errorf("write to map of nodes: %w", err)
		}
		h.inNode = inNode
	}
	inHost := encodeHost(h.ip, h.index, c)
	if !h.known || h.inHost != inHost {
		if _, err := pin.Write(p.maps.host, []bpf.MeshAddressKey{{Address: h.ip}}, []bpf.MeshHost{inHost}); err != nil {
			return err
		}
		h.known, h.inHost = true, inHost
	}
	return nil
}

// peerAt returns the cluster of the peer whose node has a host, and by which
// address packets go there; 0 when nobody has it, or a node of our own.
func (p *Plane) peerAt(h *host) (cluster.ID, netip.Addr) {
	if len(h.claims) == 0 || p.self == nil {
		return 0, netip.Addr{}
	}
	n := p.nodes[h.claims[0]]
	if n.Cluster == p.self.ID {
		return 0, netip.Addr{}
	}
	return n.Cluster, tunnelTo(p.self, n)
}

// freeHosts deletes the hosts that nothing names any more, after all that did.
func (p *Plane) freeHosts() error {
	var errs faults
	for key := range p.staleHosts {
		h := p.hosts.byIP[key]
		if h == nil || !h.isUnused() {
			continue
		}
		if err := p.freeHost(h); err != nil {
			errs.add(fmt.Errorf("node at %v: %w", key.addr(), err))
			continue
		}
		delete(p.staleHosts, key)
	}
	return errs.join()
}

func (p *Plane) freeHost(h *host) error {
	if h.known {
		empty := encodeNode(h.index, netip.Addr{}, 0)
		if err := p.maps.node.Put(h.index, &empty); err != nil {
			return fmt.Errorf("write to map of nodes: %w", err)
		}
		if err := pin.Delete(p.maps.host, []bpf.MeshAddressKey{{Address: h.ip}}); err != nil {
			return err
		}
	}
	p.hosts.free(h)
	return nil
}

// writeSettings writes what this node is; that it is not known yet has a seal,
// too.
func (p *Plane) writeSettings() error {
	var indexes [2]uint32
	var v4, v6 netip.Addr
	var own cluster.ID
	if p.self != nil {
		own = p.self.ID
		v4, v6 = route.Family(p.self.Underlay, false), route.Family(p.self.Underlay, true)
	} else if p.settings != (bpf.MeshSettings{}) {
		return nil // as the process before this one knew it
	}
	for i, a := range []netip.Addr{v4, v6} {
		if a.IsValid() {
			if h := p.hosts.byIP[ipOf(a)]; h != nil {
				indexes[i] = h.index
			}
		}
	}
	value := encodeSettings(indexes, v4, v6, p.localBits, own)
	if value == p.settings {
		return nil
	}
	if err := p.maps.settings.Put(uint32(0), &value); err != nil {
		return fmt.Errorf("write to map of settings: %w", err)
	}
	p.settings = value
	return nil
}

// writeRanges writes the ranges that differ.
func (p *Plane) writeRanges(ranges []Range) error {
	var errs faults
	var come []Range
	var keys []bpf.MeshRangeKey
	var values []bpf.MeshRange
	for _, r := range ranges {
		if err := r.validate(); err != nil {
			errs.add(err)
			continue
		}
		if p.ranges[r.Prefix] == r.Cluster {
			continue
		}
		come = append(come, r)
		keys, values = append(keys, encodeRange(r.Prefix)), append(values, bpf.MeshRange{Cluster: uint32(r.Cluster)})
	}
	n, err := pin.Write(p.maps.ranges, keys, values)
	for _, r := range come[:n] {
		p.ranges[r.Prefix] = r.Cluster
	}
	if err != nil {
		errs.add(fmt.Errorf("%d of %d ranges: %w", len(come)-n, len(come), err))
	}
	return errs.join()
}

// dropRanges takes ranges out; one that is not known is fine.
func (p *Plane) dropRanges(gone []netip.Prefix) error {
	for _, r := range gone {
		if _, ok := p.ranges[r]; !ok {
			continue
		}
		if err := pin.Delete(p.maps.ranges, []bpf.MeshRangeKey{encodeRange(r)}); err != nil {
			return fmt.Errorf("range %v: %w", r, err)
		}
		delete(p.ranges, r)
	}
	return nil
}
