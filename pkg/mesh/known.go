package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// known is what the feed has said, as far as a node has to remember it: all but
// the addresses. It does no I/O.
type known struct {
	cluster, node string

	nodes  []*node.Node
	peers  map[string]*route.Peer
	ranges map[netip.Prefix]*route.Range
	// within are each cluster's ranges in order; made anew when one changed.
	within map[string][]netip.Prefix

	// What the programs were given.
	given  map[node.Key]packet.Node
	placed map[netip.Prefix]cluster.ID
	// local are the addresses of pods on this node among them, probes those of
	// probe pods of all clusters.
	local  map[netip.Addr]struct{}
	probes map[netip.Addr]probeAt
	// probed says that probes are others than Neighbours was told of.
	probed bool
	// problems are what is wrong with nodes.
	problems []string
}

func newKnown(cluster, node string) known {
	k := known{cluster: cluster, node: node, ranges: map[netip.Prefix]*route.Range{}}
	k.forget()
	return k
}

// forget says that the programs have nothing.
func (k *known) forget() {
	k.given, k.placed, k.local = map[node.Key]packet.Node{}, map[netip.Prefix]cluster.ID{}, map[netip.Addr]struct{}{}
	k.probes, k.probed = map[netip.Addr]probeAt{}, true
}

// sort makes within anew.
func (k *known) sort() {
	k.within = map[string][]netip.Prefix{}
	for p, r := range k.ranges {
		k.within[r.Cluster] = append(k.within[r.Cluster], p)
	}
	for c, prefixes := range k.within {
		k.within[c] = route.Canonical(prefixes)
	}
}

// self returns what this node is; nil when it takes no part.
func (k *known) self() (*route.Self, cluster.Size) {
	i := slices.IndexFunc(k.nodes, func(n *node.Node) bool { return n.Cluster == k.cluster && n.Name == k.node })
	if i < 0 {
		return nil, 0
	}
	n := k.nodes[i]
	s := &route.Self{
		Cluster: k.cluster, ID: n.ClusterID, Node: k.node, Pods: k.within[k.cluster],
		Mesh: addresses(n, node.CiliumInternalIP), Underlay: addresses(n, node.InternalIP),
	}
	if len(s.Mesh) == 0 {
		return nil, 0
	}
	return s, k.size()
}

// size returns the mesh's, 0 where there are no peers who say so.
func (k *known) size() cluster.Size {
	for _, p := range k.peers {
		return p.Size
	}
	return 0
}

// addresses returns a node's first usable address of a type, of each family, IPv4 first.
func addresses(n *node.Node, t node.AddressType) []netip.Addr {
	var out []netip.Addr
	for _, v6 := range []bool{false, true} {
		if a := n.IP(t, v6); route.ValidateAddr(a) == nil {
			out = append(out, a)
		}
	}
	return out
}

// remote returns the peers' nodes as the programs have them, and what is wrong
// with some.
func (k *known) remote(self *route.Self) (map[node.Key]packet.Node, []string) {
	out := map[node.Key]packet.Node{}
	var problems []string
	for _, n := range k.nodes {
		peer := k.peers[n.Cluster]
		if peer == nil || n.Cluster == k.cluster {
			continue
		}
		key := node.Key{Cluster: n.Cluster, Name: n.Name}
		r := packet.Node{Key: key, Cluster: peer.ID}
		for _, a := range addresses(n, node.InternalIP) {
			if ours := ownOf(self, a); ours != "" {
				problems = append(problems, fmt.Sprintf("node %s of %s has %s %s: nothing is sent there", n.Name, n.Cluster, ours, a))
				continue
			}
			r.Underlay = append(r.Underlay, a)
		}
		for _, a := range addresses(n, node.CiliumInternalIP) {
			if _, ok := route.Find(k.within[n.Cluster], a); ok { // else it is refused
				r.Mesh = append(r.Mesh, a)
			}
		}
		out[key] = r
	}
	slices.Sort(problems)
	return out, problems
}

// ownOf says what of our own an address is that a peer names as a node's; "" for
// nothing. A node's address is nobody else's to the programs: one of ours would
// have no packets any more.
func ownOf(self *route.Self, a netip.Addr) string {
	if slices.Contains(self.Underlay, a) || slices.Contains(self.Mesh, a) {
		return "this node's own address"
	}
	if _, ok := route.Find(self.Pods, a); ok {
		return "an address of our pods,"
	}
	return ""
}

