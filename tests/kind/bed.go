// Package kind runs real Kubernetes clusters for tests: kind's, each node a
// container with systemd, containerd, kubelet and kube-proxy, made of what the
// registries of Debian and Go have, without a registry of images.
//
// A [Bed] is a docker of its own in network, mount and PID namespaces of its own:
// nothing of this machine's network, and no docker that is installed, is
// touched, and all of it ends with the bed's first process. East has flannel
// (vxlan) and kube-proxy with nftables, west has ptp with masquerading and
// kube-proxy with iptables; they share a docker network without routes between
// their pods. With CLUSTERS=3 north joins them at the end. It takes root, Debian's docker.io, debootstrap, containerd, runc and
// a C compiler, 5 GB of disk below /var/tmp and 3 GB of memory.
//
// With KIND_IMAGE, a tag of kind's published node image, nodes are of that image and
// have kind's own network plugin; the machine's docker pulls it.
//
// With KEEP=1 the bed stays when the test ends, and the next one takes it up.
package kind

import (
	"bytes"
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
)

//go:embed bed.sh
var bedScript string

// Beds are folders below this one: it has room for images, and its name leaves
// room for a socket's.
const (
	bedBase   = "/var/tmp"
	bedPrefix = "causeway-kind-"
)

// bedNamespaces are a bed's own. The kernel ends all that is in a PID namespace
// with its first process.
const bedNamespaces = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET

// inotifyInstances is how many inotify instances a user may have while a bed runs:
// the nodes' systemd, containerd, kubelet and kube-proxy are all root's, and 128, which
// is usual, is too few.
const (
	inotifyInstances = "fs/inotify/max_user_instances"
	leastInstances   = 8192
)

// settings of the whole machine, below /proc/sys, that kubelet or the bed writes.
// They get their values back when the bed ends.
func settings() []string {
	return []string{
		inotifyInstances,
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	}
}

// Bed is where clusters run. Its methods may be called from many goroutines.
type Bed struct {
	dir   string
	parts Parts
	// pid is the first process's, as the machine counts.
	pid   int
	ended chan struct{} // closed when it ended; nil of one that another process started
	// keep lets it live on when this process ends.
	keep bool
	// third is that north is there.
	third bool
	// out is the folder for what is collected of a failure.
	out string
}

