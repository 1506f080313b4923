package packet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/causeway-mesh/causeway/bpf"
)

// How many events a second there are of one direction and reason at most, on
// all processors together, and how many at once after a pause.
const (
	eventRate  = 100
	eventBurst = 10
)

// hook is one end of the device, where a program of ours runs.
type hook struct {
	name    string // of the program, of the pin of its link, and of its filter
	attach  ebpf.AttachType
	parent  uint32   // of its filter
	uses    []string // the maps by which it judges
	method  Method   // by which it is attached from now on
	link    link.Link
	filters *filters
	program *ebpf.Program // nil until loaded
}

// hooks returns the ends: what lets in only what it knows stands first.
func newHooks(m Method, f *filters) []*hook {
	judged := []string{bpf.MeshMapAddressV4, bpf.MeshMapAddressV6, bpf.MeshMapSettings, bpf.MeshMapCounter, bpf.MeshMapEvent}
	return []*hook{
		{
			name: bpf.MeshProgFromMesh, attach: ebpf.AttachTCXIngress, parent: netlink.HANDLE_MIN_INGRESS, method: m, filters: f,
			uses: append([]string{bpf.MeshMapHost, bpf.MeshMapRange}, judged...),
		},
		{
			name: bpf.MeshProgToMesh, attach: ebpf.AttachTCXEgress, parent: netlink.HANDLE_MIN_EGRESS, method: m, filters: f,
			uses: append([]string{bpf.MeshMapNode}, judged...),
		},
	}
}

// openHooks opens the links that are pinned in the folder. What runs as a filter
// is found on the device.
func openHooks(dir string, m Method, f *filters) ([]*hook, error) {
	all := newHooks(m, f)
	for _, h := range all {
		path := filepath.Join(dir, h.name)
		l, err := link.LoadPinnedLink(path, nil)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return all, fmt.Errorf("open pinned link %s: %w", path, err)
		default:
			h.link = l
		}
	}
	return all, nil
}

// device returns the index of the device that the hook's program runs on, and
// which that is; 0 for none.
func (h *hook) device() (int, ebpf.ProgramID) {
	if at, id := h.linked(); at != 0 {
		return at, id
	}
	return h.filtered()
}

func attachedHooks(all []*hook) []*hook {
	return slices.DeleteFunc(slices.Clone(all), func(h *hook) bool {
		device, _ := h.device()
		return device == 0
	})
}

// runOn returns why the attached programs do not run on these maps.
func runOn(attached []*hook, set *mapSet) error {
	maps := set.byName()
	for _, h := range attached {
		_, id := h.device()
		program, err := ebpf.NewProgramFromID(id)
		if err != nil {
			return fmt.Errorf("open attached program %d: %w", id, err)
		}
		info, err := program.Info()
		_ = program.Close() // read only
		if err != nil {
			return fmt.Errorf("read attached program %d: %w", id, err)
		}
		has, _ := info.MapIDs()
		for _, name := range h.uses {
			want, err := idOf(*maps[name])
			if err != nil {
				return fmt.Errorf("map %s: %w", name, err)
			}
			if !slices.Contains(has, want) {
				return fmt.Errorf("%s runs on another map %s than the one pinned", h.name, name)
			}
		}
	}
	return nil
}

