// Package service holds a Service as one cluster sees or publishes it, the
// slices of its backends, and the rules of the annotations. It does no I/O.
package service

import (
	"net/netip"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// Name is a Service's namespace and name: the same Name is the same service in
// every cluster.
type Name struct {
	Namespace string
	Name      string
}

// String returns namespace/name.
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Protocol is the transport of a port.
type Protocol string

// The protocols of Kubernetes.
const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	SCTP Protocol = "SCTP"
)

// Port is a port of a frontend or of a backend. Frontends and backends meet by
// Name and Protocol; a single unnamed port meets only a single unnamed port.
type Port struct {
	Name     string
	Protocol Protocol
	// Port is 0 only in a Slice that leaves it open: nothing can be dialled there.
	Port uint16
	// AppProtocol is carried through; "" when there is none.
	AppProtocol string
}

// Frontend is an address that clients of the service use, with all its ports.
type Frontend struct {
	IP    netip.Addr
	Ports []Port
}

// Equal reports whether two frontends are the same.
func (f Frontend) Equal(o Frontend) bool { return f.IP == o.IP && slices.Equal(f.Ports, o.Ports) }

// Backend is what the protocol's service value, not a slice, says of one address.
type Backend struct {
	IP       netip.Addr
	Ports    []Port
	Hostname string
	Zone     string
	ForZones []string
}

// Service is a Service of one cluster. A published Service is not changed any
// more. All lists are sorted (frontends and backends by IP, ports by name,
// protocol, port), so that equal services are deeply equal.
type Service struct {
	Name
	Cluster   string
	ClusterID cluster.ID
	// Frontends is empty for a headless service.
	Frontends []Frontend
	// Backends is what a remote service value carried; local services leave it
	// empty until they are published, slices are the source.
	Backends []Backend
	Labels   map[string]string
	Selector map[string]string
	// Global says that the service uses backends of other clusters
	// (includeExternal in the protocol).
	Global bool
	// Shared says that other clusters may use its backends.
	Shared bool
	// Affinity is known for the own cluster's services only: it is not published.
	Affinity Affinity
	// Headless is known for the own cluster's services only.
	Headless bool
	// Rules too is known for the own cluster's services only.
	Rules
	// UID and Mirror too. Mirror is nil where the own cluster's Kubernetes is not
	// told remote backends.
	UID    string
	Mirror *Mirror
}

// Rules are what a Service says about its own cluster's clients.
type Rules struct {
	// External are addresses besides Frontends at which clients find the service:
	// external IPs, and those of load balancers.
	External []Frontend
	// Session is for how long a client keeps the backend that it used last; 0
	// for not at all. Whole seconds.
	Session time.Duration
	// NodeLocal says that clients of Frontends use backends on their own node
	// alone, and are refused when it has none.
	NodeLocal bool
}

// Equal reports whether two Rules say the same.
func (r Rules) Equal(o Rules) bool {
	return r.Session == o.Session && r.NodeLocal == o.NodeLocal && slices.EqualFunc(r.External, o.External, Frontend.Equal)
}

// Condition is the state of an endpoint, in Kubernetes' three booleans.
type Condition struct {
	Ready       bool
	Serving     bool
	Terminating bool
}

// Endpoint is one workload behind a slice.
type Endpoint struct {
	Addresses []netip.Addr // of the slice's family, at least one
	Condition Condition
	Hostname  string
	Node      string
	Zone      string
	ForZones  []string
	// TargetKind, TargetNamespace, TargetName and TargetUID name the object
	// behind the endpoint, mostly a Pod; all may be "".
	TargetKind, TargetNamespace, TargetName, TargetUID string
}

// Slice is an endpoint slice of one cluster. Service is its service's name
// inside the same namespace. A published Slice is not changed any more.
// Endpoints are sorted by first address, ports by name, protocol and port.
type Slice struct {
	Cluster   string
	ClusterID cluster.ID
	Namespace string
	Name      string
	Service   string
	// Labels and Annotations are what the publisher sent, the label that names
	// the service included.
	Labels      map[string]string
	Annotations map[string]string
	IPv6        bool
	Endpoints   []Endpoint
	Ports       []Port
}

// ServiceName returns the name of the service that the slice belongs to.
func (s *Slice) ServiceName() Name { return Name{Namespace: s.Namespace, Name: s.Service} }

// LabelServiceName is the label by which a slice names its service.
const LabelServiceName = "kubernetes.io/service-name"
