// Package host is what a node's network needs around the tunnel programs: the
// tunnel device with this node's mesh addresses, the routes that lead what is a
// peer's into it, and the netfilter rules that keep a packet's source what it
// was. What it guarantees:
//
//   - Everything of ours carries a mark by which it is recognised. It stays when
//     the process ends, and the next one adopts it: nothing that stays wanted is
//     taken away in between.
//   - Apply may be repeated. What is in effect costs nothing; what changes is
//     changed in place where the kernel can.
//   - What somebody else changes is put back by Run and reported. Where a route
//     of somebody else's contradicts ours, his wins, and that is reported.
package host

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// What is used unless told otherwise.
const (
	DefaultDevice = "mesh0"
	DefaultPort   = 8473
	DefaultTable  = 8473
)

// Config is what Open needs.
type Config struct {
	// Device is the name of the tunnel device; "" means DefaultDevice.
	Device string
	// Table is the number of the routing table that is ours, where our routes cannot
	// stand in the main one; 0 means DefaultTable.
	Table int
	// Attach, if not nil, puts the programs onto the tunnel device. It is called
	// when the device is new to this process (found, made, or made again after
	// somebody deleted it), before packets are led into it. It may be called
	// again for the same device after it returned an error; it must not call
	// methods of the Host.
	Attach func(device string, index int) error
	Logger *slog.Logger
	// Registerer, if not nil, gets the metrics.
	Registerer prometheus.Registerer
}

// Desired is what a node's network shall be like.
type Desired struct {
	// Port is the UDP port of the tunnel; 0 means DefaultPort.
	Port uint16
	// MTU is the largest packet that the network between the nodes carries, in
	// bytes; 0 means that of the devices by which Nodes are reached.
	MTU int
	// Nodes are the addresses that tunnels lead to: those of the peers' nodes.
	// They are never routed into the tunnel, and their families say what a
	// tunnel's headers take of the MTU.
	Nodes []netip.Addr
	// Mesh are this node's mesh addresses, at most one a family. Without any,
	// nothing is made, and what there is goes.
	Mesh []netip.Addr
	// MeshRanges are ranges of peers' mesh addresses that Routes need not
	// contain: they are led into the tunnel like routes of mode vxlan.
	MeshRanges []netip.Prefix
	// Routes are the peers' ranges. Of one with mode native only the source of
	// packets is kept; a single address of that mode stays out of what leads into
	// the tunnel.
	Routes []Route
	// LocalPods are the ranges that addresses of this cluster's pods are in.
	LocalPods []netip.Prefix
}

// Route is one range of a peer.
type Route struct {
	Prefix netip.Prefix
	Mode   route.Mode
}

// Host is the network of this node as far as it is ours. Its methods may be
// called from any goroutine. It acts on the network namespace of the thread
// that called Open.
type Host struct {
	config  Config
	kernel  *kernel
	metrics *metrics

	mu      sync.Mutex
	closed  bool
	desired Desired
	// applied says that desired was given, settled that it was in effect once: what
	// differs from then on was changed by somebody else.
	applied, settled bool
	noIPv6           bool     // in the last pass, though it was desired
	mtu              int      // in effect
	index            int      // of the tunnel device
	attached         int      // index of the device that has the programs
	ruleset          *ruleset // that was found in effect at generation
	generation       uint32
	legacyLook       time.Time // when the old iptables was looked at
	legacyProblems   []Problem
	problems         []Problem // of the last pass
	repairs          []repair
	repairCount      int
}

// Open opens what the kernel is talked to by. It changes nothing. The caller
// closes the Host.
func Open(c Config) (*Host, error) {
	if c.Device == "" {
		c.Device = DefaultDevice
	}
	if c.Table == 0 {
		c.Table = DefaultTable
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	kernel, err := openKernel()
	if err != nil {
		return nil, err
	}
	h := &Host{config: c, kernel: kernel}
	h.metrics = newMetrics(h)
	if c.Registerer != nil {
		if err := c.Registerer.Register(h.metrics); err != nil {
			return nil, errors.Join(fmt.Errorf("register metrics: %w", err), kernel.close())
		}
	}
	return h, nil
}

// Close gives up the handles; what is in the kernel stays. It must not be called
// while Run runs. It may be repeated.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	return h.kernel.close()
}

// Apply makes the node's network as desired. It may be repeated; what is in
// effect costs a look and no change. Where it fails, what was done stays, what
// was in effect before stays where it could not be changed, and it shall be
// called again. The error wraps ErrForeignDevice, ErrPort or ErrDesired where
// that is the reason. Apply keeps d: the caller does not change it any more.
func (h *Host) Apply(d Desired) error {
	if d.Port == 0 {
		d.Port = DefaultPort
	}
	if err := d.validate(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.applied || !h.desired.equal(&d) {
		h.desired, h.applied, h.settled = d, true, false
	}
	return h.converge()
}

// Problems returns what is wrong at the moment, and what was put back in the last
// ten minutes.
func (h *Host) Problems() []Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.problems)
	for _, r := range h.recent() {
		all = append(all, r.problem())
	}
	return all
}

// MTU returns that of the tunnel device in effect, in bytes; 0 before the first
// Apply that got so far.
func (h *Host) MTU() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mtu
}
