package packet

import (
	"fmt"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// damaged stands for a value whose seal is wrong: no address has such a word, so
// the next Apply writes it, or Prune deletes it.
const damaged = word(maxIdentity)

// adopt reads the maps back.
func (p *Plane) adopt() error {
	if err := pin.Read(p.maps.host, func(k bpf.MeshAddressKey, v bpf.MeshHost) {
		if v == encodeHost(k.Address, v.Index, cluster.ID(v.Cluster)) && v.Index != 0 && v.Index < p.hosts.limit && p.hosts.byIndex[v.Index] == nil {
			p.hosts.adopt(k.Address, v)
		} else {
			p.staleHosts[k.Address] = true
		}
	}); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	p.hosts.adopted()
	if err := pin.Read(p.maps.node, func(index uint32, v bpf.MeshNode) {
		if h := p.hosts.byIndex[index]; h != nil {
			h.inNode = v
		}
	}); err != nil {
		return fmt.Errorf("nodes: %w", err)
	}
	if err := pin.Read(p.maps.v4, func(k uint32, v bpf.MeshAddress) { p.adoptAddress(ipOfV4(k), v) }); err != nil {
		return fmt.Errorf("IPv4 addresses: %w", err)
	}
	if err := pin.Read(p.maps.v6, func(k bpf.MeshAddressKey, v bpf.MeshAddress) { p.adoptAddress(k.Address, v) }); err != nil {
		return fmt.Errorf("IPv6 addresses: %w", err)
	}
	if err := pin.Read(p.maps.ranges, func(k bpf.MeshRangeKey, v bpf.MeshRange) {
		p.ranges[decodeRange(k)] = cluster.ID(v.Cluster)
	}); err != nil {
		return fmt.Errorf("ranges: %w", err)
	}
	if err := p.maps.settings.Lookup(uint32(0), &p.settings); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	p.config.Logger.Info("maps of packets adopted", "addresses", len(p.addresses), "nodes", len(p.hosts.byIP), "ranges", len(p.ranges))
	return nil
}

func (p *Plane) adoptAddress(a ip, v bpf.MeshAddress) {
	w := word(v.Bits)
	if v != encodeAddress(a, w) || w == 0 || (w.host() != 0 && p.hosts.byIndex[w.host()] == nil) {
		w = damaged
	}
	p.setAddress(a, w)
}
