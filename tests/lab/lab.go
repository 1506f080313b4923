// Package lab builds meshes of clusters on one machine: network namespaces as
// nodes and as pods, wired below a root namespace of their own, each node with
// its own part of the cgroup v2 tree and its own bpffs folder. The machine
// itself gets no address, route or rule.
//
// What a lab is: a folder /run/causeway-lab/<id> with a locked file, the bound
// namespaces, a bpffs and the state of its processes; and a cgroup
// causeway-lab-<id>. A lab whose process died is found by its free lock and
// taken down by the next New.
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// ErrNotRoot is returned by New without the rights to make namespaces.
var ErrNotRoot = errors.New("the lab makes network namespaces, cgroups and mounts: run it as root")

// coreBridge joins the clusters in the lab's root namespace.
const coreBridge = "core"

// closeTimeout bounds what Close waits for processes and cgroups to go.
const closeTimeout = 20 * time.Second

// Config says what a lab is made with.
type Config struct {
	// Binaries is the folder that Build made.
	Binaries string
	// State is where clusters keep data and processes write logs; a folder
	// that goes with the lab when empty.
	State string
	Log   *slog.Logger
}

// Lab is a set of clusters that can reach each other. Its methods, and those
// of what it contains, may be called from many goroutines.
type Lab struct {
	id     string
	dir    string
	state  string
	group  string
	config Config
	log    *slog.Logger
	lock   *os.File
	root   *netspace.Space

	mu        sync.Mutex
	clusters  []*Cluster
	nodes     []*Node
	routers   []*router
	processes map[*Process]struct{}
	closed    bool
}

// New takes down labs whose process died and makes an empty one. The caller
// must Close it.
func New(ctx context.Context, config Config) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, ErrNotRoot
	}
	tree, err := cgroup.Root()
	if err != nil {
		return nil, err
	}
	base, err := lockBase()
	if err != nil {
		return nil, err
	}
	err = sweep(ctx, config.Log)
	var l *Lab
	if err == nil {
		l, err = claim(config, tree)
	}
	unlock(base)
	if err != nil {
		return nil, err
	}
	if err := l.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("make lab %s: %w", l.id, err), l.Close())
	}
	config.Log.Info("lab made", "lab", l.id, "folder", l.dir)
	return l, nil
}

// claim makes the lab's folder and locks it; the base lock is held, so nobody
// sees a folder without its lock.
func claim(config Config, tree string) (*Lab, error) {
	dir, err := os.MkdirTemp(baseDir, fmt.Sprintf("%d-", os.Getpid()))
	if err != nil {
		return nil, fmt.Errorf("make a lab's folder: %w", err)
	}
	id := filepath.Base(dir)
	lock, err := tryLock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	l := &Lab{
		id: id, dir: dir, state: config.State, group: filepath.Join(tree, groupPrefix+id),
		config: config, log: config.Log, lock: lock, processes: map[*Process]struct{}{},
	}
	if l.state == "" {
		l.state = filepath.Join(dir, "state")
	}
	return l, nil
}

func (l *Lab) build() error {
	// The sweep must know the cgroup before it exists.
	if err := os.WriteFile(filepath.Join(l.dir, groupFile), []byte(l.group), 0o600); err != nil {
		return fmt.Errorf("note the lab's cgroup: %w", err)
	}
	for _, dir := range []string{l.group, l.state, filepath.Join(l.dir, spaceDir), filepath.Join(l.dir, bpfDir)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a folder: %w", err)
		}
	}
	if err := unix.Mount("bpf", filepath.Join(l.dir, bpfDir), "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a bpffs: %w", err)
	}
	root, err := netspace.New(l.spacePath("root"))
	if err != nil {
		return err
	}
	l.root = root
	return root.AddBridge(coreBridge)
}

// ID names the lab among those of this machine.
func (l *Lab) ID() string { return l.id }

// Clusters returns the clusters in the order in which they were added.
func (l *Lab) Clusters() []*Cluster {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Cluster(nil), l.clusters...)
}

// Processes returns those that were started and not yet forgotten by a
// removal; some may have ended.
func (l *Lab) Processes() []*Process {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*Process, 0, len(l.processes))
	for p := range l.processes {
		list = append(list, p)
	}
	return list
}

// Close kills every process of the lab and removes all that it made but
// Config.State. It may be called again.
func (l *Lab) Close() error {
	if !l.end() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := l.release(ctx)
	err = errors.Join(err, remove(ctx, l.dir))
	unlock(l.lock)
	if err != nil {
		return fmt.Errorf("close lab %s: %w", l.id, err)
	}
	return nil
}

// Keep leaves the lab up when this process ends: until Remove, no sweep touches
// it. The Lab can not be used any more.
func (l *Lab) Keep() error {
	if !l.end() {
		return nil
	}
	err := os.WriteFile(filepath.Join(l.dir, keepFile), nil, 0o600)
	err = errors.Join(err, l.closeSpaces())
	unlock(l.lock)
	if err != nil {
		return fmt.Errorf("keep lab %s: %w", l.id, err)
	}
	return nil
}

func (l *Lab) end() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := !l.closed
	l.closed = true
	return first
}

// release ends the processes and waits until each was collected.
func (l *Lab) release(ctx context.Context) error {
	err := cgroup.Kill(ctx, l.group)
	for _, p := range l.Processes() {
		select {
		case <-p.Done():
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("wait for the end of %s: %w", p.Name(), ctx.Err()))
		}
	}
	return errors.Join(err, l.closeSpaces())
}

func (l *Lab) closeSpaces() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	if l.root != nil {
		errs = append(errs, l.root.Close())
	}
	for _, r := range l.routers {
		errs = append(errs, r.space.Close())
	}
	for _, node := range l.nodes {
		errs = append(errs, node.space.Close())
		for _, pod := range node.pods {
			errs = append(errs, pod.closeSpace())
		}
	}
	return errors.Join(errs...)
}

func (l *Lab) spacePath(name string) string {
	return filepath.Join(l.dir, spaceDir, name)
}

// fileName makes one folder or file name, which a bpffs takes too, of parts.
func fileName(parts ...string) string {
	return strings.NewReplacer(".", "_", "/", "_", ":", "_").Replace(strings.Join(parts, "-"))
}
