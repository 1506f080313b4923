package merge

import (
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// SliceName names an endpoint slice inside its cluster.
type SliceName struct {
	Namespace string
	Name      string
}

// Update is a batch of changes of one cluster's state, by kind. A nil value is
// a deletion. The receiver of an Update owns the maps; the values are shared
// and never changed.
type Update struct {
	Nodes      map[string]*node.Node
	Addresses  map[netip.Prefix]*endpoint.Address
	Identities map[identity.Number]*identity.Identity
	Services   map[service.Name]*service.Service
	Slices     map[SliceName]*service.Slice
}

// Len returns the number of changes.
func (u *Update) Len() int {
	return len(u.Nodes) + len(u.Addresses) + len(u.Identities) + len(u.Services) + len(u.Slices)
}
