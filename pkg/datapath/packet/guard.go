package packet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

const (
	// guardInterval is how often what is in effect is compared.
	guardInterval = 2 * time.Second
	// testInterval is how often the programs are tested while it is known how they
	// do, and testFailures after how many tests that failed in a row, each in the
	// next pass, it is told: one that did may have met a queue that was full.
	testInterval = 30 * time.Second
	testFailures = 3
	// repairsShown is how long a repair is told as a problem.
	repairsShown = 10 * time.Minute
)

// What is put back: labels of a metric.
const (
	repairProgram = "program"
	repairPin     = "pin"
)

// Problem is what a person should know, or act upon.
type Problem struct {
	// What is wrong, Where it is, and what to Do about it.
	What, Where, Do string
}

// repair is what was put back last, and how often.
type repair struct {
	count uint64
	at    time.Time
	where string
}

// guarded is what the guard knows. The plane's lock holds for it.
type guarded struct {
	device   int // that Attach put the programs onto, 0 for none yet
	repairs  map[string]*repair
	unpinned error // why pins that are missing could not be made
	// The last self-test.
	tested   time.Time
	failures int // in a row
	failed   error
}

func newGuarded() guarded {
	return guarded{repairs: map[string]*repair{repairProgram: {}, repairPin: {}}}
}

