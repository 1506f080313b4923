package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// newUpdate returns an Update that put can write to.
func newUpdate() merge.Update {
	return merge.Update{
		Nodes:      map[string]*node.Node{},
		Addresses:  map[netip.Prefix]*endpoint.Address{},
		Identities: map[identity.Number]*identity.Identity{},
		Services:   map[service.Name]*service.Service{},
		Slices:     map[merge.SliceName]*service.Slice{},
	}
}

// put decodes what happened to a key into u, if j believes it; id is the number
// of the cluster that says so.
func put(u *merge.Update, j *trust.Judge, l wire.Layout, id cluster.ID, kind wire.Kind, c kvstore.Change) error {
	switch kind {
	case wire.Nodes:
		return putAs(u.Nodes, c, l.ParseNodeKey, l.DecodeNode, func(n *node.Node) error {
			if err := numberNode(c.Key, n, id); err != nil {
				return err
			}
			return j.Node(n)
		})
	case wire.Addresses:
		return putAs(u.Addresses, c, l.ParseAddressKey, l.DecodeAddress, j.Address)
	case wire.Identities:
		return putAs(u.Identities, c, l.ParseIdentityKey, l.DecodeIdentity, j.Identity)
	case wire.Services:
		return putAs(u.Services, c, l.ParseServiceKey, l.DecodeService, j.Service)
	default:
		name := func(key string) (merge.SliceName, error) {
			namespace, name, err := l.ParseSliceKey(key)
			return merge.SliceName{Namespace: namespace, Name: name}, err
		}
		return putAs(u.Slices, c, name, l.DecodeSlice, j.Slice)
	}
}

// numberNode checks that a node is of the cluster of that number: by it the nodes of
// ours judge which identities may come from there. Old publishers leave it out.
func numberNode(key string, n *node.Node, id cluster.ID) error {
	if n.ClusterID != 0 && n.ClusterID != id {
		return fmt.Errorf("decode %q: %w: cluster id %d, not %d", key, wire.ErrWrongCluster, n.ClusterID, id)
	}
	n.ClusterID = id
	return nil
}

func putAs[K comparable, V any](m map[K]*V, c kvstore.Change, parse func(string) (K, error), decode func(string, []byte) (*V, error), judge func(*V) error) error {
	name, err := parse(c.Key)
	if err != nil {
		return err
	}
	if c.Deleted {
		m[name] = nil
		return nil
	}
	decoded, err := decode(c.Key, c.Value)
	if err == nil {
		err = judge(decoded)
	}
	if err != nil {
		return err
	}
	m[name] = decoded
	return nil
}

// inOrder returns the kinds in the order in which they are put in use, and the
// reverse of that in which they go: who is behind an address is known before it,
// and the backends of a service before it. The last two are the other way round
// on the wire (see wire.Kinds): a service whose slices are not known yet would be
// taken for one that has none, and its own list of backends for all there is.
func inOrder() []wire.Kind {
	return []wire.Kind{wire.Identities, wire.Nodes, wire.Addresses, wire.Slices, wire.Services}
}

// kindOf returns the kind of a key, "" for none.
func kindOf(l wire.Layout, key string) wire.Kind {
	for _, kind := range inOrder() {
		if strings.HasPrefix(key, l.Prefix(kind)) {
			return kind
		}
	}
	return ""
}

// rename returns the key of the same object in another layout.
func rename(key string, kind wire.Kind, from, to wire.Layout) string {
	if from == to { // a hub's: one copy in memory for all who remember keys
		return key
	}
	return to.Prefix(kind) + strings.TrimPrefix(key, from.Prefix(kind))
}

// reason is why a key of a kind is refused.
func reason(kind wire.Kind, err error) trust.Reason {
	var refusal *trust.Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal.Reason
	case errors.Is(err, wire.ErrWrongCluster) && kind == wire.Identities:
		return trust.Identity // its label names another cluster, or none
	case errors.Is(err, wire.ErrWrongCluster), errors.Is(err, wire.ErrMismatch):
		return trust.WrongCluster
	case errors.Is(err, wire.ErrTooLarge):
		return trust.TooLarge
	case errors.Is(err, errConflict):
		return trust.AddressConflict
	default:
		return trust.Malformed
	}
}
