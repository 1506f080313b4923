package source

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T, dir string) *keep {
	t.Helper()
	k, ignored, err := openKeep(dir)
	if err != nil || len(ignored) > 0 {
		t.Fatalf("open: ignored %v, %v", ignored, err)
	}
	return k
}

func TestKeep(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "manifests")
	k := open(t, dir)
	names := []string{"a.yaml", "with space/ü\xff\".yaml", strings.Repeat("long/", 800) + "x.yaml"}
	for _, name := range names {
		if _, _, err := k.load(name); !errors.Is(err, errNotKept) {
			t.Errorf("load %q: %v, want %v", name, err, errNotKept)
		}
		for _, text := range []string{"first", "second\nwith lines\x00"} {
			if err := errors.Join(k.save(name, []byte(text)), k.sync()); err != nil {
				t.Fatal(err)
			}
		}
	}
	k = open(t, dir)
	for _, name := range names {
		text, at, err := k.load(name)
		if err != nil || string(text) != "second\nwith lines\x00" || at.IsZero() {
			t.Errorf("load %q: %q of %v, %v", name, text, at, err)
		}
		info, err := os.Stat(k.fileOf(name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%q is kept as %v, %v", name, info.Mode(), err)
		}
		if err := errors.Join(k.remove(name), k.remove(name)); err != nil {
			t.Error(err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

// TestKeepSavesOnce checks that the same content is not written again, after a
// restart either.
func TestKeepSavesOnce(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir)
	if err := k.save("a", []byte("text")); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(k.fileOf("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).save("a", []byte("text")); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(k.fileOf("a"))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("written again: %v, %v", after, err)
	}
}

// TestKeepDamaged leaves what a crash, a disk or a person could leave.
func TestKeepDamaged(t *testing.T) {
	dir := t.TempDir()
	k := open(t, dir)
	for _, name := range []string{"good", "damaged", "torn", "moved"} {
		if err := k.save(name, []byte("content of "+name)); err != nil {
			t.Fatal(err)
		}
	}
	damage := func(name string, change func(text string) string) {
		t.Helper()
		text, err := os.ReadFile(k.fileOf(name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(k.fileOf(name), []byte(change(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage("damaged", func(text string) string { return strings.Replace(text, "content", "contend", 1) })
	damage("torn", func(text string) string { return text[:20] })
	write(t, dir, "x.draft", "half")
	write(t, dir, "x.manifest", "of another origin\n")
	write(t, dir, "notes", "not ours")
	if err := os.Rename(k.fileOf("moved"), filepath.Join(dir, "0123.manifest")); err != nil {
		t.Fatal(err)
	}
	k, ignored, err := openKeep(dir)
	if err != nil || len(ignored) != 3 {
		t.Fatalf("open: ignored %v, %v", ignored, err)
	}
	if text, _, err := k.load("good"); err != nil || string(text) != "content of good" {
		t.Errorf("load good: %q, %v", text, err)
	}
	for _, name := range []string{"damaged", "torn", "moved"} {
		if text, _, err := k.load(name); err == nil {
			t.Errorf("load %s: %q", name, text)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "x.draft")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the draft stays: %v", err)
	}
	if err := k.save("torn", []byte("new")); err != nil {
		t.Error(err)
	}
}

// TestManifestsNotKept runs with a state directory that went away: manifests are
// in effect all the same, and the problem is told until they can be kept, which
// takes no change of theirs.
func TestManifestsNotKept(t *testing.T) {
	t.Parallel()
	dir, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	write(t, dir, "a.yaml", namespace("a"))
	r := start(t, dir, state)
	r.untilComplete()
	remove(t, state, ".")
	write(t, dir, "a.yaml", namespace("b"))
	r.untilNames("Namespace b")
	r.untilProblem("a.yaml", "cannot be kept for a restart")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	r.untilNoProblem()
	write(t, dir, "a.yaml", namespace("c"))
	r.untilNames("Namespace c")
	r.untilNoProblem()
}
