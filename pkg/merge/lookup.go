package merge

import (
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
)

// Owner returns who has an address, by what clusters say of that very address;
// ranges are not looked at.
func (s *State) Owner(address netip.Addr) (endpoint.Owner, bool) {
	c, ok := s.addresses.held[netip.PrefixFrom(address, address.BitLen())]
	if !ok {
		return endpoint.Owner{}, false
	}
	return c.value, true
}

// Labels returns what an identity stands for, "" when nobody has said so.
func (s *State) Labels(n identity.Number) identity.Labels {
	if c, ok := s.identities.held[n]; ok {
		return c.value.Labels
	}
	if kept, ok := s.means.kept[n]; ok {
		return kept.Labels
	}
	return n.ReservedLabels()
}

// AllNodes returns the nodes of all clusters, the own one's among them, in a map
// that is the caller's.
func (s *State) AllNodes() map[node.Key]*node.Node {
	out := map[node.Key]*node.Node{}
	for cluster, m := range s.clusters {
		for name, n := range m.nodes {
			out[node.Key{Cluster: cluster, Name: name}] = n
		}
	}
	return out
}
