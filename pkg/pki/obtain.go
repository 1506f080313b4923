package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// Validate refuses a subject that no certificate may have. The error wraps
// ErrSubject.
func (s Subject) Validate() error { return s.validate() }

// keyFileMode is who may read a key that Obtain writes: its owner.
const keyFileMode = 0o600

// Obtain fills the files with a first certificate for want, and its key, which is
// made here; folders that are missing are made. sign answers a PEM signing request
// with a PEM chain and the authority's certificate. Whenever this is broken off it
// can be done again, with the same key, and the files hold no half: CAFile, of which
// an authority that it already trusts changes nothing, is written first, the
// certificate next, and load finds its key by then. One process does so at a time;
// others get ErrBusy.
func (f ClientFiles) Obtain(want Subject, sign func(csrPEM []byte) (chainPEM, authorityPEM []byte, err error)) error {
	for _, path := range []string{f.CAFile, f.CertFile, f.KeyFile} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make the folder of %s: %w", path, err)
		}
	}
	unlock, err := f.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if f.CheckSubject(want) == nil { // another process was quicker
		return f.finish()
	}
	keyPEM, csrPEM, err := f.pendingKey()
	if err != nil {
		return err
	}
	chainPEM, authorityPEM, err := sign(csrPEM)
	if err != nil {
		return err
	}
	if _, err := CheckClient(authorityPEM, chainPEM, keyPEM, want); err != nil {
		return fmt.Errorf("the certificate that was signed: %w", err)
	}
	if f.checkSigned(chainPEM, keyPEM, want) != nil { // missing, or another authority's
		if err := file.Write(f.CAFile, authorityPEM, 0o644); err != nil {
			return err
		}
	}
	if err := file.Write(f.CertFile, chainPEM, 0o644); err != nil {
		return err
	}
	return f.finish()
}

// pendingKey returns the next key, of which nobody has a certificate here, and a
// request for it. One that an earlier attempt left is used again: who signs may have
// noted it.
func (f ClientFiles) pendingKey() (keyPEM, csrPEM []byte, err error) {
	keyPEM, err = os.ReadFile(f.nextKey())
	if err == nil {
		if csrPEM, err = requestFor(keyPEM); err == nil {
			return keyPEM, csrPEM, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read client key: %w", err)
	}
	if keyPEM, csrPEM, err = NewSigningRequest(); err != nil {
		return nil, nil, err
	}
	return keyPEM, csrPEM, file.Write(f.nextKey(), keyPEM, keyFileMode)
}

// requestFor makes a signing request as NewSigningRequest does, for a PEM key.
func requestFor(keyPEM []byte) ([]byte, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil || block.Type != pemKey {
		return nil, fmt.Errorf("no PEM block of type %q: %w", pemKey, ErrKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("not an ECDSA key: %w", ErrKey)
	}
	return signingRequest(key)
}
