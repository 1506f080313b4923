package datapath

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// TestPins takes a data plane out of the kernel: not while it is in use, and all
// of it afterwards, in an order in which nobody is sent away without a way back.
func TestPins(t *testing.T) {
	dir := filepath.Join(sandbox.BPFFS(t), "causeway")
	d, err := Open(Config{BPFFS: dir, Cgroup: sandbox.NewCgroup(t), MapCapacity: 64, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Complete(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "packet", "deeper"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPins(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("while in use: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	pins, err := OpenPins(dir)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := pins.List()
	if err != nil {
		t.Fatal(err)
	}
	removed, err := pins.Remove()
	if err != nil || strings.Join(removed, " ") != strings.Join(listed, " ") {
		t.Errorf("removed %q of %q: %v", removed, listed, err)
	}
	text := strings.Join(removed, " ")
	if c, r := strings.Index(text, "/connect4"), strings.Index(text, "/recvmsg4"); c < 0 || r < c {
		t.Errorf("connect4 and recvmsg4 at %d and %d of %s", c, r, text)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
	if err := pins.Close(); err != nil {
		t.Error(err)
	}
	again, err := OpenPins(dir)
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := again.Remove(); err != nil || len(removed) != 0 {
		t.Errorf("again: removed %q, %v", removed, err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenPins(t.TempDir()); !errors.Is(err, ErrBPFFS) {
		t.Errorf("a folder of files: %v", err)
	}
}
