package peer

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Of a cluster that is both declared and joined the declared file counts, usable
// or not; a directory that can not be read is no empty one.
func TestReadDirectories(t *testing.T) {
	t.Parallel()
	declared, joined := t.TempDir(), t.TempDir()
	write := func(dir, name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const good = "endpoints: [https://h:1]\ntrusted-ca-file: a\ncert-file: b\nkey-file: c\n"
	write(declared, "both", good)
	write(joined, "both", good)
	write(declared, "broken", "endpoints: []")
	write(joined, "broken", good)
	write(joined, "west", good)
	write(joined, "bad", "endpoints: []")
	write(joined, "east", good) // the cluster's own name
	found, err := readDirectories(declared, joined, "east")
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{}
	for name, file := range found.files {
		paths[name] = file.Path
	}
	if diff := cmp.Diff(map[string]string{"both": filepath.Join(declared, "both"), "west": filepath.Join(joined, "west")}, paths); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"broken", "bad", "east"} {
		if found.problems[name] == nil {
			t.Errorf("no problem of %s: %v", name, found.problems)
		}
	}
	if found, err := readDirectories(declared, "", "east"); err != nil || len(found.files) != 1 {
		t.Errorf("without joined ones: %v, %v", found, err)
	}
	for _, dirs := range [][2]string{{declared, "/none"}, {"/none", joined}} {
		if found, err := readDirectories(dirs[0], dirs[1], "east"); err == nil || found.files != nil {
			t.Errorf("%q: %v, %v", dirs, found, err)
		}
	}
}
