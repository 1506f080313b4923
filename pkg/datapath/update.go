package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// updatePiece is how many services are written together: the system calls are as
// many whether they are two or a hundred, and whoever else needs the Datapath
// waits until all are.
const updatePiece = 256

// Update puts s in effect, whole or not at all. The error wraps ErrService or
// ErrFull where that is the reason; it may be repeated then.
func (d *Datapath) Update(s Service) error { return d.UpdateAll([]Service{s})[0] }

// UpdateAll does what Update does for each service, and returns the errors in the
// same order. Services that are written together cost a fraction; each is in
// effect whole or not at all nevertheless, and costs no other anything. No two may
// have the same Frontend.
func (d *Datapath) UpdateAll(services []Service) []error {
	errs := make([]error, len(services))
	d.expect(len(services))
	for first := 0; first < len(services); first += updatePiece {
		last := min(first+updatePiece, len(services))
		d.updateSome(services[first:last], errs[first:last])
	}
	return errs
}

// expect makes room for the first services.
func (d *Datapath) expect(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.services) == 0 {
		d.services = make(map[Frontend]*entry, n)
	}
}

func (d *Datapath) updateSome(services []Service, errs []error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	jobs := make([]*job, 0, len(services))
	named := make(map[Frontend]bool, len(services))
	for i, s := range services {
		s.Frontend = s.Frontend.normal()
		if named[s.Frontend] {
			errs[i] = fmt.Errorf("%v: named twice: %w", s.Frontend, ErrService)
			continue
		}
		named[s.Frontend] = true
		if errs[i] = d.validate(s); errs[i] != nil {
			continue
		}
		j, err := d.prepare(s)
		if errs[i] = err; j != nil {
			j.err = &errs[i]
			jobs = append(jobs, j)
		}
	}
	d.execute(jobs)
}

// validate returns why s cannot be put in effect. The caller holds d.mu.
func (d *Datapath) validate(s Service) error {
	if err := s.Frontend.validate(); err != nil {
		return err
	}
	var known *index
	if e, ok := d.services[s.Frontend]; ok {
		known = e.index
	}
	return s.validate(known)
}

// update is Update without the checks; the caller holds d.mu.
func (d *Datapath) update(s Service) error {
	j, err := d.prepare(s)
	if j != nil {
		j.err = &err
		d.execute([]*job{j})
	}
	return err
}

// prepare returns what is to be written for s, nil for nothing.
func (d *Datapath) prepare(s Service) (*job, error) {
	e, known := d.services[s.Frontend]
	if !known {
		e = &entry{stale: true}
	}
	if e.id == 0 {
		id, err := d.ids.take(serviceIDs)
		if err != nil {
			return nil, err
		}
		e.id = id
	}
	if !slices.Equal(e.terminating, s.Terminating) {
		d.endSockets(s.Protocol)
		e.terminating = slices.Clone(s.Terminating)
	}
	p, err := d.plan(e, s.groups())
	if err != nil {
		return nil, err
	}
	next := settingsOf(s)
	if !p.changed && e.settings == next {
		return nil, nil
	}
	return &job{Frontend: s.Frontend, entry: e, plan: p, settings: next, known: known}, nil
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
