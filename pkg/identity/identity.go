// Package identity holds the security identity of a workload: a number that
// means the same in the whole mesh, and the set of labels that it stands for.
// Everything here is pure; claiming a number in etcd is pkg/publish's.
package identity

import (
	"fmt"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// Number is a security identity. 0 is none, 1-255 are reserved with the same
// meaning in every cluster, a cluster's own are cluster<<LocalBits | local.
type Number uint32

// The reserved numbers.
const (
	None          Number = 0
	Host          Number = 1
	World         Number = 2
	Unmanaged     Number = 3
	Health        Number = 4
	Init          Number = 5
	RemoteNode    Number = 6
	KubeAPIServer Number = 7
	Ingress       Number = 8
	WorldIPv4     Number = 9
	WorldIPv6     Number = 10
	// MinLocal is the first local part that a cluster may allocate.
	MinLocal Number = 256
)

// Identity is a number and what it means.
type Identity struct {
	Number Number
	Labels Labels
}

// Reserved reports whether n means the same in every cluster.
func (n Number) Reserved() bool { return n > 0 && n < MinLocal }

// ReservedLabels returns the labels that a reserved number stands for, "" for
// one that means nothing or is a cluster's own.
func (n Number) ReservedLabels() Labels {
	names := [...]string{
		Host: "host", World: "world", Unmanaged: "unmanaged", Health: "health", Init: "init", RemoteNode: "remote-node",
		KubeAPIServer: "kube-apiserver", Ingress: "ingress", WorldIPv4: "world-ipv4", WorldIPv6: "world-ipv6",
	}
	if int(n) >= len(names) || names[n] == "" {
		return ""
	}
	return Labels("reserved:" + names[n] + "=;")
}

// Cluster returns the ID of the cluster that allocated n in a mesh of that
// size; 0 for a reserved number.
func (n Number) Cluster(size cluster.Size) cluster.ID {
	return cluster.ID(n >> size.LocalBits())
}

// Range returns the first and the last number that this implementation
// allocates in a cluster. The first is MinLocal above the cluster's base, so that
// a local part is never mistaken for a reserved number.
func Range(id cluster.ID, size cluster.Size) (first, last Number) {
	first, last = Block(id, size)
	return first + MinLocal, last
}

// Block returns the first and the last number that are a cluster's at all:
// Cilium allocates all of them.
func Block(id cluster.ID, size cluster.Size) (first, last Number) {
	first = Number(id) << size.LocalBits()
	return first, first + (1<<size.LocalBits() - 1)
}

// String returns the decimal form, which is also the form of the protocol's keys.
func (n Number) String() string { return fmt.Sprintf("%d", uint32(n)) }
