// Package datapath loads, attaches and fills the programs that run in the
// kernel of a node. It is the only one that speaks to them. What it guarantees:
//
//   - What is attached stays attached, and what is in the maps stays there, when
//     the process ends in whatever way. The next process goes on with both.
//   - Programs are replaced in place: no connection passes between two of them.
//   - A reader in the kernel sees a service as it was or as it is, never a
//     mixture, and no backend that was not its own within the last second.
//   - A write that fails leaves the last good state of its service in effect.
//   - Update, Delete, Prune and Complete may be repeated: what is in effect costs
//     nothing.
package datapath

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// DefaultCapacity is how many entries each map holds unless told otherwise.
const DefaultCapacity = 1 << 20

// Config is what Open needs.
type Config struct {
	// BPFFS is the folder for pins, on a BPF file system; it is made when it is
	// missing. One process at a time can have it.
	BPFFS string
	// Cgroup is the cgroup v2 folder to attach to. "" means the root of the
	// host's hierarchy, as /proc/self/mountinfo shows it.
	Cgroup string
	// MapCapacity is how many services, how many slots and how many backends
	// fit; 0 means DefaultCapacity.
	MapCapacity uint32
	// Reverse says which sockets are told the service's address when they ask
	// for their peer's.
	Reverse Reverse
	Logger  *slog.Logger
	// Registerer, if not nil, gets the metrics of the maps.
	Registerer prometheus.Registerer
}

// Reverse is for which sockets the way back is kept.
type Reverse uint8

// The kinds of Reverse.
const (
	// ReverseUDP is what UDP needs: a datagram that comes back carries the
	// address that it was sent to. It is the default.
	ReverseUDP Reverse = iota
	// ReverseAll has getpeername() too return the service's address, on UDP and
	// TCP sockets, for an entry for each connection.
	ReverseAll
	// ReverseNone keeps no way back. It is for measurements: UDP clients that
	// compare addresses refuse their answers.
	ReverseNone
)

func (r Reverse) kinds() uint32 {
	switch r {
	case ReverseAll:
		return uint32(bpf.SocketReverseKindsREVERSE_UDP | bpf.SocketReverseKindsREVERSE_TCP)
	case ReverseNone:
		return 0
	}
	return uint32(bpf.SocketReverseKindsREVERSE_UDP)
}

// Datapath is the data plane of one node. Its methods may be called from any
// goroutine.
type Datapath struct {
	config   Config
	features Features
	lock     *os.File

	mu       sync.Mutex
	maps     *mapSet
	ids      *sequence
	hooks    []*hook
	services map[Frontend]*entry
	garbage  []garbage
	// orphans are slots and backends that were found without a service; Prune
	// discards them.
	orphans garbage
	// pending says that the hooks still run on other maps, whose format or
	// capacity is not ours, until Complete moves them.
	pending bool
	pinned  bool // the pins name these maps
	closed  bool
	// complete says that the maps hold the complete state, ending since when
	// there may be UDP sockets whose backend is gone; zero for not.
	complete bool
	ending   time.Time
	wake     chan struct{} // there is something to do for Run

	metrics *metrics
}

