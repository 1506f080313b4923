package agent

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// self is where this agent runs.
type self struct{ cluster, node string }

// offer is what is known of one service: the view that this cluster has of it,
// and the backends that any cluster offers for it. Either may be missing while
// the other is there.
type offer struct {
	view *service.View
	// slices are sorted by key. Most services have one: a map of their own
	// would be most of what the agent holds.
	slices []*service.BackendSlice
	// shares are what was made of the slices of a large service, so that a
	// change of one costs no look at the others. nil for all others.
	shares map[shareKey]share
}

// minShared is how many slices a service has at least for its shares to be kept.
const minShared = 4

// use is what decides about an endpoint, apart from the endpoint.
type use struct {
	port      uint16
	v4        bool
	nodeLocal bool
}

type shareKey struct {
	slice service.BackendSliceKey
	use
}

// share are the backends of one slice that a frontend can use.
type share struct {
	of                 *service.BackendSlice
	ready, terminating []netip.AddrPort
}

// services returns what the data plane must do for o: one service for each
// address and port of its frontends, but those of protocols that it leaves alone.
func (o *offer) services(where self) []datapath.Service {
	if o.view == nil {
		return nil
	}
	if len(o.slices) < minShared {
		o.shares = nil
	} else if o.shares == nil {
		o.shares = map[shareKey]share{}
	}
	var all []datapath.Service
	for _, f := range o.view.Frontends {
		all = o.frontend(all, f, o.view.NodeLocal, where)
	}
	// Kubernetes: traffic to external addresses that is born inside goes to any node.
	for _, f := range o.view.External {
		all = o.frontend(all, f, false, where)
	}
	return all
}

func (o *offer) frontend(all []datapath.Service, f service.Frontend, nodeLocal bool, where self) []datapath.Service {
	for _, port := range f.Ports {
		protocol, ok := protocolOf(port.Protocol)
		if !ok {
			continue
		}
		s := datapath.Service{
			Frontend: datapath.Frontend{Addr: netip.AddrPortFrom(f.IP.Unmap(), port.Port), Protocol: protocol},
			Session:  o.view.Session,
			Refuse:   nodeLocal,
		}
		groups := o.view.Groups
		if nodeLocal {
			groups = []service.Group{{Clusters: []string{where.cluster}}}
		}
		for _, g := range groups {
			s.Groups = append(s.Groups, o.group(g, &s, port, f.Ports, nodeLocal, where))
		}
		s.Groups = fold(s.Groups)
		all = append(all, s)
	}
	return all
}

// protocolOf reports false for what the data plane does not translate.
func protocolOf(p service.Protocol) (datapath.Protocol, bool) {
	switch p {
	case service.TCP:
		return datapath.TCP, true
	case service.UDP:
		return datapath.UDP, true
	}
	return 0, false
}

// group returns the ready backends of the group's clusters for one port of a
// frontend, and adds the terminating ones to s. What the frontend cannot use,
// such as the other IP family, is left out.
func (o *offer) group(g service.Group, s *datapath.Service, port service.Port, ports []service.Port, nodeLocal bool, where self) datapath.Group {
	out := datapath.Group{Tier: g.Tier, Weight: g.Weight}
	for _, slice := range o.slices {
		if !slices.Contains(g.Clusters, slice.Cluster) {
			continue
		}
		number, ok := service.MatchPort(port, ports, slice.Ports)
		if !ok {
			continue
		}
		share := o.share(slice, s.Frontend, use{number, s.Addr.Addr().Is4(), nodeLocal}, where)
		if o.shares == nil {
			out.Backends = append(out.Backends, share.ready...)
		} else if len(share.ready) > 0 {
			out.Parts = append(out.Parts, share.ready)
		}
		s.Terminating = append(s.Terminating, share.terminating...)
	}
	// Those of another order would be others to the data plane.
	slices.SortFunc(s.Terminating, netip.AddrPort.Compare)
	return out
}

// share returns what was made of the slice before, or makes it.
func (o *offer) share(slice *service.BackendSlice, f datapath.Frontend, u use, where self) share {
	key := shareKey{slice.BackendSliceKey, u}
	if had := o.shares[key]; had.of == slice {
		return had
	}
	made := share{of: slice}
	for _, e := range slice.Endpoints {
		b := netip.AddrPortFrom(e.IP.Unmap(), u.port)
		if !f.CanUse(b) || (u.nodeLocal && e.Node != where.node) {
			continue
		}
		if e.State == service.BackendReady {
			made.ready = append(made.ready, b)
		} else {
			made.terminating = append(made.terminating, b)
		}
	}
	if o.shares != nil {
		o.shares[key] = made
	}
	return made
}

// set puts a slice in the place of the one of that key; nil takes that out.
func (o *offer) set(key service.BackendSliceKey, slice *service.BackendSlice) {
	o.forget(key)
	i, found := slices.BinarySearchFunc(o.slices, key, func(s *service.BackendSlice, key service.BackendSliceKey) int {
		return compareKeys(s.BackendSliceKey, key)
	})
	switch {
	case slice == nil && found:
		o.slices = slices.Delete(o.slices, i, i+1)
	case slice != nil && found:
		o.slices[i] = slice
	case slice != nil:
		o.slices = slices.Insert(o.slices, i, slice)
	}
}

// compareKeys orders the slices of one service.
func compareKeys(a, b service.BackendSliceKey) int {
	return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Slice, b.Slice), cmp.Compare(a.Part, b.Part))
}

// forget drops what was made of a slice.
func (o *offer) forget(slice service.BackendSliceKey) {
	for key := range o.shares {
		if key.slice == slice {
			delete(o.shares, key)
		}
	}
}

// fold makes the groups fit into the data plane: those of the highest tiers that
// are too many share one.
func fold(groups []datapath.Group) []datapath.Group {
	if len(groups) <= datapath.MaxGroups {
		return groups
	}
	rest := groups[datapath.MaxGroups-1:]
	shared := datapath.Group{Tier: rest[0].Tier}
	weight := 0
	for _, g := range rest {
		weight += int(g.Weight)
		shared.Backends = append(shared.Backends, g.Backends...)
		shared.Parts = append(shared.Parts, g.Parts...)
	}
	shared.Weight = uint16(min(weight, 1<<16-1))
	return append(slices.Clip(groups[:datapath.MaxGroups-1]), shared)
}
