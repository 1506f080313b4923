package packet

import (
	"fmt"
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// Node is a machine of the mesh, ours or a peer's.
type Node struct {
	Key     node.Key
	Cluster cluster.ID
	// Underlay are the addresses that tunnels lead to and come from, at most one
	// a family. Of two nodes that name the same address the first has it, until
	// it gives it up.
	Underlay []netip.Addr
	// Mesh are the addresses of the node itself inside the mesh, at most one a
	// family; they have the identity of a remote node.
	Mesh []netip.Addr
}

// Address is where a workload is, and who it is.
type Address struct {
	Addr     netip.Addr
	Cluster  cluster.ID
	Identity identity.Number
	// Host is one of the underlay addresses of the node that it is on; the zero
	// Addr when that is not known, and then nothing can be sent to it. An Addr
	// that is the node's own is no business of the mesh: it is passed over.
	Host netip.Addr
}

// Range is a prefix in which a peer has its pods.
type Range struct {
	Prefix  netip.Prefix
	Cluster cluster.ID
}

// Change is what differs from what was applied before; what is in effect
// already costs nothing. What goes is done before what comes; nothing comes
// twice in one change.
type Change struct {
	// Self, if not nil, is the node that this is. Until it is known, no packet
	// passes. Size is the mesh's; 0 means 255.
	Self *route.Self
	Size cluster.Size

	Nodes         []Node
	GoneNodes     []node.Key
	Addresses     []Address
	GoneAddresses []netip.Addr
	Ranges        []Range
	GoneRanges    []netip.Prefix
}

// Keep says what of all that is known is part of the complete state. A nil
// function keeps everything.
type Keep struct {
	Node    func(node.Key) bool
	Address func(netip.Addr) bool
	Range   func(netip.Prefix) bool
}

// validate returns why an address cannot be in the maps.
func (a Address) validate() error {
	if err := route.ValidateAddr(a.Addr); err != nil {
		return err
	}
	if a.Identity == identity.None || a.Identity > maxIdentity {
		return fmt.Errorf("address %v: identity %d: %w", a.Addr, a.Identity, ErrValue)
	}
	if a.Cluster > maxCluster {
		return fmt.Errorf("address %v: cluster %d: %w", a.Addr, a.Cluster, ErrValue)
	}
	return nil
}

// validate returns why a node cannot be in the maps.
func (n Node) validate() error {
	for _, addrs := range [][]netip.Addr{n.Underlay, n.Mesh} {
		for _, a := range addrs {
			if err := route.ValidateAddr(a); err != nil {
				return fmt.Errorf("node %s/%s: %w", n.Key.Cluster, n.Key.Name, err)
			}
		}
	}
	if n.Cluster == 0 || n.Cluster > maxCluster {
		return fmt.Errorf("node %s/%s: cluster %d: %w", n.Key.Cluster, n.Key.Name, n.Cluster, ErrValue)
	}
	return nil
}

// validate returns why a range cannot be in the maps.
func (r Range) validate() error {
	if err := route.ValidatePrefix(r.Prefix); err != nil {
		return err
	}
	if r.Cluster == 0 || r.Cluster > maxCluster {
		return fmt.Errorf("range %v: cluster %d: %w", r.Prefix, r.Cluster, ErrValue)
	}
	return nil
}
