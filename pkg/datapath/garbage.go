package datapath

import (
	"context"
	"errors"
	"time"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// grace is how long slots and backends stay after nothing refers to them: a
// connect that read the service's value just before still follows it.
const grace = time.Second

// garbage is what can be deleted once its time has come.
type garbage struct {
	due      time.Time
	entry    *entry // of the slots; nil: no service has them
	slots    []bpf.SocketSlotKey
	backends []uint32
}

// discard leaves slots and backends to the sweep. The caller holds d.mu.
func (d *Datapath) discard(e *entry, slots []bpf.SocketSlotKey, backends []uint32) {
	if len(slots)+len(backends) == 0 {
		return
	}
	d.garbage = append(d.garbage, garbage{time.Now().Add(grace), e, slots, backends})
	if len(d.garbage) == 1 {
		d.rouse()
	}
}

// rouse has Run look at what there is to do.
func (d *Datapath) rouse() {
	select {
	case d.wake <- struct{}{}:
	default: // Run knows already
	}
}

// Run deletes what nothing refers to any more, a second after, and ends the UDP
// sockets whose backend has gone. Without it the maps work, and fill up. It
// returns nil once ctx is done; what is then left is found by the next process.
func (d *Datapath) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-timer.C:
		}
		next, err := d.sweep(time.Now())
		if err != nil {
			d.config.Logger.Warn("sweep of unused map entries", "error", err)
		}
		end, err := d.end(time.Now())
		if err != nil && !failed {
			d.config.Logger.Warn("UDP sockets of backends that are gone go on", "error", err)
		}
		failed = err != nil
		if next = earlier(next, end); next > 0 {
			timer.Reset(next)
		}
	}
}

// earlier returns the shorter of two delays; 0 is none.
func earlier(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}

// end ends sockets if it is time to, and returns after how long it is, 0 for
// not at all. A failure is tried again with the next change.
func (d *Datapath) end(now time.Time) (time.Duration, error) {
	d.mu.Lock()
	due := d.ending
	if due.IsZero() || !d.complete || d.pending {
		d.mu.Unlock()
		return 0, nil
	}
	if wait := due.Sub(now); wait > 0 {
		d.mu.Unlock()
		return wait, nil
	}
	d.ending = time.Time{}
	d.mu.Unlock()
	ended, err := d.endDead()
	if ended > 0 {
		d.config.Logger.Info("UDP sockets ended, their backend is gone", "sockets", ended)
	}
	return 0, err
}

// sweep deletes what is due at now, and returns after how long more is, 0 for
// nothing. What cannot be deleted stays in the maps until the next process
// finds it.
func (d *Datapath) sweep(now time.Time) (time.Duration, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	done := 0
	for _, g := range d.garbage {
		if g.due.After(now) {
			break
		}
		done++
		unused := g.slots[:0]
		for _, k := range g.slots {
			// A group that has grown meanwhile uses the slot again.
			if g.entry == nil || !g.entry.contains(k) {
				unused = append(unused, k)
			}
		}
		errs = append(errs, pin.Delete(d.maps.slot, unused), pin.Delete(d.maps.backend, g.backends))
	}
	d.garbage = append([]garbage(nil), d.garbage[done:]...)
	if len(d.garbage) == 0 {
		return 0, errors.Join(errs...)
	}
	return max(d.garbage[0].due.Sub(now), time.Millisecond), errors.Join(errs...)
}
