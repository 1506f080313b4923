package service

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// The annotations by which the own cluster's Kubernetes is told the backends of
// other clusters; ours wins where both stand.
const (
	AnnotationMirror       = "causeway.io/mirror-endpoints"
	AnnotationMirrorCilium = "service.cilium.io/global-sync-endpoint-slices"
)

// The label by which an endpoint slice says who keeps it, and what it says where
// that is a mesh which writes other clusters' backends.
const (
	LabelManagedBy = "endpointslice.kubernetes.io/managed-by"
	ManagedBy      = "causeway.io"
	// ManagedByCilium is what Cilium's clustermesh writes there.
	ManagedByCilium = "endpointslice-mesh-controller.cilium.io"
)

// IsMirrored reports whether an endpoint slice with these labels holds other
// clusters' backends: they are not this cluster's to publish.
func IsMirrored(labels map[string]string) bool {
	by := labels[LabelManagedBy]
	return by == ManagedBy || by == ManagedByCilium
}

// Mirror is what a Service of the own cluster needs so that the cluster's
// Kubernetes can be told the backends of others.
type Mirror struct {
	// Ports are the Service's, sorted; a headless one may have none, and is then
	// asked for addresses alone.
	Ports []Port
	// IPv4 and IPv6 say which families it has.
	IPv4, IPv6 bool
}

// Mirrored is what the own cluster's Kubernetes is to be told of one service.
type Mirrored struct {
	Name
	// UID is the Service's, with which goes what was written for it.
	UID      string
	Headless bool
	// Sets are sorted by cluster, family and ports; none is without endpoints.
	Sets []MirrorSet
	// Unusable are sorted by cluster.
	Unusable []Unusable
}

// Unusable are addresses that a cluster gives for a service and Kubernetes takes in
// no EndpointSlice: one of them would cost the whole object.
type Unusable struct {
	Cluster string
	Count   int
	First   netip.Addr // the least
}

// Mirrorable reports whether Kubernetes takes an address in an EndpointSlice, and a
// packet to it could get to another cluster's pod: loopback, link-local, multicast,
// unspecified addresses and the broadcast address are none.
func Mirrorable(ip netip.Addr) bool { return ip.IsGlobalUnicast() && !ip.Is4In6() && ip.Zone() == "" }

// MirrorSet is the backends of one cluster and family that serve on the same ports.
type MirrorSet struct {
	Cluster string
	IPv6    bool
	// Ports have the names of the own cluster's Service and the numbers of the
	// backends.
	Ports []Port
	// Endpoints have one address each, none twice, and are sorted by it. Node, zone
	// and target are left out: those names mean something else here.
	Endpoints []Endpoint
}

// Count returns how many endpoints there are in all sets.
func (m *Mirrored) Count() int {
	n := 0
	for i := range m.Sets {
		n += len(m.Sets[i].Endpoints)
	}
	return n
}

// PortsKey tells lists of ports apart.
func PortsKey(ports []Port) string {
	var key strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&key, "%q/%s/%d/%q ", p.Name, p.Protocol, p.Port, p.AppProtocol)
	}
	return key.String()
}

// MeetPorts returns those ports of a frontend, whose ports are all of front, that
// a backend serves, with the backend's numbers.
func MeetPorts(front, back []Port) []Port {
	var met []Port
	for _, p := range front {
		if number, ok := MatchPort(p, front, back); ok && number != 0 {
			p.Port = number
			met = append(met, p)
		}
	}
	slices.SortFunc(met, ComparePorts)
	return met
}

// ParseMirror returns whether annotations ask for other clusters' backends in this
// cluster's Kubernetes; def is what holds when they do not say. A wrong value is a
// problem, and the default applies.
func ParseMirror(annotations map[string]string, def bool) (bool, error) {
	return parseBool(annotations, AnnotationMirror, AnnotationMirrorCilium, def)
}
