package merge

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// entry is all that the clusters say about one service name.
type entry struct {
	offers map[string]*offer // by cluster
	// view is what the nodes have; nil when the service is none of theirs.
	view *service.View
}

// offer is one cluster's side of a service.
type offer struct {
	// service is nil while only slices are known.
	service *service.Service
	slices  map[string]*service.Slice
	// parts are what the nodes have of it, by slice.
	parts map[string][]*service.BackendSlice
	// used says that the nodes have all of it; parts is empty otherwise.
	used bool
}

func (s *State) offer(name service.Name, cluster string) *offer {
	e := s.services[name]
	if e == nil {
		e = &entry{offers: map[string]*offer{}}
		s.services[name] = e
	}
	o := e.offers[cluster]
	if o == nil {
		o = &offer{slices: map[string]*service.Slice{}, parts: map[string][]*service.BackendSlice{}}
		e.offers[cluster] = o
	}
	return o
}

// refresh brings what the nodes have of one service up to date with a change
// in one cluster's side of it, and writes the difference into delta.
func (s *State) refresh(cluster string, name service.Name, t *touch, delta *service.Delta) {
	e := s.services[name]
	if t.service {
		s.refreshView(e, name, delta)
	}
	if t.service && cluster == s.local {
		// Whether the own cluster has the service as a global one decides on
		// everybody's backends.
		for other, o := range e.offers {
			if other != cluster && o.used != s.uses(e, other, o) {
				s.refreshOffer(e, name, other, delta)
			}
		}
	}
	if o := e.offers[cluster]; t.source || o.used != s.uses(e, cluster, o) {
		s.refreshOffer(e, name, cluster, delta)
	} else if o.used {
		refreshSlices(o, name, cluster, t.slices, delta)
	}
	if o := e.offers[cluster]; o.service == nil && len(o.slices) == 0 {
		delete(e.offers, cluster)
	}
	if len(e.offers) == 0 {
		delete(s.services, name)
	}
}

// uses reports whether the backends of a cluster are for the nodes.
func (s *State) uses(e *entry, cluster string, o *offer) bool {
	if e.view == nil {
		return false
	}
	return cluster == s.local || exported(o)
}

// exported reports whether a remote cluster lets others use its backends.
func exported(o *offer) bool {
	return o.service != nil && o.service.Global && o.service.Shared
}

// refreshOffer compares all that a cluster offers with what the nodes have.
func (s *State) refreshOffer(e *entry, name service.Name, cluster string, delta *service.Delta) {
	o := e.offers[cluster]
	o.used = s.uses(e, cluster, o)
	wanted := map[string]*service.Slice{}
	if o.used {
		wanted = s.sources(cluster, o)
	}
	for slice := range o.parts {
		if wanted[slice] == nil {
			o.setParts(slice, nil, delta)
		}
	}
	for slice, source := range wanted {
		o.setParts(slice, cut(name, cluster, slice, source), delta)
	}
}

// refreshSlices does the same for single slices of an offer that otherwise
// stayed as it was.
func refreshSlices(o *offer, name service.Name, cluster string, changed map[string]struct{}, delta *service.Delta) {
	for slice := range changed {
		if source := o.slices[slice]; source != nil {
			o.setParts(slice, cut(name, cluster, slice, source), delta)
		} else {
			o.setParts(slice, nil, delta)
		}
	}
}

// sources returns the slices that a cluster's backends come from: its slices
// when it has any; for a peer without any, what its service value lists.
func (s *State) sources(cluster string, o *offer) map[string]*service.Slice {
	if len(o.slices) > 0 || cluster == s.local || o.service == nil {
		return o.slices
	}
	return fromBackends(o.service.Backends)
}

// fromBackends groups the backends of a service value by their set of ports,
// since all endpoints of a slice have the same. The set is the slice's name.
func fromBackends(backends []service.Backend) map[string]*service.Slice {
	made := map[string]*service.Slice{}
	for _, b := range backends {
		name := portSet(b.Ports)
		if made[name] == nil {
			made[name] = &service.Slice{Ports: b.Ports}
		}
		made[name].Endpoints = append(made[name].Endpoints, service.Endpoint{
			Addresses: []netip.Addr{b.IP},
			Condition: service.Condition{Ready: true, Serving: true},
			Hostname:  b.Hostname,
		})
	}
	return made
}

func portSet(ports []service.Port) string {
	var b strings.Builder
	for i, p := range ports {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(p.Name + ":" + string(p.Protocol) + ":" + strconv.Itoa(int(p.Port)))
	}
	return b.String()
}

// setParts replaces what the nodes have of one slice. Parts are in order.
func (o *offer) setParts(slice string, parts []*service.BackendSlice, delta *service.Delta) {
	old := o.parts[slice]
	for _, p := range old {
		if partAt(parts, p.Part) == nil {
			setSlice(delta, p.BackendSliceKey, nil)
		}
	}
	for i, p := range parts {
		if had := partAt(old, p.Part); had != nil && equalSlice(had, p) {
			parts[i] = had // the one that others hold already
		} else {
			setSlice(delta, p.BackendSliceKey, p)
		}
	}
	if len(parts) == 0 {
		delete(o.parts, slice)
	} else {
		o.parts[slice] = parts
	}
}

func partAt(parts []*service.BackendSlice, part int) *service.BackendSlice {
	i, found := slices.BinarySearchFunc(parts, part, func(p *service.BackendSlice, want int) int { return p.Part - want })
	if !found {
		return nil
	}
	return parts[i]
}

func setSlice(delta *service.Delta, key service.BackendSliceKey, slice *service.BackendSlice) {
	if delta.Slices == nil {
		delta.Slices = map[service.BackendSliceKey]*service.BackendSlice{}
	}
	delta.Slices[key] = slice
}

// cut makes what nodes need of a slice, in parts of MaxSliceEndpoints. The
// parts are cut before unusable endpoints are left out, so that one that
// becomes ready changes its own part only.
func cut(name service.Name, cluster, slice string, source *service.Slice) []*service.BackendSlice {
	var parts []*service.BackendSlice
	part := 0
	for chunk := range slices.Chunk(source.Endpoints, service.MaxSliceEndpoints) {
		if endpoints := usable(chunk); len(endpoints) > 0 {
			parts = append(parts, &service.BackendSlice{
				BackendSliceKey: service.BackendSliceKey{Service: name, Cluster: cluster, Slice: slice, Part: part},
				Ports:           source.Ports,
				Endpoints:       endpoints,
			})
		}
		part++
	}
	return parts
}

func usable(endpoints []service.Endpoint) []service.BackendEndpoint {
	var out []service.BackendEndpoint
	for i := range endpoints {
		e := &endpoints[i]
		state, ok := stateOf(e.Condition)
		if !ok || len(e.Addresses) == 0 {
			continue
		}
		// Kubernetes: further addresses are the same workload's, use the first.
		out = append(out, service.BackendEndpoint{IP: e.Addresses[0], State: state, Node: e.Node, Pod: podOf(e)})
	}
	return out
}

// stateOf returns how an endpoint may be used, and false when not at all.
func stateOf(c service.Condition) (service.BackendState, bool) {
	switch {
	case c.Ready:
		return service.BackendReady, true
	case c.Serving && c.Terminating:
		return service.BackendTerminating, true
	}
	return 0, false
}

func podOf(e *service.Endpoint) string {
	if e.TargetKind == "Pod" {
		return e.TargetName
	}
	return ""
}

func equalSlice(a, b *service.BackendSlice) bool {
	return a.BackendSliceKey == b.BackendSliceKey && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Endpoints, b.Endpoints)
}
