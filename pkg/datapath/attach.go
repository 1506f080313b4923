package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// hook is one place in the kernel where a program of ours runs.
type hook struct {
	name    string // of the program, and of the pin of its link
	attach  ebpf.AttachType
	link    link.Link     // nil while not attached
	program *ebpf.Program // nil until loaded
}

// hookNames returns the hooks in the order in which they are attached: who
// finds the way back stands ready before anybody is sent away.
func hookNames() []string {
	return []string{
		bpf.SocketProgSockRelease,
		bpf.SocketProgRecvmsg4, bpf.SocketProgRecvmsg6,
		bpf.SocketProgGetpeername4, bpf.SocketProgGetpeername6,
		bpf.SocketProgSendmsg4, bpf.SocketProgSendmsg6,
		bpf.SocketProgConnect4, bpf.SocketProgConnect6,
	}
}

// wants reports whether a hook is to run.
func (c Config) wants(name string, features Features) bool {
	switch name {
	case bpf.SocketProgGetpeername4:
		return c.Reverse == ReverseAll
	case bpf.SocketProgGetpeername6:
		return c.Reverse == ReverseAll && features.Connect6 != No
	case bpf.SocketProgConnect6, bpf.SocketProgSendmsg6, bpf.SocketProgRecvmsg6:
		return features.Connect6 != No
	}
	return true
}

// openHooks opens the links that are pinned in the folder. Those of hooks that
// are not wanted are left alone for now.
func openHooks(c Config, features Features) ([]*hook, error) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	var hooks []*hook
	for _, name := range hookNames() {
		if !c.wants(name, features) {
			continue
		}
		h := &hook{name: name, attach: spec.Programs[name].AttachType}
		hooks = append(hooks, h)
		pin := filepath.Join(c.BPFFS, name)
		l, err := link.LoadPinnedLink(pin, nil)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return hooks, fmt.Errorf("open pinned link %s: %w", pin, err)
		default:
			h.link = l
		}
	}
	return hooks, nil
}

func attachedHooks(hooks []*hook) []*hook {
	var attached []*hook
	for _, h := range hooks {
		if h.link != nil {
			attached = append(attached, h)
		}
	}
	return attached
}

// runsOn returns why the attached program does not run on these maps. Only those
// of connect refer to all of them.
func (h *hook) runsOn(set *mapSet) error {
	if h.name != bpf.SocketProgConnect4 && h.name != bpf.SocketProgConnect6 {
		return nil
	}
	info, err := h.link.Info()
	if err != nil {
		return fmt.Errorf("read link: %w", err)
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		return fmt.Errorf("open attached program %d: %w", info.Program, err)
	}
	defer program.Close() // read only
	programInfo, err := program.Info()
	if err != nil {
		return fmt.Errorf("read attached program %d: %w", info.Program, err)
	}
	has, _ := programInfo.MapIDs()
	wants, err := set.ids()
	if err != nil {
		return err
	}
	for _, id := range wants {
		if !slices.Contains(has, id) {
			return errors.New("the attached program runs on other maps than those pinned")
		}
	}
	return nil
}

// load loads the programs onto the maps. The caller is alone with d.
func (d *Datapath) load() error {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return fmt.Errorf("read the programs: %w", err)
	}
	specs, err := mapSpecs(d.config.MapCapacity)
	if err != nil {
		return err
	}
	for name, m := range specs {
		spec.Maps[name] = m
	}
	options := ebpf.CollectionOptions{MapReplacements: map[string]*ebpf.Map{}}
	for name, m := range d.maps.byName() {
		options.MapReplacements[name] = *m
	}
	for name := range spec.Programs {
		if !slices.ContainsFunc(d.hooks, func(h *hook) bool { return h.name == name }) {
			delete(spec.Programs, name)
		}
	}
	if err := spec.Variables[bpf.SocketVarReversed].Set(d.config.Reverse.kinds()); err != nil {
		return fmt.Errorf("set which sockets have reverse entries: %w", err)
	}
	if d.features.Retval == No {
		withoutRetval(spec)
	}
	// They are there for the Go types alone.
	delete(spec.Maps, ".bss")
	for name := range spec.Variables {
		if name != bpf.SocketVarReversed {
			delete(spec.Variables, name)
		}
	}
	loaded, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		var refused *ebpf.VerifierError
		if errors.As(err, &refused) {
			d.config.Logger.Debug("verifier", "log", fmt.Sprintf("%+v", refused))
		}
		return fmt.Errorf("load the programs: %w", err)
	}
	defer loaded.Close()
	for _, h := range d.hooks {
		h.program = loaded.DetachProgram(h.name)
	}
	return nil
}

