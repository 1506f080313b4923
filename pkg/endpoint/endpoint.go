// Package endpoint holds who is behind an IP address of the mesh.
package endpoint

import (
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/identity"
)

// NamedPort is a container port that policies can name.
type NamedPort struct {
	Name     string
	Port     uint16
	Protocol string // TCP, UDP or SCTP
}

// Address says which workload an address belongs to and where it runs. A
// published Address is not changed any more.
type Address struct {
	// Cluster is the cluster that the address belongs to.
	Cluster string
	// Prefix is the address itself (all bits) or, for a range, its prefix.
	Prefix netip.Prefix
	// HostIP is the address of the node that it runs on.
	HostIP         netip.Addr
	Identity       identity.Number
	EncryptionKey  uint8
	Namespace      string
	Pod            string
	ServiceAccount string
	NamedPorts     []NamedPort
	// Metadata is carried through as the protocol has it.
	Metadata string
}