// newBed starts a bed without clusters, and removes what a crash left of others.
func newBed(ctx context.Context, parts Parts, keep bool) (*Bed, error) {
	root, err := repository()
	if err != nil {
		return nil, err
	}
	sweep(ctx)
	dir, err := os.MkdirTemp(bedBase, bedPrefix)
	if err != nil {
		return nil, err
	}
	b := &Bed{dir: dir, parts: parts, ended: make(chan struct{}), keep: keep, out: filepath.Join(root, "out", "kind")}
	if err := errors.Join(b.saveSettings(), raise(inotifyInstances, leastInstances)); err != nil {
		return b, err
	}
	if err := b.startInit(); err != nil {
		return b, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { <-b.ended; cancel(errors.New("it ended")) }()
	err = await(ctx, time.Minute, func(ctx context.Context) error {
		_, err := b.docker(ctx, "version")
		return err
	})
	if err != nil {
		log, _ := os.ReadFile(b.path("dockerd.log"))
		return b, fmt.Errorf("start docker: %w; its last words:\n%s", err, tail(string(log), 20))
	}
	return b, nil
}

// startInit starts the first process. It and all that comes of it hold the lock
// of the folder: one that nobody holds was left by a crash.
func (b *Bed) startInit() error {
	held, err := lockFile(b.path("lock"), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return err
	}
	defer func() { _ = held.Close() }()
	log, err := os.Create(b.path("init.log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	// Docker tells a wrapper from what it calls by its name.
	runc := b.path("runc")
	if err := os.Symlink(b.parts.Helper, runc); err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", bedScript, "bed", b.dir, runc, b.group())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: bedNamespaces, Setsid: true}
	if !b.keep {
		// It dies with the thread that started it: with this process, however that ends.
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	started := make(chan error)
	go func() {
		defer close(b.ended)
		runtime.LockOSThread() // the thread has to live as long as the bed does
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // that it ended is all there is to know
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start the bed: %w", err)
	}
	b.pid = cmd.Process.Pid
	return os.WriteFile(b.path("pid"), []byte(strconv.Itoa(b.pid)), 0o600)
}

// keptBed returns a bed that a test before left running, nil for none.
func keptBed(ctx context.Context, parts Parts) *Bed {
	dirs, _ := filepath.Glob(filepath.Join(bedBase, bedPrefix+"*")) // the pattern is good
	root, err := repository()
	if err != nil {
		return nil
	}
	for _, dir := range dirs {
		text, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "ready")); err != nil {
			continue
		}
		b := &Bed{dir: dir, parts: parts, pid: pid, keep: true, out: filepath.Join(root, "out", "kind")}
		if _, err := b.docker(ctx, "version"); err == nil {
			return b
		}
	}
	return nil
}

// Close ends all that runs in the bed and removes it.
func (b *Bed) Close(ctx context.Context) error {
	if b.pid != 0 {
		if err := unix.Kill(b.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end the bed: %w", err)
		}
	}
	// All that ran there is gone when nobody holds the lock.
	held, err := lockFile(b.path("lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer func() { _ = held.Close() }()
	return b.remove(ctx)
}

// remove removes what a bed without processes leaves: settings of the machine,
// its groups, its folder.
func (b *Bed) remove(ctx context.Context) error {
	err := b.restoreSettings()
	roots, rootsErr := cgroup.Roots()
	err = errors.Join(err, rootsErr)
	for _, root := range roots {
		err = errors.Join(err, cgroup.Remove(ctx, filepath.Join(root, b.group())))
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// sweep removes beds that a crash left; it is no error if it cannot.
func sweep(ctx context.Context) {
	dirs, _ := filepath.Glob(filepath.Join(bedBase, bedPrefix+"*")) // the pattern is good
	for _, dir := range dirs {
		if held, err := lockFile(filepath.Join(dir, "lock"), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			_ = (&Bed{dir: dir}).remove(ctx)
			_ = held.Close()
		}
	}
}

func (b *Bed) saveSettings() error {
	for _, name := range settings() {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			return fmt.Errorf("read a setting of the machine: %w", err)
		}
		path := b.path("settings", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, value, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// raise writes a setting of the machine that is lower.
func raise(name string, least int) error {
	path := filepath.Join("/proc/sys", name)
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read a setting of the machine: %w", err)
	}
	value, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || value >= least {
		return err
	}
	return os.WriteFile(path, []byte(strconv.Itoa(least)), 0)
}

func (b *Bed) restoreSettings() error {
	for _, name := range settings() {
		value, err := os.ReadFile(b.path("settings", name))
		if err != nil {
			continue // it ended before they were read
		}
		if err := os.WriteFile(filepath.Join("/proc/sys", name), value, 0); err != nil {
			return fmt.Errorf("restore a setting of the machine: %w", err)
		}
	}
	return nil
}

// group is the cgroup above all containers.
func (b *Bed) group() string { return "/" + filepath.Base(b.dir) }

func (b *Bed) path(names ...string) string {
	return filepath.Join(append([]string{b.dir}, names...)...)
}

// Command returns a program that will run in the bed's network, with its docker.
func (b *Bed) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=/proc/" + strconv.Itoa(b.pid) + "/ns/net", "--", name}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+b.path("docker.sock"), "KUBECONFIG="+b.Kubeconfig())
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run runs a program in the bed's network and returns what it printed; the error
// has what it complained of.
func (b *Bed) Run(ctx context.Context, name string, args ...string) (string, error) {
	return run(b.Command(ctx, name, args...))
}

func run(cmd *exec.Cmd) (string, error) {
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		words := strings.Join(cmd.Args, " ")
		return out.String(), fmt.Errorf("%s: %w: %s", words[:min(len(words), 300)], err, tail(complaints.String()+out.String(), 20))
	}
	return out.String(), nil
}

func (b *Bed) docker(ctx context.Context, args ...string) (string, error) {
	return b.Run(ctx, "docker", args...)
}

// await returns once ready does without an error, and fails with its last error
// after the time.
func await(ctx context.Context, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	var last error
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		// What was cut short says less than what was before.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return fmt.Errorf("%w within %s: %w", context.Cause(ctx), limit, last)
		}
	}
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
