package datapath

import (
	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// adopted is what was found in maps that another process filled.
type adopted struct {
	services map[Frontend]*entry
	// Slots and backends that no service refers to: what the last process had
	// not yet swept when it ended.
	slots    []bpf.SocketSlotKey
	backends []uint32
}

// adopt reads the maps back. What is damaged (a wrong seal, a slot or a backend
// that is missing) becomes unknown or stale in its entry, so that the next
// Update writes it.
func adopt(set *mapSet) (*adopted, error) {
	slots := map[bpf.SocketSlotKey]backend{}
	if err := pin.Read(set.slot, func(k bpf.SocketSlotKey, v bpf.SocketSlot) {
		if v.Seal != sealOf(&v, sealSlotKey(&k)) {
			v = bpf.SocketSlot{} // leads nowhere
		}
		slots[k] = backend{target{v.Address, pin.Swap16(v.PortBe)}, v.Backend}
	}); err != nil {
		return nil, err
	}
	backends := map[uint32]bpf.SocketBackend{}
	if err := pin.Read(set.backend, func(id uint32, v bpf.SocketBackend) {
		if v.Seal != sealOf(&v, sealBackendKey(id)) {
			v = bpf.SocketBackend{} // belongs to no service
		}
		backends[id] = v
	}); err != nil {
		return nil, err
	}
	a := &adopted{services: map[Frontend]*entry{}}
	used := map[uint32]bool{}
	if err := pin.Read(set.service, func(k bpf.SocketServiceKey, v bpf.SocketService) {
		a.services[decodeKey(k)] = adoptService(k, v, slots, backends, used)
	}); err != nil {
		return nil, err
	}
	for k := range slots {
		a.slots = append(a.slots, k)
	}
	for id := range backends {
		if !used[id] {
			a.backends = append(a.backends, id)
		}
	}
	return a, nil
}

// adoptService rebuilds one entry. It takes the slots that it uses out of slots,
// and adds the backends that it uses to used.
func adoptService(k bpf.SocketServiceKey, v bpf.SocketService, slots map[bpf.SocketSlotKey]backend, backends map[uint32]bpf.SocketBackend, used map[uint32]bool) *entry {
	if v.Seal != sealOf(&v, sealServiceKey(&k)) {
		return &entry{stale: true} // without an id: it gets a new one
	}
	e := &entry{
		id: v.Id, generation: v.Generation, groups: make([]group, MaxGroups),
		settings: settings{session: v.SessionTimeout, flags: v.Flags},
	}
	last := 0
	for i, bits := range v.Groups {
		e.groups[i] = decodeGroup(bits)
		if bits != 0 {
			last = i + 1
		}
		for j := range e.groups[i].slots {
			key := slotKey(e.id, i, j)
			slot, ok := slots[key]
			delete(slots, key)
			b, found := backends[slot.id]
			if !ok || !found || b != encodeBackend(e.id, Protocol(k.Protocol), slot) {
				continue // a slot of unknown content
			}
			used[slot.id] = true
			e.groups[i].slots[j] = slot
		}
	}
	e.groups = e.groups[:last]
	e.stale = encodeService(k, e) != v
	return e
}
