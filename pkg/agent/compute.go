package agent

import (
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// offer is what is known of one service: the view that this cluster has of it,
// and the backends that any cluster offers for it. Either may be missing while
// the other is there.
type offer struct {
	view   *service.View
	slices map[service.BackendSliceKey]*service.BackendSlice
}

// services returns what the data plane must do for o: one service for each
// address and TCP port of its frontends. It is pure.
func (o *offer) services() []datapath.Service {
	if o.view == nil {
		return nil
	}
	var all []datapath.Service
	for _, f := range o.view.Frontends {
		for _, port := range f.Ports {
			if port.Protocol != service.TCP {
				continue
			}
			s := datapath.Service{Frontend: datapath.Frontend{
				Addr:     netip.AddrPortFrom(f.IP.Unmap(), port.Port),
				Protocol: datapath.TCP,
			}}
			for _, g := range o.view.Groups {
				s.Groups = append(s.Groups, o.group(g, s.Frontend, port, len(f.Ports)))
			}
			s.Groups = fold(s.Groups)
			all = append(all, s)
		}
	}
	return all
}

// group returns the ready backends of the group's clusters for one port of a
// frontend. What the frontend cannot use, such as the other IP family, is left out.
func (o *offer) group(g service.Group, f datapath.Frontend, port service.Port, ports int) datapath.Group {
	out := datapath.Group{Tier: g.Tier, Weight: g.Weight}
	for key, slice := range o.slices {
		if !slices.Contains(g.Clusters, key.Cluster) {
			continue
		}
		number, ok := match(port, ports, slice.Ports)
		if !ok {
			continue
		}
		for _, e := range slice.Endpoints {
			b := netip.AddrPortFrom(e.IP.Unmap(), number)
			if e.State == service.BackendReady && f.CanUse(b) {
				out.Backends = append(out.Backends, b)
			}
		}
	}
	return out
}

// match returns the port of a slice that belongs to a frontend's port: the one of
// the same name and protocol. Without a name there must be no choice on either
// side: ports is how many the frontend has.
func match(port service.Port, ports int, offered []service.Port) (uint16, bool) {
	if port.Name == "" && (ports != 1 || len(offered) != 1) {
		return 0, false
	}
	i := slices.IndexFunc(offered, func(p service.Port) bool {
		return p.Name == port.Name && p.Protocol == port.Protocol
	})
	if i < 0 {
		return 0, false
	}
	return offered[i].Port, true
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
	}
	shared.Weight = uint16(min(weight, 1<<16-1))
	return append(slices.Clip(groups[:datapath.MaxGroups-1]), shared)
}
