// Package packet loads, attaches and fills the programs that carry packets
// between clusters. What it guarantees:
//
//   - What is attached stays attached, and what is in the maps stays there, when
//     the process ends in whatever way. The next process goes on with both.
//   - Programs are replaced in place: no packet passes between two of them.
//   - A program never uses the identity or the node of another address. What it
//     does not know it drops.
//   - Apply, Attach and Prune may be repeated: what is in effect costs nothing.
package packet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// DefaultCapacity is how many addresses of each family the maps hold unless
// told otherwise.
const DefaultCapacity = 1 << 20

// folder is where the pins are, beneath those of the socket hooks.
const folder = "packet"

// Config is what Open needs.
type Config struct {
	// BPFFS is the agent's folder for pins, on a BPF file system. The pins of
	// packets are in a folder beneath it, which one process at a time can have.
	BPFFS string
	// Device is the tunnel device's name. Open does not need it to be there.
	Device string
	// MapCapacity is how many addresses of each family fit, and how many ranges;
	// 0 means DefaultCapacity.
	MapCapacity uint32
	// Method is how the programs are attached to the device; "" means Auto.
	Method Method
	Logger *slog.Logger
	// Registerer, if not nil, gets the metrics.
	Registerer prometheus.Registerer
}

// Plane is the data plane of packets of one node. Its methods may be called
// from any goroutine.
type Plane struct {
	config Config
	dir    string
	lock   *os.File // nil while the folder is gone and cannot be made

	mu      sync.Mutex
	maps    *mapSet
	filters *filters
	method  Method // in the order of things
	hooks   []*hook
	guarded guarded
	// pending says that the programs still run on other maps, of another layout
	// or capacity, until Prune moves them.
	pending bool
	pinned  bool // the pins name these maps
	closed  bool

	// What is to be in effect.
	self      *route.Self
	localBits uint
	nodes     map[node.Key]Node
	mesh      map[ip][]node.Key // whose mesh address it is; the first has it
	hidden    map[ip]word       // addresses that a node's own address stands before
	// What the maps have, but for what hosts know of themselves.
	addresses map[ip]word
	counts    families // of addresses
	ranges    map[netip.Prefix]cluster.ID
	settings  bpf.MeshSettings
	hosts     *hosts
	// What is to be looked at again, and stays so until it is written.
	staleHosts     map[ip]bool
	staleAddresses map[ip]bool

	watch *watch
}

// families counts addresses.
type families struct{ v4, v6 int }

// Open takes the folder, adopts the maps that are pinned there or makes new
// ones, and loads this version's programs. Attach has them run. Maps of another
// layout or capacity are left to serve until Prune is called. The caller closes
// the Plane, which acts on the network namespace of the thread that called Open;
// Attach, Prune and Run are to be called in that, too.
//
// The error wraps pin.ErrInUse, pin.ErrBPFFS or ErrKernel where one of them is
// the reason.
func Open(c Config) (*Plane, error) {
	if c.MapCapacity == 0 {
		c.MapCapacity = DefaultCapacity
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the memory lock limit (CAP_SYS_RESOURCE): %w", err)
	}
	dir := filepath.Join(c.BPFFS, folder)
	lock, err := pin.LockFolder(dir)
	if err != nil {
		return nil, err
	}
	p := &Plane{
		config: c, dir: dir, lock: lock,
		nodes: map[node.Key]Node{}, mesh: map[ip][]node.Key{}, hidden: map[ip]word{},
		addresses: map[ip]word{}, ranges: map[netip.Prefix]cluster.ID{},
		hosts:      newHosts(hostCapacity(c.MapCapacity)),
		staleHosts: map[ip]bool{}, staleAddresses: map[ip]bool{},
		watch: newWatch(), guarded: newGuarded(),
	}
	if err := p.open(); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if c.Registerer != nil {
		if err := c.Registerer.Register(collector{p}); err != nil {
			return nil, errors.Join(fmt.Errorf("metrics of packets: %w", err), p.Close())
		}
	}
	return p, nil
}

func (p *Plane) open() (err error) {
	specs, err := mapSpecs(p.config.MapCapacity)
	if err != nil {
		return err
	}
	if p.method, err = choose(p.config.Method); err != nil {
		return err
	}
	if p.filters, err = openFilters(p.config.Device); err != nil {
		return err
	}
	if p.hooks, err = openHooks(p.dir, p.method, p.filters); err != nil {
		return err
	}
	attached := attachedHooks(p.hooks)
	if p.maps, err = p.pinnedMaps(specs, attached); err != nil {
		p.config.Logger.Info("new maps of packets", "reason", err)
		if p.maps, err = newMapSet(specs); err != nil {
			return err
		}
		p.pending = len(attached) > 0
		if err := p.writeSettings(); err != nil {
			return err
		}
	} else {
		p.pinned = true
		if err := p.adopt(); err != nil {
			return err
		}
	}
	if err := p.load(); err != nil {
		if p.pending || len(attached) < len(p.hooks) {
			return err
		}
		p.config.Logger.Error("the kernel refuses this version's programs of packets; the ones before go on", "error", err)
	}
	if p.pinned || p.pending {
		return nil
	}
	return p.pinMaps()
}

// pinnedMaps returns the pinned maps if they can be used: the attached programs
// must run on these very maps.
func (p *Plane) pinnedMaps(specs map[string]*ebpf.MapSpec, attached []*hook) (*mapSet, error) {
	var errs []error
	for _, name := range []string{mapsDir, nextDir} {
		set, err := openMapSet(filepath.Join(p.dir, name), specs)
		if err == nil {
			err = runOn(attached, set)
			if err == nil && name == nextDir { // left by one that died between two steps
				err = promote(p.dir)
			}
			if err == nil {
				return set, nil
			}
			set.close()
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// pinMaps makes the pins name the maps in use.
func (p *Plane) pinMaps() error {
	if err := errors.Join(p.maps.pin(p.dir)); err != nil {
		return err
	}
	if err := promote(p.dir); err != nil {
		return err
	}
	p.pinned = true
	return nil
}

// Close gives up the folder. Maps and links stay pinned and go on serving.
// Close must not be called while Run runs.
func (p *Plane) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	for _, h := range p.hooks {
		h.close()
	}
	if p.filters != nil {
		p.filters.close()
	}
	if p.maps != nil {
		p.maps.close()
	}
	if p.lock == nil {
		return nil
	}
	return p.lock.Close()
}

// Remove detaches the programs and deletes all pins: the verb for a node that
// leaves. What comes out of the device is then no longer checked, so the device
// goes first.
func (p *Plane) Remove() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, h := range p.hooks {
		errs = append(errs, h.unlink(filepath.Join(p.dir, h.name)))
		if at, _ := h.filtered(); at != 0 {
			errs = append(errs, h.unfilter(at))
		}
		h.close()
	}
	for _, name := range []string{mapsDir, nextDir} {
		errs = append(errs, removeMaps(filepath.Join(p.dir, name)))
	}
	if err := os.Remove(p.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove folder of pins: %w", err))
	}
	return errors.Join(errs...)
}

// Run reads the events of the programs and hands them to whoever asked for them,
// and puts back what others take away of what Attach did, until ctx is done. Without
// it packets are judged all the same.
func (p *Plane) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- p.watch.run(ctx, p.eventMap)
	}()
	p.guard(ctx)
	return <-ended
}
