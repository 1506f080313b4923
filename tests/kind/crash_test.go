package kind

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
)

// What a crash leaves of a bed, the next one removes: its folder and its groups.
// One that runs stays as it is.
func TestCrash(t *testing.T) {
	require(t)
	ctx := t.Context()
	parts, err := Build(ctx, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	instances := filepath.Join("/proc/sys", inotifyInstances)
	before, err := os.ReadFile(instances)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBed(ctx, parts, false)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(instances); err != nil || len(text) < len("8192\n") {
		t.Errorf("while a bed runs %s is %s, %v", instances, text, err)
	}
	roots, err := cgroup.Roots()
	if err != nil {
		t.Fatal(err)
	}
	// As a container would.
	var groups []string
	for _, root := range roots {
		group := filepath.Join(root, b.group(), "container")
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
		groups = append(groups, filepath.Dir(group))
	}
	sweep(ctx)
	if _, err := b.docker(ctx, "version"); err != nil {
		t.Fatalf("another's start ended a bed that runs: %v", err)
	}
	if err := unix.Kill(b.pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err = await(ctx, time.Minute, func(context.Context) error {
		sweep(ctx)
		for _, path := range append(groups, b.dir) {
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				return errors.Join(errors.New("there is still "+path), err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(instances); err != nil || string(after) != string(before) {
		t.Errorf("%s was %s and is %s, %v", instances, before, after, err)
	}
}
