package datapath

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// mapSet is the maps that belong together: ids in one mean something in the others.
type mapSet struct {
	service, slot, backend *ebpf.Map
	affinity, reverse      *ebpf.Map // least recently used
}

// Of the maps that forget what is least recently used, the kernel takes the
// memory at once, so they hold an eighth of what the others may, within bounds.
// Fewer than the smallest would be spread too thinly over many processors.
const (
	smallestLRU = 1 << 13
	largestLRU  = 1 << 17
)

func lruCapacity(capacity uint32) uint32 {
	return min(max(capacity/8, smallestLRU), largestLRU)
}

// mapSpecs returns what the maps must look like. The layout's version stands in
// their names, so that a change of meaning alone is seen as well.
func mapSpecs(capacity uint32) (map[string]*ebpf.MapSpec, error) {
	spec, err := bpf.LoadSocket()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	specs := map[string]*ebpf.MapSpec{}
	for name := range new(mapSet).byName() {
		m := spec.Maps[name]
		m.Name = fmt.Sprintf("%s_%d", name, bpf.SocketLayoutLAYOUT_VERSION)
		m.MaxEntries = capacity
		if m.Type == ebpf.LRUHash {
			m.MaxEntries = lruCapacity(capacity)
		}
		specs[name] = m
	}
	return specs, nil
}

// newMapSet makes empty maps, not pinned.
func newMapSet(specs map[string]*ebpf.MapSpec) (*mapSet, error) {
	set := &mapSet{}
	if err := pin.Make(specs, set.byName()); err != nil {
		return nil, err
	}
	return set, nil
}

// openMapSet returns the maps pinned in dir, or why they cannot be used: not all
// there, or of another layout or capacity.
func openMapSet(dir string, specs map[string]*ebpf.MapSpec) (*mapSet, error) {
	set := &mapSet{}
	if err := pin.Open(dir, specs, set.byName()); err != nil {
		return nil, err
	}
	return set, nil
}

func (s *mapSet) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		bpf.SocketMapService:  &s.service,
		bpf.SocketMapSlot:     &s.slot,
		bpf.SocketMapBackend:  &s.backend,
		bpf.SocketMapAffinity: &s.affinity,
		bpf.SocketMapReverse:  &s.reverse,
	}
}

// ids returns the kernel's ids of the maps.
func (s *mapSet) ids() ([]ebpf.MapID, error) {
	var ids []ebpf.MapID
	for name, m := range s.byName() {
		info, err := (*m).Info()
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		id, ok := info.ID()
		if !ok {
			return nil, fmt.Errorf("map %s has no id: %w", name, ErrKernel)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// pin makes dir name these maps instead of whatever it names now.
func (s *mapSet) pin(dir string) error {
	for name, m := range s.byName() {
		path := filepath.Join(dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("replace pin: %w", err)
		}
		if err := (*m).Pin(path); err != nil {
			return fmt.Errorf("pin map at %s: %w", path, err)
		}
	}
	return nil
}

func (s *mapSet) close() {
	for _, m := range s.byName() {
		_ = (*m).Close() // nil is fine; a map's close loses nothing
	}
}
