package pki

import (
	"crypto/sha256"
	"encoding/pem"
)

// InCommon reports whether two PEM texts have a certificate in common. One without
// any has none.
func InCommon(a, b []byte) bool {
	has := digests(a)
	for sum := range digests(b) {
		if has[sum] {
			return true
		}
	}
	return false
}

// digests are of what is in certificates, however it is written.
func digests(text []byte) map[[sha256.Size]byte]bool {
	found := map[[sha256.Size]byte]bool{}
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return found
		}
		if block.Type == "CERTIFICATE" {
			found[sha256.Sum256(block.Bytes)] = true
		}
	}
}
