// Package probe finds out whether packets between clusters arrive. Each agent
// answers other clusters' agents on its node's mesh addresses, and asks a sample
// of theirs, over the path that pods' packets take. What it found goes to the API
// server, which shows it to people.
//
// What may be relied upon:
//
//   - Only nodes of peers are answered, a bounded number of times a second, and
//     never with more bytes than were asked with.
//   - A node asks at most PerPeer nodes of a peer and Paths addresses in all,
//     whatever the size of the mesh, and as many probe pods.
//   - What is found between probe pods decides, where the operator leaves that to
//     us, whether packets go by tunnel or are left to the network, see Chooser.
//     Nothing else that is found here changes what is done with packets.
package probe

import (
	"net/netip"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// Port is the UDP port where agents answer, at mesh addresses, and probe pods.
const Port = 8475

// How many nodes of one peer, and addresses in all, a node asks.
const (
	PerPeer = 8
	Paths   = 64
)

// MaxProbes is how many probe pods of one cluster are looked at: those with the
// least addresses.
const MaxProbes = 256

// PodLabel is the label, with the value "true", that makes a pod a probe pod.
const PodLabel = "causeway.io/probe-pod"

// Neighbours are this node and the other clusters' nodes that it may ask.
type Neighbours struct {
	Cluster, Node string
	// Mesh are this node's mesh addresses, at most one a family.
	Mesh []netip.Addr
	// Pods are addresses of pods on this node, at most one a family: packets with
	// such a source are tried as well.
	Pods []netip.Addr
	// ID is our cluster's number. Probes are the addresses of this node's probe
	// pod, at most one a family.
	ID     cluster.ID
	Probes []netip.Addr
	Peers  []Peer
}

// Peer is another cluster.
type Peer struct {
	Cluster string
	Mode    route.Mode
	Nodes   []Node
	// ID is its number, Search what is known of leaving packets to it to the
	// network, and Probes its probe pods, MaxProbes at most.
	ID     cluster.ID
	Search route.Search
	Probes []ProbePod
}

// tries reports whether probe pods are asked.
func (p *Peer) tries() bool { return p.route().Tries() }

// says returns what ours thinks of leaving packets to it to the network.
func (p *Peer) says() opinion {
	if p.route().Agrees() {
		return willing
	}
	return against
}

func (p *Peer) route() *route.Peer { return &route.Peer{Mode: p.Mode, Search: p.Search} }

// ProbePod is an address of a peer's probe pod, and the node that it is on.
type ProbePod struct {
	Node string
	Addr netip.Addr
}

// Node is a node of a peer; without mesh addresses it can not be asked.
type Node struct {
	Name string
	Mesh []netip.Addr
}

// State says how good a path is.
type State string

// The states.
const (
	Pending     State = "pending" // not asked often enough to say
	Reachable   State = "reachable"
	Degraded    State = "degraded" // answers, and something is wrong
	Unreachable State = "unreachable"
)

// Report is what one node has found.
type Report struct {
	// Time is when, by the node's clock.
	Time time.Time
	// MTU is that of the tunnel device in bytes; 0 when it is not known.
	MTU       int
	Summaries []Summary // by cluster
	// Items are the first of what is ours in the node's network, ItemCount all.
	Items     []Item
	ItemCount int
}

// Summary is one peer as a node sees it.
type Summary struct {
	Cluster string
	Mode    route.Mode
	// Nodes are those that the peer has, Paths the addresses of some that are
	// asked, and the next three how many of these are what.
	Nodes, Paths                     int
	Reachable, Degraded, Unreachable int
	// RTTMin, RTTMedian and RTTMax are of the paths that answer, each smoothed; 0
	// without any.
	RTTMin, RTTMedian, RTTMax time.Duration
	// Loss is that part of what was asked that was not answered, 0 to 1.
	Loss float64
	// MTU is the least of the largest packets, in bytes, that pass; 0 when that is
	// not known.
	MTU int
	// Spare says that packets do not go this way at present: it is tried so that it
	// can be chosen. Against counts the paths whose other side keeps to its tunnel.
	Spare   bool
	Against int
	// Source says whether the other side saw packets come from where they did.
	Source   Source
	Troubles []Trouble
}

// Source says what became of a packet's source.
type Source string

// What may have become of it; "" is not known.
const (
	SourceKept    Source = "ok"
	SourceChanged Source = "other"
)

// Trouble is one thing that is wrong with some paths.
type Trouble struct {
	// Reason is the name of a Reason.
	Reason string
	// Detail is what was seen, Node on the path to which node of the peer.
	Detail, Node string
	// Paths is how many are like that; 0 when it is about the peer.
	Paths int
}

// Item is a thing in the node's network that is ours.
type Item struct{ Kind, Name string }
