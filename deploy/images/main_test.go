package main

import (
	"archive/tar"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// folder returns a folder with files that stand for the binaries.
func folder(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), append(executable(t, elf.EM_X86_64, elf.PT_LOAD), name...), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRun(t *testing.T) {
	t.Parallel()
	c := config{
		binaries: folder(t, "clustermesh-apiserver", "node-agent"), output: filepath.Join(t.TempDir(), "images.tar"),
		repository: "example.org/mesh", tag: "v1.2.3", architecture: "amd64",
	}
	if err := run(c); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(c.output)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var tags []string
	var users []string
	for r := tar.NewReader(file); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if header.Name == "manifest.json" {
			var entries []struct{ RepoTags []string }
			if err := json.Unmarshal(text, &entries); err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				tags = append(tags, e.RepoTags...)
			}
		}
		var settings struct{ Config *struct{ User string } }
		if json.Unmarshal(text, &settings) == nil && settings.Config != nil && strings.Contains(string(text), "rootfs") {
			users = append(users, settings.Config.User)
		}
	}
	if want := []string{"example.org/mesh/clustermesh-apiserver:v1.2.3", "example.org/mesh/node-agent:v1.2.3"}; !slices.Equal(tags, want) {
		t.Errorf("images: %q, want %q", tags, want)
	}
	if want := []string{nobody, ""}; !slices.Equal(users, want) {
		t.Errorf("users: %q, want %q: the API server is not root", users, want)
	}
}

// TestRunFails: what is there stays when nothing better can be written.
func TestRunFails(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	path := filepath.Join(out, "images.tar")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []config{
		{binaries: folder(t, "clustermesh-apiserver"), output: path, repository: "causeway", tag: "v1", architecture: "amd64"},
		{binaries: folder(t, "clustermesh-apiserver", "node-agent"), output: path, repository: "causeway", architecture: "amd64"},
		{binaries: folder(t, "clustermesh-apiserver", "node-agent"), repository: "causeway", tag: "v1", architecture: "amd64"},
		{binaries: folder(t, "clustermesh-apiserver", "node-agent"), output: path, repository: "causeway", tag: "v1", architecture: "arm64"},
		{binaries: folder(t, "clustermesh-apiserver", "node-agent"), output: path, repository: "causeway", tag: "a:b", architecture: "amd64"},
	} {
		if err := run(c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "old" {
		t.Errorf("the old archive: %q, %v", text, err)
	}
	if entries, err := os.ReadDir(out); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
