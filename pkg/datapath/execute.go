package datapath

import (
	"errors"
	"fmt"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// job is what is to be written for one service.
type job struct {
	Frontend
	entry    *entry
	plan     *plan
	settings settings
	known    bool // something of it is in effect already
	err      *error
}

// execute writes what the plans say. All that takes room comes first and is
// taken back when there is none; only then is what readers see changed. What
// many jobs need is written together, and each job's for itself when that meets
// an error, so that it is no other's.
func (d *Datapath) execute(jobs []*job) {
	if len(jobs) == 0 {
		return
	}
	err := d.create(jobs)
	switch {
	case err == nil:
		d.change(jobs)
	case len(jobs) == 1:
		jobs[0].fail(err)
	default:
		for i := range jobs {
			d.execute(jobs[i : i+1])
		}
	}
}

// fail notes why the service is not in effect.
func (j *job) fail(err error) { *j.err = fmt.Errorf("program %v: %w", j.Frontend, err) }

// create writes what no reader reaches yet, or nothing.
func (d *Datapath) create(jobs []*job) error {
	err := d.writeBackends(jobs)
	if err == nil {
		_, err = d.writeSlots(jobs, func(p *plan) []slotWrite { return p.appended })
	}
	if err != nil {
		for _, j := range jobs {
			d.takeBack(j)
		}
	}
	return err
}

// change writes what readers see: the slots in use, then the services' values.
func (d *Datapath) change(jobs []*job) {
	written, err := d.writeSlots(jobs, func(p *plan) []slotWrite { return p.replaced })
	if err == nil {
		err = d.writeServices(jobs)
	}
	switch {
	case err == nil:
		for _, j := range jobs {
			d.commit(j)
		}
	case len(jobs) > 1:
		for i := range jobs { // what is there already is written once more
			d.change(jobs[i : i+1])
		}
	default:
		j := jobs[0]
		if j.known {
			// Old and new backends stand side by side in the slots; all serve.
			d.discard(j.entry, nil, j.entry.replace(j.plan, written))
		}
		d.takeBack(j)
		j.fail(err)
	}
}

// next is what the service's entry is once the plan is in effect.
func (j *job) next() entry {
	e, p := j.entry, j.plan
	return entry{id: e.id, generation: e.generation + 1, settings: j.settings, groups: p.groups, terminating: e.terminating, index: p.index}
}

// commit notes that a service is in effect.
func (d *Datapath) commit(j *job) {
	e := j.entry
	j.plan.commit()
	*e = j.next()
	d.services[j.Frontend] = e
	d.config.Logger.Debug("service written", "frontend", j.Frontend, "id", e.id, "generation", e.generation)
	d.retire(j.Protocol, e, j.plan)
}

func (d *Datapath) writeBackends(jobs []*job) error {
	size := 0
	for _, j := range jobs {
		size += len(j.plan.created)
	}
	ids, values := make([]uint32, 0, size), make([]bpf.SocketBackend, 0, size)
	for _, j := range jobs {
		for _, b := range j.plan.created {
			ids = append(ids, b.id)
			values = append(values, encodeBackend(j.entry.id, j.Protocol, b))
		}
	}
	if _, err := pin.Write(d.maps.backend, ids, values); err != nil {
		return fmt.Errorf("backends: %w", err)
	}
	return nil
}

// writeSlots returns how many of the slots it has written, also with an error.
func (d *Datapath) writeSlots(jobs []*job, which func(*plan) []slotWrite) (int, error) {
	size := 0
	for _, j := range jobs {
		size += len(which(j.plan))
	}
	keys, values := make([]bpf.SocketSlotKey, 0, size), make([]bpf.SocketSlot, 0, size)
	for _, j := range jobs {
		for _, w := range which(j.plan) {
			keys = append(keys, w.key)
			values = append(values, encodeSlot(w.key, w.backend))
		}
	}
	n, err := pin.Write(d.maps.slot, keys, values)
	if err != nil {
		return n, fmt.Errorf("slots: %w", err)
	}
	return n, nil
}

func (d *Datapath) writeServices(jobs []*job) error {
	keys, values := make([]bpf.SocketServiceKey, len(jobs)), make([]bpf.SocketService, len(jobs))
	for i, j := range jobs {
		j.plan.apply()
		next := j.next()
		keys[i] = encodeKey(j.Frontend)
		values[i] = encodeService(keys[i], &next)
	}
	if _, err := pin.Write(d.maps.service, keys, values); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	return nil
}

// takeBack deletes what a plan that failed has written, but for what a slot in
// use refers to.
func (d *Datapath) takeBack(j *job) {
	keys := make([]bpf.SocketSlotKey, len(j.plan.appended))
	for i, w := range j.plan.appended {
		keys[i] = w.key
	}
	var ids []uint32
	for _, b := range j.plan.created {
		ids = append(ids, b.id)
	}
	ids = j.entry.unused(ids)
	if err := errors.Join(pin.Delete(d.maps.slot, keys), pin.Delete(d.maps.backend, ids)); err != nil {
		d.config.Logger.Warn("map entries left behind until the next start", "error", err)
	}
}
