package endpoint

import (
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/identity"
)

// Owner is what a node has to know of an address: whose it is and where it
// runs. It is comparable. A published Owner is not changed any more.
type Owner struct {
	Cluster  string
	Identity identity.Number
	// HostIP is the address of the node that it runs on, the zero Addr when
	// that is not known.
	HostIP netip.Addr
	// Namespace and Pod are for people; both are "" for what is no pod.
	Namespace string
	Pod       string
}

// Owner returns whose address a is.
func (a *Address) Owner() Owner {
	return Owner{Cluster: a.Cluster, Identity: a.Identity, HostIP: a.HostIP, Namespace: a.Namespace, Pod: a.Pod}
}
