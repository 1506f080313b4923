// Package node holds what the mesh knows of a machine that runs workloads.
package node

import (
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// AddressType says what an address of a node is for, in the protocol's words.
type AddressType string

// The address types that matter here; others are carried through unread.
const (
	InternalIP       AddressType = "InternalIP"
	ExternalIP       AddressType = "ExternalIP"
	CiliumInternalIP AddressType = "CiliumInternalIP"
)

// Address is one address of a node.
type Address struct {
	Type AddressType
	IP   netip.Addr
}

// Key names a node in the mesh.
type Key struct {
	Cluster string
	Name    string
}

// Node is one machine of one cluster. A published Node is not changed any more.
type Node struct {
	Cluster   string
	ClusterID cluster.ID
	Name      string
	Addresses []Address
	// PodCIDRs are the ranges that the node gives its pods from: the first of
	// each family first, IPv4 before IPv6, then the others in the same order.
	PodCIDRs []netip.Prefix
	// HealthIPs, at most one a family, IPv4 first, answer the reference's health probes.
	HealthIPs []netip.Addr
	// IngressIPs, at most one a family, IPv4 first, are what the reference's ingress sends from.
	IngressIPs []netip.Addr
	Labels     map[string]string
	// Annotations, WireguardKey, BootID, Source and EncryptionKey are carried
	// through as the protocol has them.
	Annotations   map[string]string
	WireguardKey  string
	BootID        string
	Source        string
	EncryptionKey uint8
}

// IP returns the node's first address of type t and the family of v6, or the
// zero Addr.
func (n *Node) IP(t AddressType, v6 bool) netip.Addr {
	for _, a := range n.Addresses {
		if a.Type == t && a.IP.Is6() == v6 {
			return a.IP
		}
	}
	return netip.Addr{}
}
