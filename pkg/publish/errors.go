package publish

import "errors"

var (
	// errNoClusterIP is a Service's problem: nothing can be programmed for it.
	errNoClusterIP = errors.New("the global Service has no clusterIP, so its clients have no address to use; set spec.clusterIP")
	// errRangeFull is returned when every identity that the cluster may
	// allocate means something, or rests.
	errRangeFull = errors.New("every identity of this cluster is in use; new label sets get 'unmanaged' until some are freed. " +
		"Leave labels that differ from pod to pod out of identities (--identity-excluded-labels)")
	// errMeshFull is returned when every mesh address is a node's, or rests.
	errMeshFull = errors.New("every address of --mesh-cidr is a node's or rests for a day after one; nodes without one take no part in the routing between clusters. " +
		"Give a larger range that contains the present one: nodes keep their addresses then")
	// errMeshOverlap is returned for a node whose addresses are in the mesh's range.
	errMeshOverlap = errors.New("it gets no mesh address; give --mesh-cidr a range that nothing else uses")
	// errStandby is returned while another replica has to allocate an identity.
	errStandby = errors.New("new workloads and nodes wait for the replica that writes to allocate what they need")
	// errLedger is returned for saved allocations that are not to be used.
	errLedger = errors.New("the saved allocations cannot be used")
	// errClaim is returned when an allocation in etcd is not ours to read.
	errClaim = errors.New("another program wrote them, or a newer version; their numbers are not used")
)
