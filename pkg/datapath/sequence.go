package datapath

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// sequencePin is the name of the map that holds the next free ids. It outlives
// the other maps, so that an id never means two things on one node.
const sequencePin = "sequence"

// sequenceStep is how many ids are taken at once: a crash loses so many.
const sequenceStep = 1024

// The sequences, by their index in the map.
const (
	serviceIDs uint32 = iota
	backendIDs
	sequenceCount
)

// sequence hands out ids that were never handed out before.
type sequence struct {
	m        *ebpf.Map
	next     [sequenceCount]uint32
	reserved [sequenceCount]uint32 // ids below are reserved in the map
}

// openSequence opens the sequences pinned in dir, or begins new ones.
func openSequence(dir string) (*sequence, error) {
	path := filepath.Join(dir, sequencePin)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		m, err = ebpf.NewMap(&ebpf.MapSpec{
			Name: sequencePin, Type: ebpf.Array,
			KeySize: 4, ValueSize: 4, MaxEntries: sequenceCount,
		})
		if err == nil {
			err = m.Pin(path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &sequence{m: m}
	for i := range sequenceCount {
		if err := m.Lookup(i, &s.next[i]); err != nil {
			_ = m.Close()
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		s.next[i] = max(s.next[i], 1) // 0 is no id
		s.reserved[i] = s.next[i]
	}
	return s, nil
}

// seen notes that an id is in use, in case the pinned map was lost.
func (s *sequence) seen(which, id uint32) {
	if id >= s.next[which] {
		s.next[which] = id + 1
		s.reserved[which] = id + 1
	}
}

// take returns a new id. It fails when all have been used, or the reservation
// cannot be written.
func (s *sequence) take(which uint32) (uint32, error) {
	id := s.next[which]
	if id >= s.reserved[which] {
		if id > math.MaxUint32-sequenceStep {
			return 0, fmt.Errorf("all %d ids of sequence %d were used: stop the agent, empty its bpffs folder, start it", id, which)
		}
		if err := s.m.Put(which, id+sequenceStep); err != nil {
			return 0, fmt.Errorf("reserve ids: %w", err)
		}
		s.reserved[which] = id + sequenceStep
	}
	s.next[which] = id + 1
	return id, nil
}
