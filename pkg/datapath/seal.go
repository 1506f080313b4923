package datapath

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// sealed is a value of a map: words of 8 bytes without padding, the last of
// them the seal.
type sealed interface {
	bpf.SocketService | bpf.SocketSlot | bpf.SocketBackend | bpf.SocketReverse
}

// sealOf returns the seal that v should carry, given its key's.
func sealOf[V sealed](v *V, seal uint64) uint64 { return pin.Seal(v, seal) }

func sealServiceKey(k *bpf.SocketServiceKey) uint64 {
	seal := pin.SealStep(uint64(bpf.SocketLayoutLAYOUT_VERSION), binary.NativeEndian.Uint64(k.Address[:8]))
	seal = pin.SealStep(seal, binary.NativeEndian.Uint64(k.Address[8:]))
	return pin.SealStep(seal, uint64(k.PortBe)|uint64(k.Protocol)<<16)
}

func sealSlotKey(k *bpf.SocketSlotKey) uint64 {
	seal := pin.SealStep(uint64(bpf.SocketLayoutLAYOUT_VERSION), uint64(k.Service))
	return pin.SealStep(seal, uint64(k.Group)<<32|uint64(k.Index))
}

func sealReverseKey(k *bpf.SocketReverseKey) uint64 {
	seal := uint64(bpf.SocketLayoutLAYOUT_VERSION)
	for _, word := range unsafe.Slice((*uint64)(unsafe.Pointer(k)), unsafe.Sizeof(*k)/8) {
		seal = pin.SealStep(seal, word)
	}
	return seal
}

func sealBackendKey(id uint32) uint64 {
	return pin.SealStep(uint64(bpf.SocketLayoutLAYOUT_VERSION), uint64(id))
}

func encodeKey(f Frontend) bpf.SocketServiceKey {
	return bpf.SocketServiceKey{
		Address:  f.Addr.Addr().As16(),
		PortBe:   pin.Swap16(f.Addr.Port()),
		Protocol: uint8(f.Protocol),
	}
}

func decodeKey(k bpf.SocketServiceKey) Frontend {
	addr := netip.AddrPortFrom(netip.AddrFrom16(k.Address), pin.Swap16(k.PortBe))
	return Frontend{Addr: addr, Protocol: Protocol(k.Protocol)}.normal()
}

func encodeSlot(k bpf.SocketSlotKey, b backend) bpf.SocketSlot {
	v := bpf.SocketSlot{Address: b.address, Backend: b.id, PortBe: pin.Swap16(b.port)}
	v.Seal = sealOf(&v, sealSlotKey(&k))
	return v
}

func encodeBackend(service uint32, p Protocol, b backend) bpf.SocketBackend {
	v := bpf.SocketBackend{
		Address: b.address, Service: service, PortBe: pin.Swap16(b.port), Protocol: uint8(p),
		State: uint8(bpf.SocketBackendStateBACKEND_LIVE),
	}
	v.Seal = sealOf(&v, sealBackendKey(b.id))
	return v
}

// encodeGone returns the value of a backend that has left its service.
func encodeGone(service, id uint32) bpf.SocketBackend {
	v := bpf.SocketBackend{Service: service, State: uint8(bpf.SocketBackendStateBACKEND_GONE)}
	v.Seal = sealOf(&v, sealBackendKey(id))
	return v
}

// encodeService returns the value of a service. When only one group has slots,
// its first backends stand in the value too.
func encodeService(key bpf.SocketServiceKey, e *entry) bpf.SocketService {
	v := bpf.SocketService{Id: e.id, Generation: e.generation, SessionTimeout: e.session, Flags: e.flags}
	var filled []group
	best := 0
	for _, g := range e.groups {
		if len(g.slots) == 0 {
			continue
		}
		if len(filled) == 0 || int(g.tier) < best {
			best = int(g.tier)
		}
		filled = append(filled, g)
	}
	for i, g := range e.groups {
		if len(g.slots) > 0 && int(g.tier) == best {
			v.Total += g.share()
		}
		v.Groups[i] = g.encode(v.Total)
	}
	if len(filled) == 1 {
		slots := filled[0].slots
		v.Inlined = uint16(min(len(slots), maxInline))
		for i := range v.Inlined {
			b := slots[i]
			v.Backends[i] = bpf.SocketInlineBackend{Address: b.address, Id: b.id, PortBe: pin.Swap16(b.port)}
		}
	}
	v.Seal = sealOf(&v, sealServiceKey(&key))
	return v
}

// maxGroup is how many backends fit into a group, and into all of them.
const maxGroup = 1<<bpf.SocketGroupBitsGROUP_NUMBER_BITS - 1

// encode returns the group's word; until is where its draws end.
func (g group) encode(until uint32) uint64 {
	return uint64(len(g.slots)) | uint64(until)<<bpf.SocketGroupBitsGROUP_UNTIL_SHIFT |
		uint64(g.weight)<<bpf.SocketGroupBitsGROUP_WEIGHT_SHIFT | uint64(g.tier)<<bpf.SocketGroupBitsGROUP_TIER_SHIFT
}

// decodeGroup returns a group with slots of unknown content.
func decodeGroup(bits uint64) group {
	return group{
		tier:   uint8(bits >> bpf.SocketGroupBitsGROUP_TIER_SHIFT),
		weight: uint16(bits >> bpf.SocketGroupBitsGROUP_WEIGHT_SHIFT),
		slots:  make([]backend, bits&maxGroup),
	}
}

// share is the group's part of the draws of its tier.
func (g group) share() uint32 {
	if g.weight > 0 {
		return uint32(g.weight)
	}
	return uint32(len(g.slots))
}
