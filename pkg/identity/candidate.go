package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// Candidates yields every number that the cluster may allocate, once each,
// beginning at one that depends on the labels alone. A set of labels whose
// first candidate is free therefore gets the same number again even after
// everything that was written about it is lost.
func Candidates(labels Labels, id cluster.ID, size cluster.Size) iter.Seq[Number] {
	first, last := Range(id, size)
	span := last - first + 1
	sum := sha256.Sum256([]byte(labels))
	start := Number(binary.BigEndian.Uint64(sum[:8]) % uint64(span))
	return func(yield func(Number) bool) {
		for i := range span {
			if !yield(first + (start+i)%span) {
				return
			}
		}
	}
}
