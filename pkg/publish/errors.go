package publish

import "errors"

var (
	// errNoClusterIP is a Service's problem: nothing can be programmed for it.
	errNoClusterIP = errors.New("the global Service has no clusterIP, so its clients have no address to use; set spec.clusterIP")
	// errRangeFull is returned when every identity that the cluster may
	// allocate means something, or rests.
	errRangeFull = errors.New("every identity of this cluster is in use; new label sets get 'unmanaged' until some are freed. " +
		"Leave labels that differ from pod to pod out of identities (--identity-excluded-labels)")
	// errStandby is returned while another replica has to allocate an identity.
	errStandby = errors.New("addresses of new workloads wait for the replica that writes to allocate their identity")
	// errLedger is returned for saved allocations that are not to be used.
	errLedger = errors.New("the saved identities cannot be used")
	// errClaim is returned when an allocation in etcd is not ours to read.
	errClaim = errors.New("another program wrote them, or a newer version; their numbers are not used")
)
