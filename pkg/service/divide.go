package service

import (
	"crypto/sha256"
	"encoding/binary"
)

// MaxDivided is how many endpoints a part that Divide makes holds, as Kubernetes' own
// slices do.
const MaxDivided = 100

// Divide cuts members into parts of at most MaxDivided and names them. A part is all
// members whose hash begins with certain bits, and is halved when it grows too large:
// which member is where depends on nothing but who is there, and one that comes or goes
// changes one part, two or three at a halving. Members keep their order.
func Divide[T any](name string, members []T, hash func(T) uint64, fn func(name string, members []T)) {
	divide(name, members, hash, 0, fn)
}

func divide[T any](name string, members []T, hash func(T) uint64, depth int, fn func(name string, members []T)) {
	if len(members) <= MaxDivided || depth == 64 {
		fn(name, members)
		return
	}
	var halves [2][]T
	for _, m := range members {
		bit := hash(m) >> (63 - depth) & 1
		halves[bit] = append(halves[bit], m)
	}
	if depth == 0 {
		name += "-"
	}
	for bit, half := range halves {
		if len(half) > 0 {
			divide(name+string(rune('0'+bit)), half, hash, depth+1, fn)
		}
	}
}

// Hash is what Divide may be given, of a text that stays the same.
func Hash(text string) uint64 {
	sum := sha256.Sum256([]byte(text))
	return binary.BigEndian.Uint64(sum[:])
}
