package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/bpf"
)

// agentMaps are the pinned maps of an agent's data plane, as the programs see
// them.
type agentMaps struct{ service, slot, backend *ebpf.Map }

func openMaps(bpffs string) (*agentMaps, error) {
	var m agentMaps
	for _, pin := range []struct {
		name string
		to   **ebpf.Map
	}{{bpf.SocketMapService, &m.service}, {bpf.SocketMapSlot, &m.slot}, {bpf.SocketMapBackend, &m.backend}} {
		opened, err := ebpf.LoadPinnedMap(filepath.Join(bpffs, pin.name), &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open map %s: %w", pin.name, err), m.close())
		}
		*pin.to = opened
	}
	return &m, nil
}

func (m *agentMaps) close() error {
	return errors.Join(m.service.Close(), m.slot.Close(), m.backend.Close())
}

// count returns how many services are in effect, and how many backends they
// choose from. It reads the services alone: what they refer to is written
// before them.
func (m *agentMaps) count() (services, backends int, err error) {
	const batch = 4096
	keys, values := make([]bpf.SocketServiceKey, batch), make([]bpf.SocketService, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.service.BatchLookup(&cursor, keys, values, nil)
		for _, v := range values[:n] {
			services++
			for _, g := range v.Groups {
				backends += int(g & (1<<bpf.SocketGroupBitsGROUP_NUMBER_BITS - 1))
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return services, backends, nil
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read map %s: %w", bpf.SocketMapService, err)
		}
	}
}

// lookup returns what the programs find for a frontend; zero for nothing.
func (m *agentMaps) lookup(frontend netip.AddrPort) (value bpf.SocketService, err error) {
	port := frontend.Port()
	key := bpf.SocketServiceKey{Address: frontend.Addr().As16(), PortBe: port<<8 | port>>8, Protocol: unix.IPPROTO_TCP}
	err = m.service.Lookup(&key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, nil
	}
	if err != nil {
		return value, fmt.Errorf("read map %s: %w", bpf.SocketMapService, err)
	}
	return value, nil
}

// backends returns how many backends a frontend has.
func (m *agentMaps) backends(frontend netip.AddrPort) (int, error) {
	value, err := m.lookup(frontend)
	n := 0
	for _, g := range value.Groups {
		n += int(g & (1<<bpf.SocketGroupBitsGROUP_NUMBER_BITS - 1))
	}
	return n, err
}

// generation returns the number of the newest write of a frontend, 0 for one
// that is not in effect.
func (m *agentMaps) generation(frontend netip.AddrPort) (uint32, error) {
	value, err := m.lookup(frontend)
	return value.Generation, err
}
