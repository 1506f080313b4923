package file_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// TestWrite replaces a file over and over: it has the text and the mode of the last
// time, and nothing is left beside it.
func TestWrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	for _, test := range []struct {
		text string
		mode os.FileMode
	}{{"one", 0o600}, {"another, that is longer", 0o644}, {"", 0o640}} {
		if err := file.Write(path, []byte(test.text), test.mode); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err := errors.Join(err, statErr); err != nil {
			t.Fatal(err)
		}
		if string(text) != test.text || info.Mode() != test.mode {
			t.Errorf("%q, mode %v, want %q, mode %v", text, info.Mode(), test.text, test.mode)
		}
	}
	onlyFile(t, path)
}

// TestWriteWhole has a reader look while a file is replaced: it sees one text or the
// other, and always one.
func TestWriteWhole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	texts := [2][]byte{bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<14)}
	if err := file.Write(path, texts[0], 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		for i := range 200 {
			if err := file.Write(path, texts[i%2], 0o600); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(text, texts[0]) && !bytes.Equal(text, texts[1]) {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			return
		default:
		}
	}
}

// TestWriteFails: what cannot be put in place is said with the path, and leaves what is
// there as it was, and nothing beside it.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.Mkdir(path, 0o700); err != nil { // a file cannot replace a folder
		t.Fatal(err)
	}
	if err := file.Write(path, []byte("x"), 0o600); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("over a folder: %v", err)
	}
	onlyFile(t, path)
	if err := file.Write(filepath.Join(path, "none", "f"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
	if err := file.SyncDir(filepath.Join(path, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a folder that is not there: %v", err)
	}
}

func onlyFile(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("in the folder are %v, %v", entries, err)
	}
}
