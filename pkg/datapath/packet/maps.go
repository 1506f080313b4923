package packet

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// The folders of the pins of maps, beneath that of the links. Maps that replace
// others are pinned in the second one first, so that a folder always holds maps
// that belong together.
const (
	mapsDir = "maps"
	nextDir = "next"
)

// Bounds of the number of underlay addresses: the map of nodes is an array,
// whose memory is taken at once.
const (
	smallestHosts = 1 << 10
	largestHosts  = 1 << 17
)

func hostCapacity(capacity uint32) uint32 {
	return min(max(capacity/8, smallestHosts), largestHosts)
}

// mapSet is the maps that belong together: an index in one means something in
// the others.
type mapSet struct {
	v4, v6, host, node, ranges, settings *ebpf.Map
	counter, event                       *ebpf.Map
}

func (s *mapSet) byName() map[string]**ebpf.Map {
	return map[string]**ebpf.Map{
		bpf.MeshMapAddressV4: &s.v4,
		bpf.MeshMapAddressV6: &s.v6,
		bpf.MeshMapHost:      &s.host,
		bpf.MeshMapNode:      &s.node,
		bpf.MeshMapRange:     &s.ranges,
		bpf.MeshMapSettings:  &s.settings,
		bpf.MeshMapCounter:   &s.counter,
		bpf.MeshMapEvent:     &s.event,
	}
}

// mapSpecs returns what the maps must look like. The layout's version stands in
// their names, so that a change of meaning alone is seen as well.
func mapSpecs(capacity uint32) (map[string]*ebpf.MapSpec, error) {
	spec, err := bpf.LoadMesh()
	if err != nil {
		return nil, fmt.Errorf("read the programs: %w", err)
	}
	specs := map[string]*ebpf.MapSpec{}
	for name := range new(mapSet).byName() {
		m := spec.Maps[name]
		m.Name = fmt.Sprintf("%s_%d", name, bpf.MeshPacketLayoutPACKET_LAYOUT_VERSION)
		switch name {
		case bpf.MeshMapAddressV4, bpf.MeshMapAddressV6, bpf.MeshMapRange:
			m.MaxEntries = capacity
		case bpf.MeshMapHost, bpf.MeshMapNode:
			m.MaxEntries = hostCapacity(capacity)
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

// openMapSet returns the maps pinned in dir, or why they cannot be used.
func openMapSet(dir string, specs map[string]*ebpf.MapSpec) (*mapSet, error) {
	set := &mapSet{}
	if err := pin.Open(dir, specs, set.byName()); err != nil {
		return nil, err
	}
	return set, nil
}

// pin pins the maps in the folder for those that come next.
func (s *mapSet) pin(dir string) error {
	next := filepath.Join(dir, nextDir)
	if err := removeMaps(next); err != nil {
		return err
	}
	if err := os.Mkdir(next, 0o700); err != nil {
		return fmt.Errorf("folder for maps: %w", err)
	}
	for name, m := range s.byName() {
		if err := (*m).Pin(filepath.Join(next, name)); err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	return nil
}

// promote puts the maps that come next in the place of those that were.
func promote(dir string) error {
	maps := filepath.Join(dir, mapsDir)
	if err := removeMaps(maps); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(dir, nextDir), maps); err != nil {
		return fmt.Errorf("replace the pinned maps: %w", err)
	}
	return nil
}

// removeMaps removes a folder of pins; one that is not there is fine. What runs
// on the maps keeps them.
func removeMaps(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pinned maps: %w", err)
	}
	return nil
}

// idOf returns the kernel's id of a map.
func idOf(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	id, ok := info.ID()
	if !ok {
		return 0, errors.New("the kernel gives maps no ids")
	}
	return id, nil
}

func (s *mapSet) close() {
	for _, m := range s.byName() {
		_ = (*m).Close() // nil is fine; a map's close loses nothing
	}
}
