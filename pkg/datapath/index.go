package datapath

import (
	"net/netip"
	"slices"
	"unsafe"

	"github.com/causeway-mesh/causeway/bpf"
)

// minIndexed is how many backends a service has at least for an index. For
// fewer, looking at all of them is as quick and takes no memory.
const minIndexed = 256

// index finds the slot of a backend, and knows what the slots were made from, so
// that a change of a few among thousands is found without looking at the rest.
type index struct {
	parts  []map[part]bool // by group
	places map[target]place
}

// part is the identity of a slice. It keeps the array alive, so that no other
// can have its address.
type part struct {
	first *netip.AddrPort
	size  int
}

func partOf(s []netip.AddrPort) part { return part{unsafe.SliceData(s), len(s)} }

// place is where a backend stands, and how many times the parts name it.
type place struct {
	group, named int32
	slot         uint32
}

// newIndex returns an index of groups that were made from wanted, nil where
// there is to be none: a backend in two groups would need more than a place.
func newIndex(groups []group, wanted []Group) *index {
	size, named := 0, 0
	for i, g := range groups {
		if len(wanted[i].Backends) > 0 {
			return nil
		}
		size += len(g.slots)
	}
	if size < minIndexed {
		return nil
	}
	x := &index{parts: make([]map[part]bool, len(groups)), places: make(map[target]place, size)}
	for i, g := range groups {
		for j, b := range g.slots {
			x.places[b.target] = place{group: int32(i), slot: uint32(j)}
		}
		x.parts[i] = map[part]bool{}
	}
	for i := range groups {
		for _, s := range wanted[i].Parts {
			if x.parts[i][partOf(s)] {
				continue
			}
			x.parts[i][partOf(s)] = true
			for _, b := range s {
				at := x.places[targetOf(b)]
				if int(at.group) != i {
					return nil
				}
				at.named++
				named++
				x.places[targetOf(b)] = at
			}
		}
	}
	return x
}

// has reports whether a part of a group is in effect. A nil index has none.
func (x *index) has(group int, s []netip.AddrPort) bool {
	return x != nil && group < len(x.parts) && x.parts[group][partOf(s)]
}

// plan does what newPlan does, with work in proportion to the parts that differ.
// It reports false where that is not possible. It is pure like newPlan, and so
// is the plan until it is applied.
func (x *index) plan(e *entry, wanted []Group, newID func() (uint32, error)) (*plan, bool, error) {
	if x == nil || e.stale || len(wanted) != len(x.parts) {
		return nil, false, nil
	}
	p := &plan{groups: slices.Clone(e.groups), index: x, edit: &edit{named: map[target]int32{}}}
	differences, size := make([]difference, len(wanted)), 0
	for i, g := range wanted {
		if len(g.Backends) > 0 || g.Tier != e.groups[i].tier || g.Weight != e.groups[i].weight {
			return nil, false, nil
		}
		d, ok := x.compare(i, g, p.edit)
		if !ok {
			return nil, false, nil
		}
		differences[i] = d
		size += len(e.groups[i].slots) + len(d.come) - len(d.gone)
	}
	if size < minIndexed {
		return nil, false, nil
	}
	for i, d := range differences {
		if err := p.exchange(e, x, i, d, newID); err != nil {
			return nil, false, err
		}
	}
	return p, true, nil
}

// edit is what a plan makes of an index once it is in effect.
type edit struct {
	named      map[target]int32 // changes of place.named
	moved      map[target]place // new places; their named is to be set
	left       []target
	come, gone []partIn
}

type partIn struct {
	group int
	part
}

// difference is which backends of one group come and go.
type difference struct{ come, gone []target }

