package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath"
)

// cgroups is a folder of the cgroup v2 hierarchy with one cgroup a case.
type cgroups struct{ dir string }

const cgroupPrefix = "causeway-bench-"

// newCgroups makes the folder, and removes those of benchmarks that were
// killed: their names say by whom they were made.
func newCgroups() (*cgroups, error) {
	root, err := datapath.FindCgroupRoot()
	if err != nil {
		return nil, err
	}
	old, err := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range old {
		pid := strings.TrimPrefix(filepath.Base(dir), cgroupPrefix)
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, fs.ErrNotExist) {
			_ = (&cgroups{dir}).remove() // a process that is still in it is not ours to end
		}
	}
	dir := filepath.Join(root, cgroupPrefix+strconv.Itoa(os.Getpid()))
	return &cgroups{dir}, os.Mkdir(dir, 0o755)
}

// make makes the cgroup of a case.
func (c *cgroups) make(name string) (string, error) {
	dir := filepath.Join(c.dir, strings.NewReplacer(" ", "-", ",", "").Replace(name))
	return dir, os.Mkdir(dir, 0o755)
}

// remove removes the folder and all that is in it; no process may be in it.
func (c *cgroups) remove() error {
	children, err := filepath.Glob(filepath.Join(c.dir, "*"))
	if err != nil {
		return err
	}
	for _, child := range children {
		// The files of a cgroup cannot be removed, and need not be.
		if err := unix.Rmdir(child); err != nil && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("remove cgroup %s: %w", child, err)
		}
	}
	return os.Remove(c.dir)
}

// attachEmpty attaches a program to the hook of connect that does nothing.
func attachEmpty(cgroup string) (link.Link, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load the empty program: %w", err)
	}
	defer program.Close() // the link holds it
	return link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: program})
}

// bpffs is where the BPF file system of this process is mounted. It is its own:
// the process has its own mount namespace, with which the mount goes.
const bpffs = "/sys/fs/bpf"

func mountBPFFS() error {
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		return fmt.Errorf("mount a BPF file system on %s: %w", bpffs, err)
	}
	return nil
}

// manyBackends is how many services of a case have more than two backends.
const manyBackends = 1000

// backendsOf returns how many backends service i has when the case asks for so
// many: with more than two, the first thousand services have them, and are
// dialled; the rest has two.
func backendsOf(i, backends int) int {
	if i < manyBackends {
		return backends
	}
	return min(backends, 2)
}

// program opens a data plane on the cgroup and fills it as the case says.
func program(pins, cgroup string, c testCase) (*datapath.Datapath, error) {
	services, backends := c.services, c.backends
	d, err := datapath.Open(datapath.Config{BPFFS: pins, Cgroup: cgroup, Reverse: c.reverse, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	next := 0
	for i := range services {
		group := datapath.Group{Backends: make([]netip.AddrPort, backendsOf(i, backends))}
		for b := range group.Backends {
			group.Backends[b] = backendAddress(next)
			next++
		}
		service := datapath.Service{
			Frontend: datapath.Frontend{Addr: serviceAddress(i), Protocol: c.protocol},
			Groups:   []datapath.Group{group},
		}
		if err := d.Update(service); err != nil {
			return nil, errors.Join(fmt.Errorf("service %d of %d: %w", i, services, err), d.Close())
		}
	}
	return d, nil
}