// withoutRetval takes the calls of bpf_set_retval out of the programs: what they
// refuse then fails with EPERM.
func withoutRetval(spec *ebpf.CollectionSpec) {
	for _, p := range spec.Programs {
		for i, ins := range p.Instructions {
			if ins.IsBuiltinCall() && asm.BuiltinFunc(ins.Constant) == asm.FnSetRetval {
				p.Instructions[i] = asm.Mov.Imm(asm.R0, 0).WithMetadata(ins.Metadata)
			}
		}
	}
}

// attach makes all hooks run the programs that were loaded, and then names their
// maps by the pins. The caller holds d.mu or is alone with d.
//
// A process that dies on the way leaves hooks and pins that do not agree; the
// next one sees it, fills new maps and moves the hooks over to them.
func (d *Datapath) attach() error {
	cgroup, err := openCgroup(d.config.Cgroup)
	if err != nil {
		return err
	}
	defer cgroup.Close() // read only
	if err := d.carryOver(); err != nil {
		return err
	}
	for _, h := range d.hooks {
		if err := h.run(cgroup, filepath.Join(d.config.BPFFS, h.name)); err != nil {
			return fmt.Errorf("attach %s to %s: %w", h.name, d.config.Cgroup, err)
		}
	}
	// Again, for what was written while the hooks moved.
	if err := errors.Join(d.carryOver(), d.dropHooks()); err != nil {
		return err
	}
	if !d.pinned {
		if err := d.maps.pin(d.config.BPFFS); err != nil {
			return err
		}
	}
	d.pinned, d.pending = true, false
	return nil
}

// dropHooks detaches the hooks that are not wanted any more.
func (d *Datapath) dropHooks() error {
	for _, name := range hookNames() {
		if d.config.wants(name, d.features) {
			continue
		}
		if err := os.Remove(filepath.Join(d.config.BPFFS, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("detach %s: %w", name, err)
		}
	}
	return nil
}

// carryOver copies the way back of connected sockets from the maps that the
// pins name to new ones. What is there already is newer.
func (d *Datapath) carryOver() error {
	if d.pinned {
		return nil
	}
	old, err := ebpf.LoadPinnedMap(filepath.Join(d.config.BPFFS, bpf.SocketMapReverse), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the reverse entries of before: %w", err)
	}
	defer old.Close() // read only
	had, err := old.Info()
	if err != nil {
		return fmt.Errorf("open the reverse entries of before: %w", err)
	}
	has, err := d.maps.reverse.Info()
	if err != nil {
		return fmt.Errorf("reverse entries: %w", err)
	}
	if had.Name != has.Name { // another layout
		return nil
	}
	var failed error
	err = pin.Read(old, func(k bpf.SocketReverseKey, v bpf.SocketReverse) {
		if err := d.maps.reverse.Update(&k, &v, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
			failed = err
		}
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("copy the reverse entries of before: %w", err)
	}
	return nil
}

// run puts the program in the place of the one that the link has, in one step.
// Only where there is no link, or one to something else or gone, is a new one
// made, and before the old one goes.
func (h *hook) run(cgroup *os.File, pinAt string) error {
	if h.link != nil {
		same, err := h.isOn(cgroup)
		if err != nil {
			return err
		}
		if same {
			err = h.link.Update(h.program)
		}
		if same && !errors.Is(err, unix.ENOLINK) {
			return err
		}
	}
	made, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(cgroup.Fd()), Program: h.program, Attach: h.attach,
	})
	if err != nil {
		return err
	}
	defer made.Close() // the pin keeps it; without one this takes it back
	h.link, err = pin.ReplaceLink(made, h.link, pinAt)
	return err
}

// isOn reports whether the link is attached to cgroup. A link whose cgroup was
// removed is attached to none.
func (h *hook) isOn(cgroup *os.File) (bool, error) {
	info, err := h.link.Info()
	if err != nil {
		return false, fmt.Errorf("read link: %w", err)
	}
	stat, err := cgroup.Stat()
	if err != nil {
		return false, err
	}
	system, ok := stat.Sys().(*syscall.Stat_t)
	on := info.Cgroup()
	// A cgroup's id is the inode of its folder.
	return ok && on != nil && on.CgroupId == system.Ino, nil
}

func (h *hook) close() {
	if h.link != nil {
		_ = h.link.Close() // the pin keeps it
	}
	if h.program != nil {
		_ = h.program.Close() // the link keeps it
	}
}