// desired returns what the host's network shall be.
func (k *known) desired(self *route.Self, port uint16) host.Desired {
	d := host.Desired{Port: port, Mesh: self.Mesh, LocalPods: self.Pods}
	for p, r := range k.ranges {
		if peer := k.peers[r.Cluster]; peer != nil && r.Cluster != k.cluster {
			d.Routes = append(d.Routes, host.Route{Prefix: p, Mode: peer.Mode})
		}
	}
	d.Routes = k.exceptProbes(d.Routes)
	slices.SortFunc(d.Routes, func(a, b host.Route) int { return route.Compare(a.Prefix, b.Prefix) })
	nodes := map[netip.Addr]struct{}{}
	for _, n := range k.given {
		for _, a := range n.Underlay {
			nodes[a] = struct{}{}
		}
	}
	d.Nodes = slices.SortedFunc(maps.Keys(nodes), netip.Addr.Compare)
	return d
}

// id returns a cluster's number, 0 when it is not known.
func (k *known) id(name string, self *route.Self) cluster.ID {
	if name == k.cluster {
		return self.ID
	}
	if p := k.peers[name]; p != nil {
		return p.ID
	}
	return 0
}

// maxIdentity is the greatest that a tunnel's header can say.
const maxIdentity identity.Number = 1<<24 - 1

// possible reports whether an address of that cluster may have an identity: one
// that the cluster allocated, or a reserved one that a pod can have. Those of nodes
// come with the nodes.
func possible(n identity.Number, id cluster.ID, size cluster.Size) bool {
	switch n {
	case identity.Unmanaged, identity.Health, identity.Init, identity.Ingress:
		return true
	}
	if size == 0 {
		size = cluster.Size255
	}
	return n <= maxIdentity && !n.Reserved() && n.Cluster(size) == id
}

// address returns what the programs have of an address; false for nothing. It must
// be in its cluster's ranges and have an identity of it: others it cannot have.
func (k *known) address(p netip.Prefix, o *endpoint.Owner, self *route.Self) (packet.Address, bool) {
	if o == nil || !p.IsSingleIP() || route.ValidateAddr(p.Addr()) != nil {
		return packet.Address{}, false
	}
	id := k.id(o.Cluster, self)
	if _, within := route.Find(k.within[o.Cluster], p.Addr()); id == 0 || !within || !possible(o.Identity, id, k.size()) {
		return packet.Address{}, false
	}
	return packet.Address{Addr: p.Addr(), Cluster: id, Identity: o.Identity, Host: o.HostIP}, true
}

// nodeChanges writes into c what differs from what the programs were given.
func (k *known) nodeChanges(now map[node.Key]packet.Node, c *packet.Change) {
	for key := range k.given {
		if _, ok := now[key]; !ok {
			c.GoneNodes = append(c.GoneNodes, key)
		}
	}
	for key, n := range now {
		if had, ok := k.given[key]; !ok || !equalNode(had, n) {
			c.Nodes = append(c.Nodes, n)
		}
	}
	// Of two nodes that name one address the first has it: it is the same one on
	// every machine.
	slices.SortFunc(c.Nodes, func(a, b packet.Node) int {
		return cmp.Or(cmp.Compare(a.Key.Cluster, b.Key.Cluster), cmp.Compare(a.Key.Name, b.Key.Name))
	})
}

func equalNode(a, b packet.Node) bool {
	return a.Key == b.Key && a.Cluster == b.Cluster && slices.Equal(a.Underlay, b.Underlay) && slices.Equal(a.Mesh, b.Mesh)
}

// everyRange returns those that are known and those that the programs have.
func (k *known) everyRange() map[netip.Prefix]struct{} {
	out := make(map[netip.Prefix]struct{}, len(k.ranges))
	for p := range k.ranges {
		out[p] = struct{}{}
	}
	for p := range k.placed {
		out[p] = struct{}{}
	}
	return out
}

// place returns which of the peers' ranges the programs are to have.
func (k *known) place(p netip.Prefix) (cluster.ID, bool) {
	r := k.ranges[p]
	if r == nil || r.Cluster == k.cluster || k.peers[r.Cluster] == nil || r.Validate() != nil {
		return 0, false
	}
	return k.peers[r.Cluster].ID, true
}

// rangeChanges does the same for ranges; only those in look may differ.
func (k *known) rangeChanges(look map[netip.Prefix]struct{}, c *packet.Change) {
	for p := range look {
		now, is := k.place(p)
		had, was := k.placed[p]
		switch {
		case is && (!was || had != now):
			c.Ranges = append(c.Ranges, packet.Range{Prefix: p, Cluster: now})
		case was && !is:
			c.GoneRanges = append(c.GoneRanges, p)
		}
	}
}

// done notes that the programs have a change.
func (k *known) done(c packet.Change) {
	for _, key := range c.GoneNodes {
		delete(k.given, key)
	}
	for _, n := range c.Nodes {
		k.given[n.Key] = n
	}
	for _, p := range c.GoneRanges {
		delete(k.placed, p)
	}
	for _, r := range c.Ranges {
		k.placed[r.Prefix] = r.Cluster
	}
}
