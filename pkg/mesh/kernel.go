package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

// KernelConfig is what NewKernel needs.
type KernelConfig struct {
	// BPFFS is the agent's folder for pins, Device the name of the tunnel device.
	BPFFS, Device string
	// MapCapacity is how many addresses of each family fit.
	MapCapacity uint32
	// Attach is how programs are attached to the device; "" means packet.Auto.
	Attach packet.Method
	// Observe, if not nil, is called with the programs while they run, until ctx
	// ends.
	Observe    func(ctx context.Context, packets *packet.Plane)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Kernel is the Network of the machine: programs on a tunnel device, and the
// routes and filters around it. One goroutine calls its methods.
type Kernel struct {
	config KernelConfig
	open   *opened
}

// opened is what runs between Open and Close or Remove.
type opened struct {
	packets *packet.Plane
	host    *host.Host
	scope   *scope
	stop    func()
}

// NewKernel returns a Kernel that has done nothing yet.
func NewKernel(c KernelConfig) *Kernel { return &Kernel{config: c} }

// Open implements Network. What it opens runs until ctx ends, or Close or Remove.
func (k *Kernel) Open(ctx context.Context) (Packets, Host, error) {
	if k.open != nil {
		return k.open.packets, k.open, nil
	}
	o, err := k.load()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { k.keepUp(ctx, "events of packets", o.packets.Run) })
	group.Go(func() { k.keepUp(ctx, "watch over the host's network", o.host.Run) })
	if k.config.Observe != nil {
		group.Go(func() { k.config.Observe(ctx, o.packets) })
	}
	o.stop = func() {
		cancel()
		group.Wait()
	}
	k.open = o
	return o.packets, o, nil
}

// Apply implements Host.
func (o *opened) Apply(d host.Desired) error { return o.host.Apply(d) }

// Problems implements Host: those of the programs are problems of the node's network
// as well.
func (o *opened) Problems() []host.Problem {
	all := o.host.Problems()
	for _, p := range o.packets.Problems() {
		all = append(all, host.Problem(p))
	}
	return all
}

// keepUp runs what is to run until ctx ends, again if it ends before: packets go on
// without it, but nobody would hear of what is wrong, or put it right.
func (k *Kernel) keepUp(ctx context.Context, what string, run func(context.Context) error) {
	pause := retry.Backoff{First: time.Second, Limit: 30 * time.Second}
	for {
		err := run(ctx)
		if ctx.Err() != nil {
			return
		}
		delay := pause.Next()
		k.config.Logger.Error("part of the network between clusters ended, will be started again", "part", what, "error", err, "delay", delay)
		if !retry.Sleep(ctx, delay) {
			return
		}
	}
}

func (k *Kernel) load() (*opened, error) {
	o := &opened{scope: &scope{to: k.config.Registerer}, stop: func() {}}
	plane, err := packet.Open(packet.Config{
		BPFFS: k.config.BPFFS, Device: k.config.Device, MapCapacity: k.config.MapCapacity, Method: k.config.Attach, Logger: k.config.Logger, Registerer: o.scope,
	})
	if err != nil {
		o.scope.close()
		return nil, fmt.Errorf("open the programs of packets: %w", err)
	}
	h, err := host.Open(host.Config{
		Device: k.config.Device, Logger: k.config.Logger, Registerer: o.scope,
		Attach: func(string, int) error { return plane.Attach() },
	})
	if err != nil {
		o.scope.close()
		return nil, fmt.Errorf("open the host's network: %w", errors.Join(err, plane.Close()))
	}
	o.packets, o.host = plane, h
	return o, nil
}

// Remove implements Network. The device goes before the programs that check what
// comes out of it.
func (k *Kernel) Remove() error {
	o := k.open
	if o == nil {
		left, err := k.left()
		if err != nil || !left {
			return err
		}
		if o, err = k.load(); err != nil {
			return err
		}
	}
	k.open = nil
	o.stop()
	removed, err := o.host.Remove()
	if err == nil {
		err = o.packets.Remove()
	}
	if len(removed) > 0 {
		k.config.Logger.Info("what carried packets between clusters is taken away", "items", len(removed))
	}
	return errors.Join(err, o.close())
}

// left reports whether an earlier process left something.
func (k *Kernel) left() (bool, error) {
	if packet.Present(k.config.BPFFS) {
		return true, nil
	}
	h, err := host.Open(host.Config{Device: k.config.Device, Logger: k.config.Logger})
	if err != nil {
		return false, fmt.Errorf("open the host's network: %w", err)
	}
	items, err := h.Items()
	return len(items) > 0, errors.Join(err, h.Close())
}

// Close implements Network.
func (k *Kernel) Close() error {
	if k.open == nil {
		return nil
	}
	o := k.open
	k.open = nil
	o.stop()
	return o.close()
}

func (o *opened) close() error {
	o.scope.close()
	return errors.Join(o.host.Close(), o.packets.Close())
}

// scope registers what is unregistered together.
type scope struct {
	to prometheus.Registerer // nil for none

	mu  sync.Mutex
	all []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (s *scope) Register(c prometheus.Collector) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.to == nil {
		return nil
	}
	if err := s.to.Register(c); err != nil {
		return err
	}
	s.all = append(s.all, c)
	return nil
}

// MustRegister implements prometheus.Registerer.
func (s *scope) MustRegister(all ...prometheus.Collector) {
	for _, c := range all {
		if err := s.Register(c); err != nil {
			panic(err)
		}
	}
}

// Unregister implements prometheus.Registerer.
func (s *scope) Unregister(c prometheus.Collector) bool { return s.to != nil && s.to.Unregister(c) }

func (s *scope) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.all {
		s.to.Unregister(c)
	}
	s.all = nil
}
