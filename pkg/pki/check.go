package pki

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// CheckClient refuses a client's certificate, as the answer to a signing request
// brings it, unless it is for our key, says want and no more, was signed by
// authority or an issuer of its, and is valid now. All are PEM. It returns until
// when it is valid. An error wraps ErrCertificate, ErrKey, ErrSubject,
// ErrUntrusted, ErrExpired or ErrNotYetValid.
func CheckClient(authorityPEM, chainPEM, keyPEM []byte, want Subject) (until time.Time, err error) {
	authority, err := parseCertificate("authority", authorityPEM)
	if err != nil {
		return until, err
	}
	c := &credentials{certDoc: "certificate", caDoc: "authority"}
	if err := c.parse(authorityPEM, chainPEM, keyPEM); err != nil {
		return until, err
	}
	leaf := c.pair.Leaf
	got, err := SubjectOf(leaf)
	if err != nil {
		return until, err
	}
	if got != want {
		return until, fmt.Errorf("it is for %s, needed is one for %s: %w", got, want, ErrSubject)
	}
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return until, fmt.Errorf("it is not for clients (extended key usage): %w", ErrCertificate)
	}
	// By hand, since an authority of before there were issuers says that none may
	// be below it; its own gateway knows better.
	chain := []*x509.Certificate{leaf}
	for _, der := range c.pair.Certificate[1:] {
		above, err := x509.ParseCertificate(der)
		if err != nil {
			return until, fmt.Errorf("the issuer's: %w: %w", ErrCertificate, err)
		}
		chain = append(chain, above)
	}
	chain = append(chain, authority)
	for i, cert := range chain[:len(chain)-1] {
		if err := cert.CheckSignatureFrom(chain[i+1]); err != nil {
			return until, fmt.Errorf("signed by %q: %w: %w", cert.Issuer, ErrUntrusted, err)
		}
	}
	if _, err := SubjectOfChain(chain); err != nil {
		return until, err
	}
	return leaf.NotAfter, nil
}

// WriteFile replaces path as a whole or not at all, over a power cut too; nothing
// is written where it says the same already. Who may read it is mode.
func WriteFile(path string, text []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm() == mode {
			return nil
		}
	}
	return file.Write(path, text, mode)
}
