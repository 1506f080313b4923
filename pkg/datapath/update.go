package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// Update puts s in effect, whole or not at all. The error wraps ErrService or
// ErrFull where that is the reason; it may be repeated then.
func (d *Datapath) Update(s Service) error {
	s.Frontend = s.Frontend.normal()
	if err := s.Frontend.validate(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var known *index
	if e, ok := d.services[s.Frontend]; ok {
		known = e.index
	}
	if err := s.validate(known); err != nil {
		return err
	}
	return d.update(s)
}

// update is Update without the checks; the caller holds d.mu.
func (d *Datapath) update(s Service) error {
	e, known := d.services[s.Frontend]
	if !known {
		e = &entry{stale: true}
	}
	if e.id == 0 {
		id, err := d.ids.take(serviceIDs)
		if err != nil {
			return err
		}
		e.id = id
	}
	if !slices.Equal(e.terminating, s.Terminating) {
		d.endSockets(s.Protocol)
		e.terminating = slices.Clone(s.Terminating)
	}
	p, err := d.plan(e, s.groups())
	if err != nil {
		return err
	}
	next := settingsOf(s)
	if !p.changed && e.settings == next {
		return nil
	}
	if err := d.execute(s.Frontend, e, p, next, known); err != nil {
		return fmt.Errorf("program %v: %w", s.Frontend, err)
	}
	d.services[s.Frontend] = e
	d.config.Logger.Debug("service written", "frontend", s.Frontend, "id", e.id, "generation", e.generation)
	d.retire(s.Protocol, e, p)
	return nil
}

// plan prefers the way whose work is as large as the change.
func (d *Datapath) plan(e *entry, wanted []Group) (*plan, error) {
	newID := func() (uint32, error) { return d.ids.take(backendIDs) }
	if p, ok, err := e.index.plan(e, wanted, newID); ok || err != nil {
		return p, err
	}
	p, err := newPlan(e, wanted, newID)
	if err == nil {
		p.index = newIndex(p.groups, wanted)
	}
	return p, err
}

// retire takes the backends that have left a service from those who keep them,
// and leaves them and their slots to the sweep.
func (d *Datapath) retire(protocol Protocol, e *entry, p *plan) {
	if len(p.droppedBackends) > 0 {
		d.endSockets(protocol)
	}
	if e.session != 0 || protocol == UDP {
		values := make([]bpf.SocketBackend, len(p.droppedBackends))
		for i, id := range p.droppedBackends {
			values[i] = encodeGone(e.id, id)
		}
		if _, err := pin.Write(d.maps.backend, p.droppedBackends, values); err != nil {
			// They go with the sweep, a moment later.
			d.config.Logger.Warn("backends that are gone not marked", "error", err)
		}
	}
	d.discard(e, p.droppedSlots, p.droppedBackends)
}

// execute writes what the plan says. All that takes room comes first and is
// taken back when there is none; only then is what readers see changed.
func (d *Datapath) execute(f Frontend, e *entry, p *plan, s settings, known bool) error {
	if err := d.writeBackends(e.id, f.Protocol, p.created); err != nil {
		return err
	}
	if _, err := d.writeSlots(p.appended); err != nil {
		d.takeBack(e, p)
		return err
	}
	next := &entry{id: e.id, generation: e.generation + 1, settings: s, groups: p.groups, terminating: e.terminating, index: p.index}
	written, err := d.writeSlots(p.replaced)
	if err == nil {
		key := encodeKey(f)
		p.apply()
		err = d.writeService(key, encodeService(key, next))
	}
	switch {
	case err == nil:
		p.commit()
		*e = *next
	case known:
		// Old and new backends stand side by side in the slots; all serve.
		d.discard(e, nil, e.replace(p, written))
		d.takeBack(e, p)
	default:
		d.takeBack(e, p)
	}
	return err
}

func (d *Datapath) writeBackends(service uint32, protocol Protocol, created []backend) error {
	ids, values := make([]uint32, len(created)), make([]bpf.SocketBackend, len(created))
	for i, b := range created {
		ids[i], values[i] = b.id, encodeBackend(service, protocol, b)
	}
	n, err := pin.Write(d.maps.backend, ids, values)
	if err != nil {
		return errors.Join(fmt.Errorf("backends: %w", err), pin.Delete(d.maps.backend, ids[:n]))
	}
	return nil
}

// writeSlots returns how many of the slots it has written, also with an error.
func (d *Datapath) writeSlots(writes []slotWrite) (int, error) {
	keys, values := make([]bpf.SocketSlotKey, len(writes)), make([]bpf.SocketSlot, len(writes))
	for i, w := range writes {
		keys[i], values[i] = w.key, encodeSlot(w.key, w.backend)
	}
	n, err := pin.Write(d.maps.slot, keys, values)
	if err != nil {
		return n, fmt.Errorf("slots: %w", err)
	}
	return n, nil
}

func (d *Datapath) writeService(key bpf.SocketServiceKey, value bpf.SocketService) error {
	if _, err := pin.Write(d.maps.service, []bpf.SocketServiceKey{key}, []bpf.SocketService{value}); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	return nil
}

// takeBack deletes what a plan that failed has written, but for what a slot in
// use refers to.
func (d *Datapath) takeBack(e *entry, p *plan) {
	keys := make([]bpf.SocketSlotKey, len(p.appended))
	for i, w := range p.appended {
		keys[i] = w.key
	}
	var ids []uint32
	for _, b := range p.created {
		ids = append(ids, b.id)
	}
	ids = e.unused(ids)
	if err := errors.Join(pin.Delete(d.maps.slot, keys), pin.Delete(d.maps.backend, ids)); err != nil {
		d.config.Logger.Warn("map entries left behind until the next start", "error", err)
	}
}

// Delete takes a frontend out of effect; one that is not known is fine.
func (d *Datapath) Delete(f Frontend) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.delete(f.normal())
}

func (d *Datapath) delete(f Frontend) error {
	e, ok := d.services[f]
	if !ok {
		return nil
	}
	key := encodeKey(f)
	if err := d.maps.service.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete %v: %w", f, err)
	}
	delete(d.services, f)
	e.deleted = true
	d.config.Logger.Debug("service deleted", "frontend", f, "id", e.id)
	var slots []bpf.SocketSlotKey
	var backends []uint32
	e.each(func(k bpf.SocketSlotKey, b backend) {
		slots = append(slots, k)
		if b.id != 0 {
			backends = append(backends, b.id)
		}
	})
	d.discard(e, slots, backends)
	d.endSockets(f.Protocol)
	return nil
}

// Prune deletes every frontend that keep does not want, and what earlier
// processes left behind. The caller knows the complete state. keep must not call
// the Datapath.
func (d *Datapath) Prune(keep func(Frontend) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for f := range d.services {
		if !keep(f) {
			errs = append(errs, d.delete(f))
		}
	}
	d.discard(nil, d.orphans.slots, d.orphans.backends)
	d.orphans = garbage{}
	d.endSockets(UDP) // of what left while no process looked
	return errors.Join(errs...)
}

// Complete says that the complete state is in the maps: from now on UDP sockets
// whose backend they do not have are ended. If the programs still
// run on maps of another format or capacity, they move to these now.
func (d *Datapath) Complete() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.complete = true
	if !d.ending.IsZero() {
		defer d.rouse()
	}
	if !d.pending {
		return nil
	}
	if err := d.attach(); err != nil {
		return err
	}
	d.config.Logger.Info("the programs run on the new maps")
	return nil
}
