package kubelab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// envCrash makes TestInner the process that is killed; it names its base folder.
const envCrash = "CAUSEWAY_KUBELAB_CRASH"

// TestInner is what TestCrash starts: it owns a folder and a process, says
// which, and waits to be killed.
func TestInner(t *testing.T) {
	base := os.Getenv(envCrash)
	if base == "" {
		return // nothing to test by itself
	}
	dir, err := newFolder(base)
	if err != nil {
		t.Fatal(err)
	}
	sleeper := &process{name: "sleep", path: "/bin/sleep", args: []string{"3600"}, log: filepath.Join(dir.path, "log")}
	if os.Geteuid() == 0 {
		becomeNode(t, sleeper, dir.path)
	}
	if err := sleeper.start(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("started %d %s\n", sleeper.pid(), dir.path)
	<-sleeper.done()
}

// becomeNode makes of a process that sleeps one with a sleeper in each cgroup of a
// node, in namespaces as a node's.
func becomeNode(t *testing.T, p *process, folder string) {
	t.Helper()
	if err := makeGroups(folder); err != nil {
		t.Fatal(err)
	}
	var join strings.Builder
	for _, group := range groups(t, folder) {
		fmt.Fprintf(&join, "mkdir %[1]s/pod; cat %[1]s/cpuset.cpus >%[1]s/pod/cpuset.cpus; cat %[1]s/cpuset.mems >%[1]s/pod/cpuset.mems; echo 0 >%[1]s/pod/cgroup.procs; ", group)
	}
	p.path, p.args = "/bin/sh", []string{"-c", join.String() + "sleep 3600 & wait"}
	p.namespaces = nodeNamespaces
}

// TestCrash: when the test binary is killed, its processes end, and the next
// control plane removes its folder, but none that is in use.
func TestCrash(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	inner := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestInner$")
	inner.Env = append(os.Environ(), envCrash+"="+base)
	output, err := inner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := inner.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	var pid int
	var path string
	for pid == 0 && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "started ") {
			if _, err := fmt.Sscanf(lines.Text(), "started %d %s", &pid, &path); err != nil {
				t.Fatal(err)
			}
		}
	}
	used, err := newFolder(base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = used.remove() })
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the folder of a process that lives was removed: %v", err)
	}
	if err := inner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = inner.Wait() // it was killed
	awaitGone(ctx, t, pid)
	if os.Geteuid() == 0 && len(leftOf(t, path)) < 2 {
		t.Error("there were no cgroups, so nothing of them is tested")
	}
	next, err := newFolder(base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.remove() })
	if left := leftOf(t, path); len(left) > 0 {
		t.Errorf("left of a process that is gone: %q", left)
	}
	if _, err := os.Stat(used.path); err != nil {
		t.Errorf("a folder in use was removed: %v", err)
	}
}

// awaitGone returns when a process has ended, whether somebody asked for its
// status or not.
func awaitGone(ctx context.Context, t *testing.T, pid int) {
	t.Helper()
	ticks := time.NewTicker(10 * time.Millisecond)
	defer ticks.Stop()
	for {
		if state, err := processState(pid); err != nil || state == 'Z' {
			return
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			t.Fatalf("process %d lives on without its parent", pid)
		}
	}
}
