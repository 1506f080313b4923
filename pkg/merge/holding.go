package merge

import (
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
)

// holdings are values of which there is one for each key in the whole mesh,
// whoever says so. When more than one cluster does, the own has it, else the one
// that said so first: nobody takes a key over by claiming it. The next one has it
// when the first has gone.
type holdings[K comparable, V any] struct {
	local string
	equal func(a, b V) bool
	held  map[K]claim[V]
	// others are the claims that lost, which are few, in the order in which they came.
	others map[K][]claim[V]
	// ruled is told of claims that lose, and of those that win after all.
	ruled func(key K, cluster, holder string)
}

// claim is what one cluster says about a key.
type claim[V any] struct {
	cluster string
	value   V
}

func newHoldings[K comparable, V any](local string, equal func(a, b V) bool) *holdings[K, V] {
	return &holdings[K, V]{
		local: local, equal: equal, held: map[K]claim[V]{}, others: map[K][]claim[V]{},
		ruled: func(K, string, string) {},
	}
}

// set takes a cluster's claim and reports whether another value is held now.
func (h *holdings[K, V]) set(key K, cluster string, value V) bool {
	have, contested := h.held[key]
	if contested && have.cluster != cluster {
		if cluster != h.local {
			h.lose(key, claim[V]{cluster, value}, have.cluster)
			return false
		}
		// Of the others it was the first, and is again when the own one has gone.
		h.others[key] = slices.Insert(h.others[key], 0, have)
		h.ruled(key, have.cluster, cluster)
	}
	h.held[key] = claim[V]{cluster, value}
	return !contested || !h.equal(have.value, value)
}

// remove ends a cluster's claim and reports whether what is held changed. The
// next cluster that claims the key has it then, if there is one.
func (h *holdings[K, V]) remove(key K, cluster string) bool {
	rest := h.others[key]
	if h.held[key].cluster != cluster {
		h.keep(key, slices.DeleteFunc(rest, func(c claim[V]) bool { return c.cluster == cluster }))
		return false
	}
	if len(rest) == 0 {
		delete(h.held, key)
		return true
	}
	old := h.held[key].value
	h.held[key] = rest[0]
	h.ruled(key, rest[0].cluster, rest[0].cluster)
	h.keep(key, slices.Delete(rest, 0, 1))
	return !h.equal(old, h.held[key].value)
}

// lose keeps a claim for later; a cluster keeps its place when it says
// something else.
func (h *holdings[K, V]) lose(key K, c claim[V], holder string) {
	for i, known := range h.others[key] {
		if known.cluster == c.cluster {
			h.others[key][i] = c
			return
		}
	}
	h.others[key] = append(h.others[key], c)
	h.ruled(key, c.cluster, holder)
}

func (h *holdings[K, V]) keep(key K, others []claim[V]) {
	if len(others) == 0 {
		delete(h.others, key)
		return
	}
	h.others[key] = others
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
