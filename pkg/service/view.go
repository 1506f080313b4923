package service

import "net/netip"

// View is one global service as the nodes of this cluster use it: merged once
// a cluster. A published View is not changed any more.
type View struct {
	Name
	// Frontends is never empty: a headless service has no View, as there is no
	// address that a node could translate.
	Frontends []Frontend
	// Groups are the clusters whose backends are used, best tier first. A
	// cluster stands in at most one group; backends of a cluster in no group
	// are not used.
	Groups []Group
	Rules
}

// Group is a set of clusters whose backends are alike for a service.
type Group struct {
	// Clusters are names, sorted.
	Clusters []string
	// Tier orders groups: one is used only while no group of a lower tier has
	// a usable backend.
	Tier uint8
	// Weight is the group's share of new connections among the groups of its
	// tier; 0 means by number of backends.
	Weight uint16
}

// MaxSliceEndpoints is how many endpoints a BackendSlice holds at most.
const MaxSliceEndpoints = 100

// BackendSliceKey names a BackendSlice. Part counts the pieces of a slice that
// its publisher made larger than MaxSliceEndpoints.
type BackendSliceKey struct {
	Service Name
	Cluster string
	Slice   string
	Part    int
}

// BackendSlice is a part of the backends that one cluster offers for a global
// service. A published BackendSlice is not changed any more.
type BackendSlice struct {
	BackendSliceKey
	Ports     []Port
	Endpoints []BackendEndpoint
}

// BackendState says whether a backend takes new connections.
type BackendState uint8

// The states: takes connections; takes them only when no backend is ready.
const (
	BackendReady BackendState = iota
	BackendTerminating
)

// BackendEndpoint is one address behind a BackendSlice; all ports of the slice
// are open on it.
type BackendEndpoint struct {
	IP    netip.Addr
	State BackendState
	// Node and Pod are for people; either may be "".
	Node string
	Pod  string
}

// Delta is what changed in the views of a cluster. A nil value is a deletion.
type Delta struct {
	Views  map[Name]*View
	Slices map[BackendSliceKey]*BackendSlice
}

// Empty reports whether d changes nothing.
func (d *Delta) Empty() bool { return len(d.Views) == 0 && len(d.Slices) == 0 }
