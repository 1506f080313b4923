package merge

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
)

// holdings are values of which there is one for each key in the whole mesh,
// whoever says so. When more than one cluster does, the own wins, then the
// first by name: so what the nodes have does not depend on who came first.
type holdings[K comparable, V any] struct {
	local string
	equal func(a, b V) bool
	held  map[K]claim[V]
	// others are the claims that lost, which are few: by key, then cluster.
	others map[K]map[string]V
}

// claim is what one cluster says about a key.
type claim[V any] struct {
	cluster string
	value   V
}

func newHoldings[K comparable, V any](local string, equal func(a, b V) bool) *holdings[K, V] {
	return &holdings[K, V]{local: local, equal: equal, held: map[K]claim[V]{}, others: map[K]map[string]V{}}
}

// set takes a cluster's claim and reports whether another value is held now.
func (h *holdings[K, V]) set(key K, cluster string, value V) bool {
	have, contested := h.held[key]
	switch {
	case contested && have.cluster != cluster && !h.before(cluster, have.cluster):
		h.lose(key, cluster, value)
		return false
	case contested && have.cluster != cluster:
		h.lose(key, have.cluster, have.value)
	}
	h.held[key] = claim[V]{cluster, value}
	return !contested || !h.equal(have.value, value)
}

// remove ends a cluster's claim and reports whether what is held changed. The
// next cluster that claims the key has it then, if there is one.
func (h *holdings[K, V]) remove(key K, cluster string) bool {
	if h.held[key].cluster != cluster {
		h.drop(key, cluster)
		return false
	}
	rest := h.others[key]
	if len(rest) == 0 {
		delete(h.held, key)
		return true
	}
	next := slices.MinFunc(slices.Collect(maps.Keys(rest)), func(a, b string) int {
		if h.before(a, b) {
			return -1
		}
		return 1
	})
	old := h.held[key].value
	h.held[key] = claim[V]{next, rest[next]}
	h.drop(key, next)
	return !h.equal(old, h.held[key].value)
}

// before says who wins of two different clusters.
func (h *holdings[K, V]) before(a, b string) bool {
	return a == h.local || b != h.local && a < b
}

func (h *holdings[K, V]) lose(key K, cluster string, value V) {
	if h.others[key] == nil {
		h.others[key] = map[string]V{}
	}
	h.others[key][cluster] = value
}

func (h *holdings[K, V]) drop(key K, cluster string) {
	delete(h.others[key], cluster)
	if len(h.others[key]) == 0 {
		delete(h.others, key)
	}
}

// change applies one cluster's changes to the keys that it is known to have and
// to what is held, and returns what is different for the nodes; made says what
// is kept of a value.
func change[K comparable, W, V any](h *holdings[K, V], cluster string, known map[K]struct{}, changes map[K]*W, made func(K, *W) V) map[K]*V {
	var out map[K]*V
	for key, value := range changes {
		changed := false
		if value != nil {
			known[key] = struct{}{}
			changed = h.set(key, cluster, made(key, value))
		} else if _, had := known[key]; had {
			delete(known, key)
			changed = h.remove(key, cluster)
		}
		if !changed {
			continue
		}
		if out == nil {
			out = make(map[K]*V, len(changes))
		}
		out[key] = nil
		if now, ok := h.held[key]; ok {
			out[key] = &now.value
		}
	}
	return out
}

func ownedBy(cluster string) func(netip.Prefix, *endpoint.Address) endpoint.Owner {
	return func(_ netip.Prefix, a *endpoint.Address) endpoint.Owner {
		owner := a.Owner()
		owner.Cluster = cluster
		return owner
	}
}

func numbered(n identity.Number, i *identity.Identity) identity.Identity {
	return identity.Identity{Number: n, Labels: i.Labels}
}

// changeNodes does the same for a cluster's nodes, whose names are its own.
func changeNodes(cluster string, known, changes map[string]*node.Node) map[node.Key]*node.Node {
	var out map[node.Key]*node.Node
	for name, value := range changes {
		had := known[name]
		if value != nil {
			value = reduced(cluster, name, value)
		}
		if equalNode(had, value) {
			continue
		}
		if value != nil {
			known[name] = value
		} else {
			delete(known, name)
		}
		if out == nil {
			out = make(map[node.Key]*node.Node, len(changes))
		}
		out[node.Key{Cluster: cluster, Name: name}] = value
	}
	return out
}

// reduced returns what other nodes need of a node.
func reduced(cluster, name string, n *node.Node) *node.Node {
	return &node.Node{Cluster: cluster, ClusterID: n.ClusterID, Name: name, Addresses: n.Addresses, PodCIDRs: n.PodCIDRs}
}

func equalNode(a, b *node.Node) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.ClusterID == b.ClusterID && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.PodCIDRs, b.PodCIDRs)
}
