package pki

import (
	"crypto/x509"
	"slices"
)

// InCommon reports whether two PEM texts have a certificate in common. One without
// any has none.
func InCommon(a, b []byte) bool {
	has := Certificates(a)
	return slices.ContainsFunc(Certificates(b), func(one *x509.Certificate) bool { return slices.ContainsFunc(has, one.Equal) })
}
