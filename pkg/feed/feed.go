// Package feed carries what the nodes of a cluster need from its API server to
// the agents, and back how far each agent is. An agent keeps what it was told,
// on disk too, and is sent what differs: by revision from the same server, by
// digests from another. Guarantees:
//
//   - A change reaches the Sink whole or not at all, and in order.
//   - A slow agent is never sent what is out of date already: what changed many
//     times while it was busy reaches it once, as it is by then.
//   - Memory is bounded by the size of the state, not by how slow an agent is.
package feed

import (
	"context"
	"time"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// Revision is a state of the feed. Those of one Epoch, one run of an API server
// and what it knew the whole of, are ordered by N. The zero Revision is before
// all others.
type Revision struct {
	Epoch string
	N     uint64
}

// Batch is one change, to be put in effect as a whole.
type Batch struct {
	// Revision is the state that the change leads to.
	Revision Revision
	// Snapshot says that Delta is the whole state: what is not in it is gone. It
	// is the first Batch, and the one after an error.
	Snapshot bool
	// Restored says that this is what the State had before an API server was
	// heard: what is not in it may be there all the same, so it is a reason to
	// add and to change, not to take away. The Batch after it says what differs,
	// if anything does.
	Restored bool
	// Delta is empty for a change of what only the State keeps.
	Delta service.Delta
}

// Sink takes what a Client receives.
type Sink interface {
	// Apply takes over b, which becomes the Sink's own. The Client hands over one
	// batch at a time and reads no further meanwhile. Apply need not wait
	// until b is in effect: what was put in effect is told by Client.Report. An
	// error means that the Sink does not have b; the Client then begins again
	// with a whole state.
	Apply(ctx context.Context, b Batch) error
}

// Counts is how much is in effect on a node.
type Counts struct {
	Services  int
	Frontends int
	Backends  int
	// Nodes, Identities and Addresses are what the agent knows of who is who.
	// The Client fills them in.
	Nodes      int
	Identities int
	Addresses  int
}

// Applied is how far an agent is.
type Applied struct {
	// Revision is the newest that is in effect on the node, zero while none is.
	Revision Revision
	Counts   Counts
	// Error is what keeps a newer revision from being in effect, "" for nothing.
	Error string
	// Mesh is how the node takes part in the routing between clusters, nil while
	// it has not said so. The Client fills it in.
	Mesh *Mesh
}

// AgentStatus is what the server knows of one agent.
type AgentStatus struct {
	Node    string
	Version string
	// Connected says that the agent has a stream now; Since is when that began
	// or ended.
	Connected bool
	Since     time.Time
	// Applied is what the agent last said on its last stream.
	Applied Applied
	// Current says that the newest state is in effect on the node.
	Current bool
}