// compare finds what differs in group i. It reports false when a backend is
// named in another group.
func (x *index) compare(i int, wanted Group, ed *edit) (d difference, ok bool) {
	var order []target
	mine, crossed := map[target]bool{}, false
	count := func(s []netip.AddrPort, by int32) {
		for _, b := range s {
			t := targetOf(b)
			if !mine[t] {
				_, others := ed.named[t]
				crossed = crossed || others
				mine[t] = true
				order = append(order, t)
			}
			ed.named[t] += by
		}
	}
	keep := make(map[part]bool, len(wanted.Parts))
	for _, s := range wanted.Parts {
		id := partOf(s)
		if !x.parts[i][id] && !keep[id] {
			count(s, 1)
			ed.come = append(ed.come, partIn{i, id})
		}
		keep[id] = true
	}
	for id := range x.parts[i] {
		if !keep[id] {
			count(unsafe.Slice(id.first, id.size), -1)
			ed.gone = append(ed.gone, partIn{i, id})
		}
	}
	if crossed {
		return d, false
	}
	for _, t := range order {
		at, known := x.places[t]
		if known && int(at.group) != i {
			return d, false
		}
		switch now := at.named + ed.named[t]; {
		case !known && now > 0:
			d.come = append(d.come, t)
		case known && now == 0:
			d.gone = append(d.gone, t)
		}
	}
	return d, true
}

// exchange puts those that come into the slots of those that go. What is left
// over is appended, or filled from the end.
func (p *plan) exchange(e *entry, x *index, i int, d difference, newID func() (uint32, error)) error {
	if len(d.come)+len(d.gone) == 0 {
		return nil
	}
	p.changed = true
	if p.edit.moved == nil {
		p.edit.moved = map[target]place{}
	}
	slots := e.groups[i].slots
	before, after := len(slots), len(slots)+len(d.come)-len(d.gone)
	var holes []int
	leaves := make(map[int]bool, len(d.gone))
	for _, t := range d.gone {
		at := int(x.places[t].slot)
		leaves[at] = true
		holes = append(holes, at)
		p.droppedBackends = append(p.droppedBackends, slots[at].id)
	}
	p.edit.left = append(p.edit.left, d.gone...)
	slices.Sort(holes)
	slices.Sort(p.droppedBackends)
	put := func(j int, b backend) {
		w := slotWrite{key: slotKey(e.id, i, j), backend: b}
		if j < before {
			w.before = slots[j]
			p.replaced = append(p.replaced, w)
		} else {
			p.appended = append(p.appended, w)
		}
		p.edit.moved[b.target] = place{group: int32(i), slot: uint32(j)}
	}
	next := before
	for _, t := range d.come {
		id, err := newID()
		if err != nil {
			return err
		}
		b := backend{t, id}
		p.created = append(p.created, b)
		if len(holes) > 0 {
			put(holes[0], b)
			holes = holes[1:]
		} else {
			put(next, b)
			next++
		}
	}
	last := before - 1
	for _, hole := range holes {
		if hole >= after {
			break
		}
		for leaves[last] {
			last--
		}
		put(hole, slots[last])
		last--
	}
	for j := after; j < before; j++ {
		p.droppedSlots = append(p.droppedSlots, slotKey(e.id, i, j))
	}
	p.groups[i].slots = slots[:min(before, after)]
	return nil
}

// apply makes the plan's groups. Until then those of an index share their slots
// with the entry's; should the plan fail afterwards, entry.replace undoes it.
func (p *plan) apply() {
	if p.edit == nil || p.applied {
		return
	}
	p.applied = true
	for _, w := range p.replaced {
		if slots := p.groups[w.key.Group].slots; int(w.key.Index) < len(slots) {
			slots[w.key.Index] = w.backend
		}
	}
	for _, w := range p.appended {
		g := &p.groups[w.key.Group]
		g.slots = append(g.slots, w.backend)
	}
}

// commit brings the index up to date with a plan that is in effect.
func (p *plan) commit() {
	if p.edit == nil {
		return
	}
	x, ed := p.index, p.edit
	for _, t := range ed.left {
		delete(x.places, t)
	}
	for t, at := range ed.moved {
		at.named = x.places[t].named
		x.places[t] = at
	}
	for t, by := range ed.named {
		if at, ok := x.places[t]; ok {
			at.named += by
			x.places[t] = at
		}
	}
	for _, c := range ed.come {
		x.parts[c.group][c.part] = true
	}
	for _, g := range ed.gone {
		delete(x.parts[g.group], g.part)
	}
}

// serves reports whether t is a backend of the entry.
func (e *entry) serves(t target) bool {
	if e.index != nil {
		_, ok := e.index.places[t]
		return ok || slices.Contains(e.terminating, t.addrPort())
	}
	found := slices.Contains(e.terminating, t.addrPort())
	e.each(func(_ bpf.SocketSlotKey, b backend) { found = found || b.target == t })
	return found
}
