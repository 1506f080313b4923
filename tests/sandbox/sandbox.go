// Package sandbox gives the tests of a package a kernel of their own, as far as
// one machine can: a network namespace with nothing but a loopback device, a
// cgroup, and a BPF file system that nobody else sees. The test binary starts
// itself again inside and all of it goes with the process, however it ends.
package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// envCgroup tells the inner process its cgroup; its presence makes it the inner one.
const envCgroup = "CAUSEWAY_SANDBOX_CGROUP"

// prefix begins the names of the cgroups that sandboxes make.
const prefix = "causeway-sandbox-"

// The ranges of which every address is one of this sandbox: tests listen on any
// of them. Nothing else has a route.
const (
	LocalIPv4 = "10.1.0.0/16"
	LocalIPv6 = "fd00:1::/64"
)

// Main is what a TestMain calls: it runs the tests of m inside a sandbox, looks
// for leaked goroutines after them, and exits. Without root it runs them
// outside, where Require skips; in CI it fails instead.
func Main(m *testing.M) {
	switch {
	case os.Getenv(envCgroup) != "":
		if err := enter(); err != nil {
			fail(err)
		}
		goleak.VerifyTestMain(m)
	case os.Geteuid() == 0:
		status, err := start()
		if err != nil {
			fail(err)
		}
		os.Exit(status)
	case os.Getenv("CI") == "true":
		fail(errors.New("needs root"))
	default:
		goleak.VerifyTestMain(m)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "sandbox:", err)
	os.Exit(1)
}

// start runs this test binary again, inside.
func start() (status int, err error) {
	root, err := cgroupRoot()
	if err != nil {
		return 1, err
	}
	sweep(root)
	dir, err := os.MkdirTemp(root, prefix)
	if err != nil {
		return 1, fmt.Errorf("make cgroup: %w", err)
	}
	defer func() { err = errors.Join(err, remove(dir)) }()
	self := filepath.Join(dir, "self")
	if err := os.Mkdir(self, 0o755); err != nil {
		return 1, fmt.Errorf("make cgroup: %w", err)
	}
	cgroup, err := os.Open(self)
	if err != nil {
		return 1, err
	}
	defer cgroup.Close() // read only
	// The deadline is go test's own, given by flag to the inner process.
	inner := exec.CommandContext(context.Background(), os.Args[0], os.Args[1:]...)
	inner.Env = append(os.Environ(), envCgroup+"="+dir)
	inner.Stdin, inner.Stdout, inner.Stderr = os.Stdin, os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(cgroup.Fd()),
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = inner.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// kill kills all processes below a cgroup. Before Linux 5.14 they are told one by
// one, which is as good where none of them starts others.
func kill(dir string) error {
	all := filepath.Join(dir, "cgroup.kill")
	if _, err := os.Stat(all); err == nil {
		return os.WriteFile(all, []byte("1"), 0)
	}
	return filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || entry.Name() != "cgroup.procs" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
			}
		}
		return nil
	})
}

// remove deletes a cgroup and those beneath it, and kills what is left in them.
func remove(dir string) error {
	if err := kill(dir); err != nil {
		return fmt.Errorf("kill what is left: %w", err)
	}
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for i := len(dirs) - 1; i >= 0 && err == nil; i-- {
		err = removeEmpty(dirs[i])
	}
	return err
}

// removeEmpty waits for the processes of a cgroup, all of them killed, to be gone.
func removeEmpty(dir string) error {
	for range 1000 {
		err := os.Remove(dir)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		wait := unix.Timespec{Nsec: 1e6}
		_ = unix.Nanosleep(&wait, nil) // cut short is fine
	}
	return fmt.Errorf("%s: processes that were killed are still there", dir)
}

// sweep removes the empty cgroups of sandboxes whose outer process was killed.
// Those that live have a process and cannot be removed.
func sweep(root string) {
	old, _ := filepath.Glob(filepath.Join(root, prefix+"*")) // the pattern is good
	for _, dir := range old {
		beneath, _ := filepath.Glob(filepath.Join(dir, "*", "cgroup.procs"))
		for _, file := range beneath {
			_ = os.Remove(filepath.Dir(file)) // another's, and in use
		}
		_ = os.Remove(dir) // the same
	}
}

// enter prepares the inside: mounts that stay here, and the local addresses.
func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("loopback device: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("loopback device: %w", err)
	}
	// For IPv4 the routes are enough.
	if err := os.WriteFile("/proc/sys/net/ipv6/ip_nonlocal_bind", []byte("1"), 0); err != nil {
		return fmt.Errorf("allow listening on any local address: %w", err)
	}
	for _, local := range []string{LocalIPv4, LocalIPv6} {
		_, dst, err := net.ParseCIDR(local)
		if err != nil {
			return err
		}
		route := netlink.Route{LinkIndex: lo.Attrs().Index, Dst: dst, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}
		// Replace, as a fuzzing process starts itself once more in here.
		if err := netlink.RouteReplace(&route); err != nil {
			return fmt.Errorf("route to %s: %w", local, err)
		}
	}
	return nil
}

// Require skips the test when it does not run inside a sandbox.
func Require(t testing.TB) {
	t.Helper()
	if os.Getenv(envCgroup) == "" {
		t.Skip("needs root: network namespace, cgroup and BPF file system")
	}
}

// Cgroup returns the cgroup v2 folder above this process.
func Cgroup(t testing.TB) string {
	t.Helper()
	Require(t)
	return os.Getenv(envCgroup)
}

// NewCgroup makes a cgroup that this process is not in. It goes with the test.
func NewCgroup(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(Cgroup(t), "other-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(dir) }) // the test may have removed it
	return dir
}

// BPFFS mounts a BPF file system for one test and returns its folder.
func BPFFS(t testing.TB) string {
	t.Helper()
	Require(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount bpffs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount bpffs: %v", err)
		}
	})
	return dir
}

// cgroupRoot finds where cgroup v2 is mounted: hybrid hosts have it beside the
// old hierarchies.
func cgroupRoot() (string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	defer file.Close() // read only
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4], nil
		}
	}
	return "", errors.Join(errors.New("no cgroup v2 hierarchy is mounted"), lines.Err())
}

// Since reports whether this kernel is of a version of Linux, or of a later one.
func Since(t testing.TB, major, minor int) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var first, second int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &first, &second); err != nil {
		t.Fatalf("the kernel's version: %v", err)
	}
	return first > major || first == major && second >= minor
}
