// Guest is the first process of a machine that tests/kernels boots: it mounts what
// tests need, loads modules, runs the tests that /tests/plan lists, and turns the
// machine off.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	signal.Ignore(unix.SIGPIPE)
	err := run()
	if err != nil {
		fmt.Println("init:", err)
	} else {
		fmt.Println("=== CAUSEWAY DONE")
	}
	_ = os.Stdout.Sync()
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) // where nothing can turn it off
}

func run() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"devtmpfs", "/dev"},
		{"tmpfs", "/tmp"},
		{"tmpfs", "/run"},
		{"cgroup2", "/sys/fs/cgroup"},
		{"bpf", "/sys/fs/bpf"},
		{"tmpfs", "/dev/shm"},
		{"devpts", "/dev/pts"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if err := errors.Join(os.Setenv("PATH", "/sbin:/bin"), os.Setenv("HOME", "/root"), os.Setenv("TMPDIR", "/tmp")); err != nil {
		return err
	}
	load()
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip: %w: %s", err, out)
	}
	plan, err := os.ReadFile("/tests/plan")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(plan)) {
		name, rest, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
		file, pattern, _ := strings.Cut(rest, " ")
		fmt.Println("\n=== CAUSEWAY START " + name) // the kernel may have begun a line
		fmt.Printf("\n=== CAUSEWAY END %d\n", test("/"+file, pattern))
	}
	return nil
}

// load loads modules in their order. What a kernel does not take, tests miss.
func load() {
	order, err := os.ReadFile("/lib/modules/order")
	if err != nil {
		fmt.Println("init:", err)
	}
	for _, name := range bytes.Fields(order) {
		file, err := os.Open("/lib/modules/" + string(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = unix.FinitModule(int(file.Fd()), "", 0)
			_ = file.Close()
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			fmt.Printf("init: module %s: %v\n", name, err)
		}
	}
}

// test runs a test binary and returns its exit status.
func test(file, pattern string) int {
	args := []string{"-test.v", "-test.short", "-test.timeout=10m"}
	if pattern != "" {
		args = append(args, "-test.run="+pattern)
	}
	c := exec.Command(file, args...)
	c.Dir = "/tmp"
	c.Stdout, c.Stderr = os.Stdout, os.Stdout
	err := c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Println("init:", err)
		return 1
	}
	return 0
}
