package kind

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestKeep(t *testing.T) {
	t.Parallel()
	c := cache{dir: t.TempDir(), say: io.Discard}
	made := 0
	build := func(to string) error {
		made++
		return os.WriteFile(to, []byte{byte(made)}, 0o600)
	}
	keep := func(from ...string) string {
		t.Helper()
		path, err := c.keep("part", from, build)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("it is not where it was said to be: %v", err)
		}
		return path
	}
	first := keep("a", "b")
	if again := keep("a", "b"); again != first || made != 1 {
		t.Errorf("the same parts were made %d times, as %q and %q", made, first, again)
	}
	second := keep("ab", "")
	if second == first {
		t.Error("other parts have the name of the first")
	}
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what nobody asks for any more is still there: %v", err)
	}
	broken := errors.New("broken")
	if _, err := c.keep("other", nil, func(string) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a part that cannot be made: %v, want %v", err, broken)
	}
	if files, _ := filepath.Glob(filepath.Join(c.dir, "other-*")); len(files) > 0 { // the pattern is good
		t.Errorf("a part that could not be made was kept: %q", files)
	}
}

// A part that is kept in the cache's own folder has the same name on any machine.
func TestKeepForgetsFolder(t *testing.T) {
	t.Parallel()
	name := func() string {
		c := cache{dir: t.TempDir(), say: io.Discard}
		path, err := c.keep("part", []string{filepath.Join(c.dir, "base-1")}, func(to string) error { return os.WriteFile(to, nil, 0o600) })
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Base(path)
	}
	if one, two := name(), name(); one != two {
		t.Errorf("names of one part in two folders: %q and %q", one, two)
	}
}
