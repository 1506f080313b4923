package datapath

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/bpf"
)

// entry is what is known to be in the maps of one service.
type entry struct {
	id         uint32
	generation uint32
	settings
	groups []group
	// terminating is what the last Update named so. The maps do not tell.
	terminating []netip.AddrPort
	// index is there while the groups are large and without doubles.
	index *index
	// stale says that the value in the map may not be the one that the rest
	// of the entry says.
	stale bool
	// deleted says that the service is gone and its slots wait for the sweep.
	deleted bool
}

// settings are what a service's value holds besides its groups.
type settings struct {
	session uint32 // seconds
	flags   uint16
}

func settingsOf(s Service) settings {
	out := settings{session: uint32(s.Session / time.Second)}
	if s.Refuse {
		out.flags |= uint16(bpf.SocketServiceFlagsSERVICE_REFUSES)
	}
	return out
}

type group struct {
	tier   uint8
	weight uint16
	slots  []backend
}

// backend is a target and its id. The zero backend is a slot of unknown content.
type backend struct {
	target
	id uint32
}

type slotWrite struct {
	key     bpf.SocketSlotKey
	backend backend
	before  backend // what the slot had, if it was in use
}

// plan is what leads from one state of a service to the next. Readers go on
// meanwhile, so the parts are put in effect in the order of the fields: nothing
// is referred to before it is there, or removed while it may be referred to.
type plan struct {
	created  []backend   // new backends
	appended []slotWrite // slots that no reader reaches yet
	replaced []slotWrite // slots in use
	groups   []group     // what the service's value then says
	// Nothing refers to these once the value is written.
	droppedSlots    []bpf.SocketSlotKey
	droppedBackends []uint32

	// index is what the groups then have, edit how it gets there; edit is nil
	// when the index is new.
	index   *index
	edit    *edit
	applied bool

	changed bool
}

// newPlan compares an entry with the groups that are wanted. It is pure but for
// newID, which gives each new backend its id. A backend that stands in many
// groups, or many times in one, belongs to the first.
//
// A backend that stays keeps its slot; holes are filled with what has none. So
// the writes are as many as the backends that came and went, whatever the size.
func newPlan(e *entry, wanted []Group, newID func() (uint32, error)) (*plan, error) {
	for len(wanted) > 0 && wanted[len(wanted)-1].empty() { // the same as none
		wanted = wanted[:len(wanted)-1]
	}
	p := &plan{groups: make([]group, len(wanted)), changed: e.stale || len(e.groups) != len(wanted)}
	missing := p.place(e, wanted)
	spare := p.drop(e, len(wanted))
	for i := range p.groups {
		if err := p.fill(e, i, missing[i], spare, newID); err != nil {
			return nil, err
		}
	}
	p.droppedBackends = p.unused(spare)
	return p, nil
}

// empty reports whether g is as good as no group.
func (g Group) empty() bool { return g.Size() == 0 && g.Tier == 0 && g.Weight == 0 }

// unused returns the ids of spare that no slot has, sorted. One may have: when a
// process dies between filling a hole and lowering the count, the next finds
// the same backend in two slots.
func (p *plan) unused(spare map[target]uint32) []uint32 {
	if len(spare) == 0 {
		return nil
	}
	next := entry{groups: p.groups}
	return next.unused(slices.Sorted(maps.Values(spare)))
}

// place puts each backend that stays into the slot that it has, and returns by
// group those that have none.
func (p *plan) place(e *entry, wanted []Group) (missing [][]target) {
	size := 0
	for _, g := range wanted {
		size += g.Size()
	}
	home := make(map[target]int, size) // -1: placed
	missing = make([][]target, len(wanted))
	for i, g := range wanted {
		targets := make([]target, 0, g.Size())
		for b := range g.all() {
			t := targetOf(b)
			if _, twice := home[t]; !twice {
				home[t] = i
				targets = append(targets, t)
			}
		}
		missing[i] = targets
		p.groups[i] = group{tier: g.Tier, weight: g.Weight, slots: make([]backend, len(targets))}
	}
	for i, g := range p.groups {
		if i >= len(e.groups) {
			break
		}
		p.changed = p.changed || g.tier != e.groups[i].tier || g.weight != e.groups[i].weight
		for j := range min(len(g.slots), len(e.groups[i].slots)) {
			b := e.groups[i].slots[j]
			if at, ok := home[b.target]; ok && at == i && b.id != 0 {
				g.slots[j] = b
				home[b.target] = -1
			}
		}
	}
	for i := range missing {
		missing[i] = slices.DeleteFunc(missing[i], func(t target) bool { return home[t] == -1 })
	}
	return missing
}