// Open takes the bpffs folder, adopts the maps and links that are pinned there
// or makes new ones, and puts this version's programs in the place of those
// that are attached. Maps of another format or capacity are left to serve until
// Complete is called. It deletes nothing that serves. The caller closes the Datapath.
//
// The error wraps ErrInUse, ErrBPFFS, ErrCgroup or ErrKernel where one of them
// is the reason.
func Open(c Config) (*Datapath, error) {
	if c.MapCapacity == 0 {
		c.MapCapacity = DefaultCapacity
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("use BPF: run as root, or with CAP_BPF and CAP_NET_ADMIN, before Linux 5.11 with CAP_SYS_RESOURCE too: lift the memory lock limit: %w", err)
	}
	features, err := Probe().decide(c.Reverse)
	if err != nil {
		return nil, err
	}
	if c.Cgroup == "" {
		if c.Cgroup, err = FindCgroupRoot(); err != nil {
			return nil, err
		}
	}
	lock, err := pin.LockFolder(c.BPFFS)
	if err != nil {
		return nil, err
	}
	d := &Datapath{config: c, features: features, lock: lock, wake: make(chan struct{}, 1), metrics: newMetrics()}
	if err := d.open(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if c.Registerer != nil {
		if err := errors.Join(c.Registerer.Register(collector{d}), c.Registerer.Register(d.metrics.ended)); err != nil {
			return nil, errors.Join(fmt.Errorf("metrics of the data plane: %w", err), d.Close())
		}
	}
	return d, nil
}

func (d *Datapath) open() error {
	specs, err := mapSpecs(d.config.MapCapacity)
	if err != nil {
		return err
	}
	if d.ids, err = openSequence(d.config.BPFFS); err != nil {
		return err
	}
	if d.hooks, err = openHooks(d.config, d.features); err != nil {
		return err
	}
	attached := attachedHooks(d.hooks)
	if d.maps, err = d.pinnedMaps(specs, attached); err != nil {
		d.config.Logger.Info("new maps", "reason", err)
		if d.maps, err = newMapSet(specs); err != nil {
			return err
		}
		d.services = map[Frontend]*entry{}
		d.pending = len(attached) > 0
	} else {
		d.pinned = true
		if err := d.adopt(); err != nil {
			return err
		}
	}
	return d.start(len(attached) == len(d.hooks))
}

// pinnedMaps returns the pinned maps if they can be used: the attached programs
// must run on these very maps, else the pins are what a process left that ended
// while it replaced them.
func (d *Datapath) pinnedMaps(specs map[string]*ebpf.MapSpec, attached []*hook) (*mapSet, error) {
	if len(attached) == 0 {
		return nil, errors.New("no program is attached")
	}
	set, err := openMapSet(d.config.BPFFS, specs)
	if err != nil {
		return nil, err
	}
	for _, h := range attached {
		if err := h.runsOn(set); err != nil {
			set.close()
			return nil, fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return set, nil
}

// adopt takes over what is in the pinned maps.
func (d *Datapath) adopt() error {
	found, err := adopt(d.maps)
	if err != nil {
		return err
	}
	d.services = found.services
	d.orphans = garbage{slots: found.slots, backends: found.backends}
	for f, e := range d.services {
		d.ids.seen(serviceIDs, e.id)
		e.each(func(_ bpf.SocketSlotKey, b backend) { d.ids.seen(backendIDs, b.id) })
		if f.Addr.Addr().IsLoopback() { // a self-test that was killed
			if err := d.delete(f); err != nil {
				return err
			}
		}
	}
	for _, k := range found.slots {
		d.ids.seen(serviceIDs, k.Service)
	}
	for _, id := range found.backends {
		d.ids.seen(backendIDs, id)
	}
	d.config.Logger.Info("maps adopted", "services", len(d.services))
	return nil
}

// start loads the programs onto the maps and attaches them, unless others must
// serve until the maps are filled. When the kernel refuses the programs while
// older ones run on the same maps, those go on.
func (d *Datapath) start(allAttached bool) error {
	if err := d.load(); err != nil {
		if !allAttached || d.pending {
			return err
		}
		d.config.Logger.Error("the kernel refuses this version's programs; the ones before go on", "error", err)
		return nil
	}
	if d.pending {
		return nil
	}
	return d.attach()
}

// Close gives up the folder. Maps and links stay pinned and go on serving.
// Close must not be called while Run runs.
func (d *Datapath) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	for _, h := range d.hooks {
		h.close()
	}
	if d.maps != nil {
		d.maps.close()
	}
	if d.ids != nil {
		_ = d.ids.m.Close() // a map's close loses nothing
	}
	return d.lock.Close()
}

// Remove detaches everything and deletes all pins: the verb for a node that
// leaves. Connections that exist go on; new ones are no longer translated.
func (d *Datapath) Remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	names := append(hookNames(), sequencePin)
	slices.Reverse(names) // connect first: nobody is sent away any more
	for name := range new(mapSet).byName() {
		names = append(names, name)
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(d.config.BPFFS, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove pin: %w", err))
		}
	}
	for _, h := range d.hooks {
		h.close()
	}
	return errors.Join(errs...)
}
