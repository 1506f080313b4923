package pin

import (
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// TestMount mounts once, and not over what is there.
func TestMount(t *testing.T) {
	sandbox.Require(t)
	dir := t.TempDir()
	t.Cleanup(func() {
		// Once is enough: a second mount would be left, and the folder not be removed.
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	for _, want := range []bool{true, false} {
		if mounted, err := Mount(dir); err != nil || mounted != want {
			t.Errorf("mounted %t, %v: want %t", mounted, err, want)
		}
	}
	lock, err := LockFolder(filepath.Join(dir, "causeway"))
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Close(); err != nil {
		t.Error(err)
	}
	if mounted, err := Mount(filepath.Join(t.TempDir(), "missing")); mounted || !errors.Is(err, unix.ENOENT) {
		t.Errorf("a folder that is not there: mounted %t, %v", mounted, err)
	}
}
