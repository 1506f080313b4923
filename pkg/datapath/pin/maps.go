package pin

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// batchSize bounds how many entries one system call writes or reads.
const batchSize = 4096

// MapUse is how full a map is.
type MapUse struct {
	Name              string // as pinned: a bounded set
	Entries, Capacity int
}

// Make makes empty maps, not pinned, by their specs. With an error it leaves all
// of into nil.
func Make(specs map[string]*ebpf.MapSpec, into map[string]**ebpf.Map) error {
	for name, to := range into {
		m, err := ebpf.NewMap(specs[name])
		if err != nil {
			closeAll(into)
			return fmt.Errorf("make map %s for %d entries: %w", name, specs[name].MaxEntries, err)
		}
		*to = m
	}
	return nil
}

// Open opens the maps pinned in dir. The error says why they cannot be used: not
// all there, or of another layout or capacity; then all of into is nil.
func Open(dir string, specs map[string]*ebpf.MapSpec, into map[string]**ebpf.Map) error {
	for name, to := range into {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if err != nil {
			closeAll(into)
			return fmt.Errorf("open map %s: %w", name, err)
		}
		*to = m
		if err := Fits(m, specs[name]); err != nil {
			closeAll(into)
			return fmt.Errorf("map %s: %w", name, err)
		}
	}
	return nil
}

func closeAll(maps map[string]**ebpf.Map) {
	for _, m := range maps {
		_ = (*m).Close() // nil is fine; a pin keeps what is in use
		*m = nil
	}
}

// Fits returns why m is not as spec describes it: another name, which carries
// the version of the layout, another kind, or another capacity.
func Fits(m *ebpf.Map, spec *ebpf.MapSpec) error {
	info, err := m.Info()
	if err != nil {
		return fmt.Errorf("read its layout: %w", err)
	}
	type layout struct {
		name                       string
		kind                       ebpf.MapType
		key, value, entries, flags uint32
	}
	have := layout{info.Name, info.Type, info.KeySize, info.ValueSize, info.MaxEntries, info.Flags}
	want := layout{spec.Name, spec.Type, spec.KeySize, spec.ValueSize, spec.MaxEntries, spec.Flags}
	if have != want {
		return fmt.Errorf("layout or capacity is %+v, this version has %+v", have, want)
	}
	return nil
}

// Write puts all keys and values into m, or returns how many of the first it
// put. The error wraps ErrFull when there is no room.
func Write[K, V any](m *ebpf.Map, keys []K, values []V) (int, error) {
	done := 0
	for done < len(keys) {
		end := min(done+batchSize, len(keys))
		n, err := end-done, error(nil)
		if n == 1 {
			if err = m.Put(&keys[done], &values[done]); err != nil {
				n = 0
			}
		} else {
			n, err = m.BatchUpdate(keys[done:end], values[done:end], nil)
			if err != nil && n == end-done {
				n = 0 // refused before the first: the kernel did not count
			}
		}
		done += n
		if errors.Is(err, unix.E2BIG) {
			return done, fmt.Errorf("write to map of %d entries: %w", m.MaxEntries(), ErrFull)
		}
		if err != nil {
			return done, fmt.Errorf("write to map: %w", err)
		}
	}
	return done, nil
}

// Delete deletes keys from m; those that are not there count as deleted.
func Delete[K any](m *ebpf.Map, keys []K) error {
	for i := range keys {
		if err := m.Delete(&keys[i]); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from map: %w", err)
		}
	}
	return nil
}

// Read calls fn for every entry of m. Nobody may write meanwhile.
func Read[K, V any](m *ebpf.Map, fn func(K, V)) error {
	keys, values := make([]K, batchSize), make([]V, batchSize)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("read map: %w", err)
		}
		for i := range n {
			fn(keys[i], values[i])
		}
		if err != nil { // the end
			return nil
		}
	}
}
