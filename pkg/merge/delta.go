package merge

import (
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// Delta is what changed in what the nodes of the own cluster need. A nil value
// is a deletion; the values are shared and never changed.
type Delta struct {
	Services service.Delta
	// Nodes have Cluster, ClusterID, Name, Addresses and PodCIDRs; the rest is
	// of no use to other nodes and left zero.
	Nodes      map[node.Key]*node.Node
	Identities map[identity.Number]*identity.Identity
	// Addresses are all of the mesh that anybody is known to be behind. Of
	// clusters that claim the same one the own has it, else the one that did so
	// first. What their identities mean is known before them, and as long.
	Addresses map[netip.Prefix]*endpoint.Owner
	// Peers and Ranges say how the other clusters are reached, and in which ranges
	// all have their pods; the own cluster is no peer. Both are nil unless Route
	// was called.
	Peers  map[string]*route.Peer
	Ranges map[netip.Prefix]*route.Range
}

// Empty reports whether d changes nothing.
func (d *Delta) Empty() bool {
	return d.Services.Empty() && len(d.Nodes)+len(d.Identities)+len(d.Addresses)+len(d.Peers)+len(d.Ranges) == 0
}
