package kubelab

import (
	"bufio"
	"context"
	"errors"
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
	sleeper := &process{path: "/bin/sleep", args: []string{"3600"}, log: filepath.Join(dir.path, "log")}
	if err := sleeper.start(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("started %d %s\n", sleeper.pid(), dir.path)
	<-sleeper.done()
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
	next, err := newFolder(base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = next.remove() })
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of a process that is gone: %v, want that it was removed", err)
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
