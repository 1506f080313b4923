package pin

import (
	"unsafe"

	"github.com/causeway-mesh/causeway/bpf"
)

// SealStep is seal_step of bpf/include/seal.h. The two must agree bit by bit:
// a value with a wrong seal is never used.
func SealStep(seal, word uint64) uint64 {
	seal = (seal ^ word) * uint64(bpf.SocketLayoutSEAL_FACTOR)
	return seal ^ seal>>32
}

// Seal returns the seal that v should carry, given its key's. V is words of 8
// bytes without padding, the last of them the seal.
func Seal[V any](v *V, seal uint64) uint64 {
	words := unsafe.Slice((*uint64)(unsafe.Pointer(v)), unsafe.Sizeof(*v)/8)
	lanes := [bpf.SocketLayoutSEAL_LANES]uint64{seal}
	for i, word := range words[:len(words)-1] {
		lane := &lanes[i%len(lanes)]
		*lane = SealStep(*lane, word)
	}
	seal = lanes[0]
	for _, lane := range lanes[1:] {
		seal = SealStep(seal, lane)
	}
	return seal
}

// Swap16 turns network into host order and back; the objects are little-endian.
func Swap16(v uint16) uint16 { return v<<8 | v>>8 }
