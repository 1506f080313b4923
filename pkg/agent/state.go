package agent

import (
	"cmp"
	"maps"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// state is what the feed has said, and which services have changed since they
// were last looked at.
type state struct {
	self   self
	offers map[service.Name]*offer
	dirty  map[service.Name]bool
}

func newState(where self) *state {
	return &state{self: where, offers: map[service.Name]*offer{}, dirty: map[service.Name]bool{}}
}

// apply merges d.
func (s *state) apply(d service.Delta) {
	for name, view := range d.Views {
		s.change(name, func(o *offer) { o.view = view })
	}
	for key, slice := range d.Slices {
		s.change(key.Service, func(o *offer) { o.set(key, slice) })
	}
}

// replace makes d the whole state.
func (s *state) replace(d service.Delta) {
	if len(s.dirty) == 0 {
		s.dirty = make(map[service.Name]bool, max(len(s.offers), len(d.Views)))
	}
	for name := range s.offers {
		s.dirty[name] = true
	}
	s.offers = make(map[service.Name]*offer, len(d.Views))
	s.apply(d)
}

// takeDirty returns the services that have changed, sorted, and forgets that
// they have. The map is not cleared: one that was large once is slow to walk
// ever after.
func (s *state) takeDirty() []service.Name {
	dirty := slices.AppendSeq(make([]service.Name, 0, len(s.dirty)), maps.Keys(s.dirty))
	slices.SortFunc(dirty, compareNames)
	s.dirty = map[service.Name]bool{}
	return dirty
}

func (s *state) change(name service.Name, fn func(*offer)) {
	o := s.offers[name]
	if o == nil {
		o = &offer{}
		s.offers[name] = o
	}
	fn(o)
	if o.view == nil && len(o.slices) == 0 {
		delete(s.offers, name)
	}
	s.dirty[name] = true
}

// services returns what the data plane must do for one service.
func (s *state) services(name service.Name) []datapath.Service {
	if o := s.offers[name]; o != nil {
		return o.services(s.self)
	}
	return nil
}

// claims says which service has which frontend. When two services name the same
// one, which Kubernetes allows for external addresses, the first by name has it,
// whoever came first: so all nodes agree.
type claims struct {
	byFrontend map[datapath.Frontend][]service.Name // sorted, never empty
	byService  map[service.Name][]datapath.Frontend
}

// newClaims returns none, with room for those of so many services.
func newClaims(services int) *claims {
	return &claims{make(map[datapath.Frontend][]service.Name, services), make(map[service.Name][]datapath.Frontend, services)}
}

// set makes name claim these frontends alone, and returns those that it gave up.
func (c *claims) set(name service.Name, services []datapath.Service) (released []datapath.Frontend) {
	wanted := make([]datapath.Frontend, 0, len(services))
	for _, s := range services {
		if !slices.Contains(wanted, s.Frontend) {
			wanted = append(wanted, s.Frontend)
		}
	}
	had := c.byService[name]
	for _, f := range had {
		if !slices.Contains(wanted, f) {
			c.release(f, name)
			released = append(released, f)
		}
	}
	if slices.Equal(had, wanted) {
		return nil
	}
	for _, f := range wanted {
		names := c.byFrontend[f]
		if i, found := slices.BinarySearchFunc(names, name, compareNames); !found {
			c.byFrontend[f] = slices.Insert(names, i, name)
		}
	}
	if len(wanted) == 0 {
		delete(c.byService, name)
	} else {
		c.byService[name] = wanted
	}
	return released
}

func (c *claims) release(f datapath.Frontend, name service.Name) {
	names := slices.DeleteFunc(c.byFrontend[f], func(n service.Name) bool { return n == name })
	if len(names) == 0 {
		delete(c.byFrontend, f)
	} else {
		c.byFrontend[f] = names
	}
}

// owner returns the service that has f.
func (c *claims) owner(f datapath.Frontend) (service.Name, bool) {
	names := c.byFrontend[f]
	if len(names) == 0 {
		return service.Name{}, false
	}
	return names[0], true
}

func compareNames(a, b service.Name) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
