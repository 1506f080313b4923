package pin

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

func spec() *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: "test_1", Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 10_000}
}

func newMap(t *testing.T) *ebpf.Map {
	t.Helper()
	sandbox.Require(t)
	m, err := ebpf.NewMap(spec())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() }) // thrown away
	return m
}

func TestFits(t *testing.T) {
	m := newMap(t)
	if err := Fits(m, spec()); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*ebpf.MapSpec){
		"name":     func(s *ebpf.MapSpec) { s.Name = "test_2" },
		"kind":     func(s *ebpf.MapSpec) { s.Type = ebpf.LRUHash },
		"key":      func(s *ebpf.MapSpec) { s.KeySize = 8 },
		"value":    func(s *ebpf.MapSpec) { s.ValueSize = 16 },
		"capacity": func(s *ebpf.MapSpec) { s.MaxEntries++ },
		"flags":    func(s *ebpf.MapSpec) { s.Flags = 1 },
	} {
		other := spec()
		change(other)
		if err := Fits(m, other); err == nil {
			t.Errorf("another %s fits", name)
		}
	}
}

// A set is opened as a whole or not at all.
func TestMakeAndOpen(t *testing.T) {
	sandbox.Require(t)
	dir := sandbox.BPFFS(t)
	other := spec()
	other.Name = "other_1"
	specs := map[string]*ebpf.MapSpec{"a": spec(), "b": other}
	var a, b *ebpf.Map
	into := map[string]**ebpf.Map{"a": &a, "b": &b}
	if err := Make(specs, into); err != nil {
		t.Fatal(err)
	}
	if err := a.Pin(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	if err := b.Pin(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	closeAll(into)
	if err := Open(dir, specs, into); err != nil || a == nil || b == nil {
		t.Fatalf("%v, %v: %v", a, b, err)
	}
	closeAll(into)

	changed := spec()
	changed.MaxEntries++
	if err := Open(dir, map[string]*ebpf.MapSpec{"a": changed, "b": other}, into); err == nil || a != nil || b != nil {
		t.Errorf("another capacity: %v, %v: %v", a, b, err)
	}
	if err := os.Remove(filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := Open(dir, specs, into); !errors.Is(err, os.ErrNotExist) || a != nil || b != nil {
		t.Errorf("one is missing: %v, %v: %v", a, b, err)
	}
	changed.KeySize = 0
	if err := Make(map[string]*ebpf.MapSpec{"a": spec(), "b": changed}, into); err == nil || a != nil || b != nil {
		t.Errorf("one cannot be made: %v, %v: %v", a, b, err)
	}
}

// More than a batch goes in, comes out, and what does not fit is said.
func TestBatches(t *testing.T) {
	m := newMap(t)
	keys, values := make([]uint32, 12_000), make([]uint64, 12_000)
	want := map[uint32]uint64{}
	for i := range keys {
		keys[i], values[i] = uint32(i), uint64(i)*3
		if i < 9_000 {
			want[keys[i]] = values[i]
		}
	}
	if n, err := Write(m, keys[:9_000], values[:9_000]); n != 9_000 || err != nil {
		t.Fatalf("%d written: %v", n, err)
	}
	got := map[uint32]uint64{}
	if err := Read(m, func(k uint32, v uint64) { got[k] = v }); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("%d entries read, not as they were written", len(got))
	}
	if n, err := Write(m, keys[9_000:], values[9_000:]); n != 1_000 || !errors.Is(err, ErrFull) {
		t.Errorf("%d written: %v, want %v", n, err, ErrFull)
	}
	if n, err := Write(m, keys[11_000:11_001], values[:1]); n != 0 || !errors.Is(err, ErrFull) {
		t.Errorf("%d written: %v, want %v", n, err, ErrFull)
	}
	if err := Delete(m, keys); err != nil { // most are there, some are not
		t.Error(err)
	}
	if err := Read(m, func(k uint32, _ uint64) { t.Fatalf("%d is left", k) }); err != nil {
		t.Error(err)
	}
}

// A seal depends on the key's and on every word but itself.
func TestSeal(t *testing.T) {
	v := [6]uint64{1, 2, 3, 4, 5, 99}
	seal := Seal(&v, 7)
	v[5] = 0
	if Seal(&v, 7) != seal {
		t.Error("the seal depends on itself")
	}
	if Seal(&v, 8) == seal {
		t.Error("the seal does not depend on the key")
	}
	for i := range v[:5] {
		v[i] ^= 1 << 40
		if Seal(&v, 7) == seal {
			t.Errorf("the seal does not depend on word %d", i)
		}
		v[i] ^= 1 << 40
	}
}

func TestLockFolder(t *testing.T) {
	dir := filepath.Join(sandbox.BPFFS(t), "a", "b")
	lock, err := LockFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockFolder(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("%v, want %v", err, ErrInUse)
	}
	if above, err := LockFolder(filepath.Dir(dir)); err != nil {
		t.Errorf("the folder above: %v", err)
	} else if err := above.Close(); err != nil {
		t.Error(err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := LockFolder(dir)
	if err != nil {
		t.Fatalf("when it is given up: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "c")
	if _, err := LockFolder(elsewhere); !errors.Is(err, ErrBPFFS) {
		t.Errorf("%v, want %v", err, ErrBPFFS)
	}
	if _, err := os.Stat(elsewhere); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder was made on another file system: %v", err)
	}
}