// drop notes the slots that no group reaches any more, and returns the ids of
// the backends that have lost their slot.
func (p *plan) drop(e *entry, groups int) (spare map[target]uint32) {
	spare = map[target]uint32{}
	for i, g := range e.groups {
		kept := 0
		if i < groups {
			kept = len(p.groups[i].slots)
		}
		for j, b := range g.slots {
			if j >= kept {
				p.changed = true
				p.droppedSlots = append(p.droppedSlots, slotKey(e.id, i, j))
			}
			if (j >= kept || p.groups[i].slots[j] != b) && b.id != 0 {
				spare[b.target] = b.id
			}
		}
	}
	return spare
}

// fill gives the slots of a group that are still empty to the targets that have none.
func (p *plan) fill(e *entry, i int, missing []target, spare map[target]uint32, newID func() (uint32, error)) error {
	used := 0
	if i < len(e.groups) {
		used = len(e.groups[i].slots)
	}
	slots := p.groups[i].slots
	for j := range slots {
		if slots[j].id != 0 {
			continue
		}
		b := backend{target: missing[0]}
		missing = missing[1:]
		if id, ok := spare[b.target]; ok {
			b.id = id
			delete(spare, b.target)
		} else {
			id, err := newID()
			if err != nil {
				return err
			}
			b.id = id
			p.created = append(p.created, b)
		}
		slots[j] = b
		p.changed = true
		write := slotWrite{key: slotKey(e.id, i, j), backend: b}
		if j < used {
			write.before = e.groups[i].slots[j]
			p.replaced = append(p.replaced, write)
		} else {
			p.appended = append(p.appended, write)
		}
	}
	return nil
}

func slotKey(service uint32, group, index int) bpf.SocketSlotKey {
	return bpf.SocketSlotKey{Service: service, Group: uint32(group), Index: uint32(index)}
}

// replace notes that a plan failed after it had written the first n of the slots
// that it replaces. It returns the ids of backends that lost their last slot so.
func (e *entry) replace(p *plan, n int) []uint32 {
	e.stale = true
	e.index = nil
	var lost []uint32
	for i, w := range p.replaced {
		slot := &e.groups[w.key.Group].slots[w.key.Index]
		if i >= n {
			*slot = w.before
			continue
		}
		*slot = w.backend
		if w.before.id != 0 {
			lost = append(lost, w.before.id)
		}
	}
	return e.unused(lost)
}

// unused returns those of ids that no slot has.
func (e *entry) unused(ids []uint32) []uint32 {
	used := map[uint32]bool{}
	for _, id := range ids {
		used[id] = false
	}
	e.each(func(_ bpf.SocketSlotKey, b backend) {
		if _, asked := used[b.id]; asked {
			used[b.id] = true
		}
	})
	return slices.DeleteFunc(slices.Clone(ids), func(id uint32) bool { return used[id] })
}

// contains reports whether a slot is in use.
func (e *entry) contains(k bpf.SocketSlotKey) bool {
	return !e.deleted && int(k.Group) < len(e.groups) && int(k.Index) < len(e.groups[k.Group].slots)
}

// each calls fn for every slot and backend of the entry.
func (e *entry) each(fn func(bpf.SocketSlotKey, backend)) {
	for i, g := range e.groups {
		for j, b := range g.slots {
			fn(slotKey(e.id, i, j), b)
		}
	}
}
