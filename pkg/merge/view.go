package merge

import (
	"slices"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// refreshView makes the view of a service anew and writes it into delta when
// it is another than the nodes have.
func (s *State) refreshView(e *entry, name service.Name, delta *service.Delta) {
	view := s.makeView(e, name)
	if equalView(e.view, view) {
		return
	}
	e.view = view
	if delta.Views == nil {
		delta.Views = map[service.Name]*service.View{}
	}
	delta.Views[name] = view
}

// makeView returns nil unless the own cluster has the service, as a global one
// and with an address: nodes translate addresses, a name is left to DNS.
func (s *State) makeView(e *entry, name service.Name) *service.View {
	o := e.offers[s.local]
	if o == nil || o.service == nil || !o.service.Global || len(o.service.Frontends) == 0 {
		return nil
	}
	return &service.View{Name: name, Frontends: o.service.Frontends, Groups: s.groups(e, o.service.Affinity), Rules: o.service.Rules}
}

// groups returns the clusters whose backends are used, by the affinity of the
// own cluster's service. The own cluster is always among them.
func (s *State) groups(e *entry, affinity service.Affinity) []service.Group {
	var remote []string
	for cluster, o := range e.offers {
		if cluster != s.local && exported(o) {
			remote = append(remote, cluster)
		}
	}
	slices.Sort(remote)

	var tiers [][]string
	switch own := []string{s.local}; affinity {
	case service.AffinityLocal:
		tiers = [][]string{own, remote}
	case service.AffinityRemote:
		tiers = [][]string{remote, own}
	default:
		all := append(own, remote...)
		slices.Sort(all)
		tiers = [][]string{all}
	}
	var groups []service.Group
	for _, clusters := range tiers {
		if len(clusters) > 0 {
			groups = append(groups, service.Group{Clusters: clusters, Tier: uint8(len(groups))})
		}
	}
	return groups
}

func equalView(a, b *service.View) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Name == b.Name &&
		a.Rules.Equal(b.Rules) &&
		slices.EqualFunc(a.Frontends, b.Frontends, service.Frontend.Equal) &&
		slices.EqualFunc(a.Groups, b.Groups, func(x, y service.Group) bool {
			return x.Tier == y.Tier && x.Weight == y.Weight && slices.Equal(x.Clusters, y.Clusters)
		})
}
