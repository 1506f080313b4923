package kubelab

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFingerprint: whatever goes into the binary gives it another name.
func TestFingerprint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "go.sum")); err != nil {
			return ""
		}
		sum, err := fingerprint(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	write("go.mod", "module one\n")
	seen := []string{write("go.sum", ""), write("main.go", "package main\n"), write("other.go", "package main\n"), write("go.mod", "module two\n"), write("go.sum", "x\n")}
	if sorted := slices.Compact(slices.Sorted(slices.Values(seen))); len(sorted) != len(seen) {
		t.Errorf("changes that make no difference: %q", seen)
	}
	if again := write("go.sum", "x\n"); again != seen[len(seen)-1] {
		t.Errorf("the same source: %q and %q", seen[len(seen)-1], again)
	}
}

func TestFingerprintWithoutSource(t *testing.T) {
	t.Parallel()
	if sum, err := fingerprint(t.Context(), t.TempDir()); err == nil {
		t.Errorf("without go.mod: %q, want an error", sum)
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	for i, name := range []string{"kubernetes-d", "kubernetes-b", "kubernetes-c", "kubernetes-a", "lock"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		used := now.Add(-time.Duration(i) * time.Hour)
		if err := os.Chtimes(path, used, used); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"kubernetes-b", "kubernetes-c", "kubernetes-d", "lock"}; !slices.Equal(left, want) {
		t.Errorf("left: %q, want %q", left, want)
	}
}

// TestReservePort: nobody else gets the port, but who shares it.
func TestReservePort(t *testing.T) {
	t.Parallel()
	p, err := reservePort()
	if err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(p.fd)
	if err != nil {
		t.Fatal(err)
	}
	bind := func(share int) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, share); err != nil {
			t.Fatal(err)
		}
		return unix.Bind(fd, bound)
	}
	if err := bind(0); err == nil {
		t.Error("another process would get the port")
	}
	if err := bind(1); err != nil {
		t.Errorf("the server does not get the port: %v", err)
	}
	p.release()
}

func TestFolderTooLong(t *testing.T) {
	t.Parallel()
	base := filepath.Join(t.TempDir(), "0123456789012345678901234567890123456789012345678901234567890123456789")
	if err := os.Mkdir(base, 0o700); err != nil {
		t.Fatal(err)
	}
	if dir, err := newFolder(base); err == nil {
		t.Errorf("%q: want an error, as no socket fits", dir.path)
	}
	if left, err := os.ReadDir(base); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