// load loads the programs onto the maps. The caller is alone with p.
func (p *Plane) load() error {
	spec, err := bpf.LoadMesh()
	if err != nil {
		return fmt.Errorf("read the programs: %w", err)
	}
	specs, err := mapSpecs(p.config.MapCapacity)
	if err != nil {
		return err
	}
	options := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}}
	for name, m := range p.maps.byName() {
		spec.Maps[name] = specs[name]
		options.MapReplacements[name] = *m
	}
	cpus := runtime.NumCPU()
	if possible, err := ebpf.PossibleCPU(); err == nil {
		cpus = possible
	}
	interval := time.Duration(cpus) * time.Second / eventRate
	if err := errors.Join(
		spec.Variables[bpf.MeshVarEventInterval].Set(uint64(interval)),
		spec.Variables[bpf.MeshVarEventBurst].Set(uint64(eventBurst)),
	); err != nil {
		return fmt.Errorf("set the rate of events: %w", err)
	}
	// They are there for the Go types alone.
	delete(spec.Maps, ".bss")
	for name := range spec.Variables {
		if name != bpf.MeshVarEventInterval && name != bpf.MeshVarEventBurst {
			delete(spec.Variables, name)
		}
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		var refused *ebpf.VerifierError
		if errors.As(err, &refused) {
			p.config.Logger.Debug("verifier", "log", fmt.Sprintf("%+v", refused))
		}
		return fmt.Errorf("load the programs of packets: %w", err)
	}
	defer loaded.Close()
	for _, h := range p.hooks {
		h.program = loaded.DetachProgram(h.name)
	}
	return nil
}

// Attach has this version's programs run on the device, ahead of others. It may
// be called at any time, and is to be when the device was made anew: before it
// is set up, as nothing checks what comes out of it until then. The error wraps
// ErrDevice or ErrKernel where that is the reason.
func (p *Plane) Attach() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	device, err := p.filters.device()
	if err != nil {
		return err
	}
	for _, h := range p.hooks {
		// What runs on the maps of before goes on until ours are filled.
		if at, _ := h.device(); p.pending && at == device {
			continue
		}
		if err := h.run(device, filepath.Join(p.dir, h.name)); err != nil {
			return fmt.Errorf("attach %s to %s by %s: %w", h.name, p.config.Device, h.method, err)
		}
		p.checkOrder(h, device)
	}
	p.guarded.device, p.guarded.tested = device, time.Time{}
	return nil
}

// move has the programs run on the new maps, wherever the old ones do.
func (p *Plane) move() error {
	if err := p.maps.pin(p.dir); err != nil {
		return err
	}
	for _, h := range p.hooks {
		at, _ := h.device()
		if at == 0 {
			continue
		}
		if err := h.run(at, filepath.Join(p.dir, h.name)); err != nil {
			return fmt.Errorf("replace %s: %w", h.name, err)
		}
	}
	if err := promote(p.dir); err != nil {
		return err
	}
	p.pinned, p.pending = true, false
	p.config.Logger.Info("the programs of packets run on the new maps")
	return nil
}

// run puts the program in the place of the one of before, in one step. Where that
// is attached in the other way, both run for a moment: they say the same.
func (h *hook) run(device int, pinAt string) error {
	if h.program == nil { // refused; the one of before goes on
		if at, _ := h.device(); at == device {
			return nil
		}
		return errors.New("the program was not loaded")
	}
	if h.method == Clsact {
		if err := h.runFiltered(device); err != nil {
			return err
		}
		return h.unlink(pinAt)
	}
	if err := h.runLinked(device, pinAt); err != nil {
		return err
	}
	return h.unfilter(device)
}

// isProgram reports whether the id is that of the hook's program.
func (h *hook) isProgram(id ebpf.ProgramID) bool {
	info, err := h.program.Info()
	if err != nil {
		return false
	}
	own, ok := info.ID()
	return ok && own == id
}

// checkOrder warns of a program that runs before ours: what it ends, ours never
// sees.
func (p *Plane) checkOrder(h *hook, device int) {
	first, err := h.first(device)
	if err != nil {
		p.config.Logger.Warn("order of the programs on the device not read", "program", h.name, "error", err)
		return
	}
	if _, ours := h.device(); first != ours {
		p.config.Logger.Warn("another program runs before ours on the device", "program", h.name, "device", p.config.Device, "first", first)
	}
}

// first returns the program that runs first at this end of the device.
func (h *hook) first(device int) (ebpf.ProgramID, error) {
	if h.method == Clsact {
		return h.filters.first(device, h.parent)
	}
	return firstLinked(device, h.attach)
}

func (h *hook) close() {
	if h.link != nil {
		_ = h.link.Close() // the pin keeps it
	}
	if h.program != nil {
		_ = h.program.Close() // the link keeps it
	}
}
