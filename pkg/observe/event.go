// Package observe lets people see which packets between clusters are dropped,
// and why.
//
// Agents remember the newest drops of their node, and send what somebody wants
// to see, while somebody wants to see it: an API server tells its agents the
// filters of those who listen, and tells the agents to stop when the last one
// leaves. Nothing waits for anything here: where more happens than an agent may
// send, an API server takes or a listener reads, events are lost, and counted.
package observe

import (
	"net/netip"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
)

// Direction is which way a packet went, in the words of the metrics.
type Direction string

// The directions.
const (
	ToMesh   Direction = "to_mesh"
	FromMesh Direction = "from_mesh"
)

// Event is a packet that a node dropped.
type Event struct {
	Time      time.Time // by the node's clock
	Direction Direction
	// Reason is the name of a Reason, or one that a newer agent knows.
	Reason string
	// Source and Destination are those of the packet in the tunnel; the zero
	// AddrPort when they could not be read. The port is 0 where there is none.
	Source, Destination netip.AddrPort
	Protocol            uint8 // of IP
	// Tunnel is the node at the other end, the zero Addr when it is not known.
	Tunnel netip.Addr
	// ClusterID is the other cluster's, 0 when it is not known.
	ClusterID cluster.ID
	// Identity is what the sender says that the source is, Known what the node
	// knows it to be; 0 is nothing.
	Identity, Known identity.Number
	Length          int // bytes of the frame in the tunnel
}

// Seen is an Event with who is who in it, as far as that is known.
type Seen struct {
	Event
	// Node is the one that dropped the packet.
	Node string
	// From and To are who is at Source and Destination.
	From, To Party
	// Cluster is the name of the other cluster, TunnelNode its node.
	Cluster, TunnelNode string
	// IdentityLabels and KnownLabels are what the identities stand for, each
	// source:key=value.
	IdentityLabels, KnownLabels []string
}

// Party is who has an address; what is not known is "".
type Party struct {
	Cluster string
	// Node is the node that it runs on, or is; its address when no node is known
	// to have that.
	Node           string
	Namespace, Pod string
}

// Item is one thing that a listener is told: one of its fields is set.
type Item struct {
	Seen   *Seen
	Lost   *Lost
	Change *Change
}

// Lost says that events that the listener should have seen are lost.
type Lost struct {
	// Node sent, or had to send, more than it may; "" when the listener reads too
	// slowly.
	Node   string
	Events uint64
}

// Change says that a node's events are missing, or are there again.
type Change struct {
	Node  string
	State ChangeState
}

// ChangeState is what became of a node's agent.
type ChangeState string

// The states.
const (
	Away   ChangeState = "away"   // its agent has gone
	Back   ChangeState = "back"   // its agent is there, again or for the first time
	Silent ChangeState = "silent" // it did not say in time what it remembers
)
