package observe

import (
	"net/netip"
	"sync"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
)

// nodesFor is how long the index of nodes is used: they change seldom, and to
// make it takes a look at all of them.
const nodesFor = 10 * time.Second

// Book says who is who; a merge.State is one.
type Book interface {
	// Local is the name of the own cluster.
	Local() string
	// AllNodes are those of all clusters, in a map that is the caller's.
	AllNodes() map[node.Key]*node.Node
	// Owner says whose an address is.
	Owner(netip.Addr) (endpoint.Owner, bool)
	// Labels are what an identity stands for, "" when that is not known.
	Labels(identity.Number) identity.Labels
}

// names says who is who.
type names struct {
	read func(func(Book))

	mu    sync.Mutex
	nodes *nodeIndex
	made  time.Time
}

// nodeIndex finds nodes by what events hold of them.
type nodeIndex struct {
	inCluster map[place]string
	// anywhere has the addresses that one node of the mesh has alone.
	anywhere map[netip.Addr]node.Key
	clusters map[cluster.ID]string
}

// place is an address of a node, which is its own in its cluster alone.
type place struct {
	cluster string
	address netip.Addr
}

func newNodeIndex(nodes map[node.Key]*node.Node) *nodeIndex {
	x := &nodeIndex{inCluster: map[place]string{}, anywhere: map[netip.Addr]node.Key{}, clusters: map[cluster.ID]string{}}
	for key, n := range nodes {
		x.clusters[n.ClusterID] = key.Cluster
		for _, a := range n.Addresses {
			x.inCluster[place{key.Cluster, a.IP}] = key.Name
			if other, ok := x.anywhere[a.IP]; ok && other != key {
				x.anywhere[a.IP] = node.Key{}
				continue
			}
			x.anywhere[a.IP] = key
		}
	}
	return x
}

// find returns the node at an address, in a cluster if that is known; "" when
// there is none, or more than one.
func (x *nodeIndex) find(a netip.Addr, cluster string) node.Key {
	if name, ok := x.inCluster[place{cluster, a}]; ok {
		return node.Key{Cluster: cluster, Name: name}
	}
	return x.anywhere[a]
}

// resolve returns the events of one node of the own cluster with all that is
// known of who is in them.
func (n *names) resolve(name string, events []Event) []*Seen {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.nodes == nil || time.Since(n.made) > nodesFor {
		var nodes map[node.Key]*node.Node
		n.read(func(b Book) { nodes = b.AllNodes() })
		n.nodes, n.made = newNodeIndex(nodes), time.Now()
	}
	out := make([]*Seen, 0, len(events))
	means := map[identity.Number]identity.Labels{}
	n.read(func(s Book) {
		for _, e := range events {
			out = append(out, n.see(s, name, e))
			means[e.Identity], means[e.Known] = s.Labels(e.Identity), s.Labels(e.Known)
		}
	})
	// The text is made once for each, and while others may use the state.
	lists := map[identity.Number][]string{}
	for number, labels := range means {
		lists[number] = merge.Entry{Labels: labels}.LabelList()
	}
	for _, s := range out {
		s.IdentityLabels, s.KnownLabels = lists[s.Identity], lists[s.Known]
	}
	return out
}

func (n *names) see(s Book, name string, e Event) *Seen {
	seen := &Seen{Event: e, Node: name, Cluster: n.nodes.clusters[e.ClusterID]}
	here, there := s.Local(), seen.Cluster
	if e.Direction == FromMesh {
		here, there = there, here
	}
	seen.From = n.party(s, e.Source.Addr(), here)
	seen.To = n.party(s, e.Destination.Addr(), there)
	if e.Tunnel.IsValid() {
		seen.TunnelNode = n.nodes.find(e.Tunnel, seen.Cluster).Name
	}
	return seen
}

// party says who has an address that is likely to be of a cluster.
func (n *names) party(s Book, a netip.Addr, likely string) Party {
	if !a.IsValid() {
		return Party{}
	}
	o, ok := s.Owner(a)
	if !ok {
		key := n.nodes.find(a, likely)
		return Party{Cluster: key.Cluster, Node: key.Name}
	}
	p := Party{Cluster: o.Cluster, Namespace: o.Namespace, Pod: o.Pod}
	if p.Node = n.nodes.inCluster[place{o.Cluster, o.HostIP}]; p.Node == "" && o.HostIP.IsValid() {
		p.Node = o.HostIP.String()
	}
	return p
}