// guard puts back what others take away, until ctx is done: programs that are not
// on the device any more, and pins, without which the programs of tcx would go with
// this process, and packets pass unjudged. It also tests whether packets reach the
// programs.
func (p *Plane) guard(ctx context.Context) {
	tick := time.NewTicker(guardInterval)
	defer tick.Stop()
	for {
		p.check(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// check makes one pass of the guard.
func (p *Plane) check(ctx context.Context) {
	device, due := p.restore()
	if !due {
		return
	}
	// It waits for frames. The maps stay open while Run runs, and others need not wait.
	if err := p.selfTest(ctx, device); ctx.Err() == nil {
		p.noteTest(err)
	}
}

// restore puts back what is missing, and reports whether a self-test is due then, on
// which device.
func (p *Plane) restore() (device int, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	device, flags, err := p.filters.find()
	if err != nil || device != p.guarded.device || p.closed {
		return 0, false // it is Attach that puts the programs onto a device
	}
	for _, h := range p.hooks {
		p.putBack(h, device)
	}
	p.keepPins(device)
	return device, flags&net.FlagUp != 0 && p.testDue()
}

// putBack has the hook's program run on the device if it does not.
func (p *Plane) putBack(h *hook, device int) {
	at, id := h.linked()
	if at == 0 {
		var err error
		if at, id, err = h.readFilter(); err != nil {
			p.config.Logger.Warn("whether a program of packets is on the device cannot be told; looking again", "program", h.name, "error", err)
			return
		}
	}
	if at == device && (p.pending || h.program == nil || h.isProgram(id)) {
		return
	}
	if err := h.run(device, filepath.Join(p.dir, h.name)); err != nil {
		p.config.Logger.Error("a program of packets is not on the device and could not be put back; trying again", "program", h.name, "error", err)
		return
	}
	p.repaired(repairProgram, h.name+" on "+p.config.Device)
	p.guarded.tested = time.Time{}
}

func (p *Plane) repaired(kind, where string) {
	r := p.guarded.repairs[kind]
	r.count, r.at, r.where = r.count+1, time.Now(), where
	p.config.Logger.Warn("put back what somebody else removed", "kind", kind, "item", where)
}

// keepPins makes pins anew that are missing. Where that is not possible, programs
// are attached as filters, which need none, so that they stay when the process
// ends; and as before when there are pins again.
func (p *Plane) keepPins(device int) {
	missing := p.missingPins()
	if len(missing) > 0 {
		if err := p.pinAgain(); err != nil {
			p.doWithout(device, err)
			return
		}
		p.repaired(repairPin, missing[0])
	}
	p.guarded.unpinned = nil
	for _, h := range p.hooks {
		if h.method == p.method || h.program == nil {
			continue
		}
		h.method = p.method
		if err := h.run(device, filepath.Join(p.dir, h.name)); err != nil {
			h.method = Clsact
			p.config.Logger.Error("a program of packets could not be attached as before", "program", h.name, "error", err)
		}
	}
}

// missingPins returns the paths of pins that are not there, or of their folder.
func (p *Plane) missingPins() []string {
	if !p.holdsFolder() {
		return []string{p.dir}
	}
	var paths []string
	for _, h := range p.hooks {
		if h.link != nil {
			paths = append(paths, filepath.Join(p.dir, h.name))
		}
	}
	if p.pinned {
		for name := range p.maps.byName() {
			paths = append(paths, filepath.Join(p.dir, mapsDir, name))
		}
	}
	slices.Sort(paths)
	return slices.DeleteFunc(paths, func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// holdsFolder reports whether the folder is the one that is locked.
func (p *Plane) holdsFolder() bool {
	if p.lock == nil {
		return false
	}
	is, err := os.Stat(p.dir)
	locked, lockErr := p.lock.Stat()
	return err == nil && lockErr == nil && os.SameFile(is, locked)
}

// pinAgain makes the folder and all pins anew.
func (p *Plane) pinAgain() error {
	if !p.holdsFolder() {
		// What is held of a folder that nobody finds any more may keep a file system
		// from going.
		if p.lock != nil {
			_ = p.lock.Close()
		}
		var err error
		if p.lock, err = pin.LockFolder(p.dir); err != nil {
			return err
		}
	}
	if p.pinned {
		for name, m := range p.maps.byName() {
			if err := (*m).Unpin(); err != nil { // it would keep to the path that it had
				return fmt.Errorf("map %s: %w", name, err)
			}
		}
		if err := p.pinMaps(); err != nil {
			return err
		}
	}
	for _, h := range p.hooks {
		if h.link == nil {
			continue
		}
		if err := errors.Join(h.link.Unpin(), h.link.Pin(filepath.Join(p.dir, h.name))); err != nil {
			return fmt.Errorf("pin %s: %w", h.name, err)
		}
	}
	return nil
}

// doWithout has the programs stay without pins. While ours wait for their maps to be
// filled they must not take the place of those of before, which know what to let
// through.
func (p *Plane) doWithout(device int, why error) {
	if p.guarded.unpinned == nil {
		p.config.Logger.Error("pins of packets are gone and could not be made anew; the programs stay without, trying again", "error", why)
	}
	p.guarded.unpinned = why
	for _, h := range p.hooks {
		if h.method == Clsact || h.program == nil || p.pending {
			continue
		}
		h.method = Clsact
		if err := h.run(device, filepath.Join(p.dir, h.name)); err != nil {
			h.method = TCX
			p.config.Logger.Error("a program of packets would not stay when this process ends", "program", h.name, "error", err)
		}
	}
}

// testDue reports whether it is time for a self-test. The programs of an earlier
// version may not know them. The caller holds p.mu.
func (p *Plane) testDue() bool {
	g := &p.guarded
	if (g.failures == 0 || g.failures >= testFailures) && time.Since(g.tested) < testInterval {
		return false
	}
	return !p.pending && !slices.ContainsFunc(p.hooks, func(h *hook) bool { return h.program == nil })
}

// noteTest takes in what came of a self-test.
func (p *Plane) noteTest(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := &p.guarded
	first := g.tested.IsZero()
	g.tested = time.Now()
	if err == nil {
		if g.failed != nil || first {
			p.config.Logger.Info("packets on the tunnel device reach the programs", "device", p.config.Device)
		}
		g.failures, g.failed = 0, nil
		return
	}
	if g.failures++; g.failures < testFailures {
		return
	}
	if g.failed == nil {
		p.config.Logger.Error("packets on the tunnel device do not reach the programs", "device", p.config.Device, "error", err)
	}
	g.failed = err
}

// Problems returns what is wrong at the moment, and what was put back in the last
// ten minutes.
func (p *Plane) Problems() []Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := &p.guarded
	var all []Problem
	for _, kind := range []string{repairProgram, repairPin} {
		if r := g.repairs[kind]; r.count > 0 && time.Since(r.at) < repairsShown {
			all = append(all, Problem{
				What:  fmt.Sprintf("somebody else removed a %s of ours: it was put back at %s", kind, r.at.UTC().Format(time.RFC3339)),
				Where: r.where, Do: "find out which program did it, and have it leave alone what is ours",
			})
		}
	}
	if g.unpinned != nil {
		all = append(all, Problem{
			What:  "pins that are missing cannot be made anew: packets are carried and judged, but the next agent has to begin anew",
			Where: g.unpinned.Error(), Do: "mount a BPF file system above --bpffs-dir (mount -t bpf bpf /sys/fs/bpf)",
		})
	}
	if g.failed != nil {
		all = append(all, Problem{
			What:  "packets on the tunnel device do not reach our programs: they are not judged, or not carried",
			Where: fmt.Sprintf("%s: %v", p.config.Device, g.failed),
			Do:    "look which program runs before ours (bpftool net show; tc filter show dev " + p.config.Device + " ingress, egress) and take it away",
		})
	}
	return all
}
