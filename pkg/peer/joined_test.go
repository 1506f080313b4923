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
	found, err := readDirectories(declared, "", joined, "east")
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
	if found, err := readDirectories(declared, "", "", "east"); err != nil || len(found.files) != 1 {
		t.Errorf("without joined ones: %v, %v", found, err)
	}
	for _, dirs := range [][3]string{{declared, "/none", ""}, {"/none", joined, ""}, {declared, joined, "/none"}} {
		if found, err := readDirectories(dirs[0], dirs[2], dirs[1], "east"); err == nil || found.files != nil {
			t.Errorf("%q: %v, %v", dirs, found, err)
		}
	}
}

// What a resource says counts before what joined, and after a file; without a way to
// reach the peer it says what is believed of the one that joined.
func TestReadResources(t *testing.T) {
	t.Parallel()
	declared, resources, joined := t.TempDir(), t.TempDir(), t.TempDir()
	const good = "endpoints: [https://h:1]\ntrusted-ca-file: a\ncert-file: b\nkey-file: c\n"
	const bounds = `{"claims": {"podCIDRs": ["10.2.0.0/16"]}, "import": {"namespaces": ["shop"]}}`
	for dir, files := range map[string]map[string]string{
		declared:  {"filed": good},
		resources: {"filed": bounds, "whole": good, "held": bounds, "absent": bounds, "wrong": `{"claims": {"podCIDRs": ["10.2"]}}`, "torn": bounds},
		joined:    {"whole": good, "held": good + "agreed: {since: 2026-01-02T03:04:05Z, podCIDRs: [10.0.0.0/8]}\n", "wrong": good, "torn": "endpoints: []"},
	} {
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	found, err := readDirectories(declared, resources, joined, "east")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][2]string{}
	for name, file := range found.files {
		got[name] = [2]string{file.Path, file.Bounds}
	}
	want := map[string][2]string{
		"filed": {filepath.Join(declared, "filed")}, "whole": {filepath.Join(resources, "whole")},
		"held": {filepath.Join(joined, "held"), filepath.Join(resources, "held")},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	held := found.files["held"]
	if len(held.Endpoints) != 1 || len(held.Claims) != 1 || held.Claims[0].Range.String() != "10.2.0.0/16" || len(held.Agreed) != 1 || len(held.Import.Namespaces) != 1 {
		t.Errorf("what joined is held to %+v", held)
	}
	if len(found.problems) != 2 || found.problems["wrong"] == nil || found.problems["torn"] == nil {
		t.Errorf("problems are %v", found.problems)
	}
}
