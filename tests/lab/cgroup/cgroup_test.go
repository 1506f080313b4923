package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRoots(t *testing.T) {
	const version1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n"
	tests := map[string]struct {
		text      string
		two, both []string
	}{
		"hybrid": {
			version1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n",
			[]string{"/sys/fs/cgroup/unified"},
			[]string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"},
		},
		"unified":   {"30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n", []string{"/sys/fs/cgroup"}, []string{"/sys/fs/cgroup"}},
		"read only": {"30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n", nil, nil},
		"version 1": {version1, nil, []string{"/sys/fs/cgroup/cpu"}},
		"nonsense":  {"x - cgroup2\n\n31 23 0:28 / /sys rw - tmpfs cgroup2 rw\n", nil, nil},
	}
	for name, test := range tests {
		if got, err := roots(strings.NewReader(test.text), 2); !slices.Equal(got, test.two) || err != nil {
			t.Errorf("%s, version 2: %q, %v", name, got, err)
		}
		if got, err := roots(strings.NewReader(test.text), 1, 2); !slices.Equal(got, test.both) || err != nil {
			t.Errorf("%s, both versions: %q, %v", name, got, err)
		}
	}
}

// folder makes a cgroup for the test in this machine's tree.
func folder(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("making cgroups takes root")
		}
		t.Skip("making cgroups takes root")
	}
	tree, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(tree, fmt.Sprintf("causeway-test-%d", os.Getpid()))
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(Kill(ctx, path), Remove(ctx, path)); err != nil {
			t.Error(err)
		}
	})
	return path
}

// TestKill ends what is beneath a folder, which can be removed then.
func TestKill(t *testing.T) {
	path := folder(t)
	below := filepath.Join(path, "a", "b")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	group, err := os.Open(below)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = group.Close() }()
	cmd := exec.CommandContext(t.Context(), "/bin/sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if empty, err := Empty(path); empty || err != nil {
		t.Errorf("with a process in it: empty %v, %v", empty, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := Remove(short, path); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("removed with a process in it: %v", err)
	}
	if err := Kill(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended well")
	}
	if err := Remove(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is left: %v", err)
	}
}

func TestAbsent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent")
	if err := errors.Join(Kill(t.Context(), path), Remove(t.Context(), path)); err != nil {
		t.Error(err)
	}
	if _, err := Empty(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state of nothing: %v", err)
	}
	if err := Kill(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "5.14") {
		t.Errorf("a folder without cgroup.kill: %v", err)
	}
}
