package mesh

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// tell says whom this node can ask whether packets arrive, when that may be news.
func (m *Mesh) tell(n *news, self *route.Self) {
	if m.config.Neighbours == nil {
		return
	}
	k := &m.known
	pods := k.pods()
	if !n.all && !n.nodes && len(n.ranges) == 0 && slices.Equal(pods, m.pods) && !k.probed {
		return
	}
	m.pods, k.probed = pods, false
	m.config.Neighbours(k.neighbours(self, pods))
}

// neighbours returns the nodes of peers as the programs have them.
func (k *known) neighbours(self *route.Self, pods []netip.Addr) *probe.Neighbours {
	byPeer := map[string][]probe.Node{}
	for key, n := range k.given {
		byPeer[key.Cluster] = append(byPeer[key.Cluster], probe.Node{Name: key.Name, Mesh: n.Mesh})
	}
	out := &probe.Neighbours{Cluster: k.cluster, Node: k.node, Mesh: self.Mesh, Pods: pods, ID: self.ID, Probes: k.ownProbes(self)}
	probes := k.peerProbes()
	for name, p := range k.peers {
		if name != k.cluster {
			nodes := byPeer[name]
			slices.SortFunc(nodes, func(a, b probe.Node) int { return cmp.Compare(a.Name, b.Name) })
			out.Peers = append(out.Peers, probe.Peer{
				Cluster: name, Mode: p.Mode, Nodes: nodes, ID: p.ID, Search: p.Search, Probes: k.onNodes(name, probes[name]),
			})
		}
	}
	slices.SortFunc(out.Peers, func(a, b probe.Peer) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return out
}

// here notes whether an address is that of a pod on this node.
func (k *known) here(a packet.Address, self *route.Self) {
	if a.Cluster == self.ID && a.Host.IsValid() && slices.Contains(self.Underlay, a.Host) && !slices.Contains(self.Mesh, a.Addr) {
		k.local[a.Addr] = struct{}{}
	} else {
		delete(k.local, a.Addr)
	}
}

// pods returns the least address of a pod on this node of each family, IPv4 first.
func (k *known) pods() []netip.Addr {
	var least [2]netip.Addr
	for a := range k.local {
		family := &least[0]
		if a.Is6() {
			family = &least[1]
		}
		if !family.IsValid() || a.Less(*family) {
			*family = a
		}
	}
	return slices.DeleteFunc(least[:], func(a netip.Addr) bool { return !a.IsValid() })
}
