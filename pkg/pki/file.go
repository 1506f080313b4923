package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"time"
)

// The PEM types that this package writes.
const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY"
)

// readKey reads a private key that only its owner and group may read.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("%s can be read by everybody (mode %04o), run chmod 600: %w", path, mode, ErrKey)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemKey {
		return nil, fmt.Errorf("%s holds no PEM block of type %q: %w", path, pemKey, ErrKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrKey, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an ECDSA key: %w", path, ErrKey)
	}
	return key, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

func encodeCertificate(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert.Raw})
}

// parseCertificate returns the first certificate in text, which came from path.
func parseCertificate(path string, text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != pemCertificate {
		return nil, fmt.Errorf("%s holds no PEM certificate: %w", path, ErrCertificate)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrCertificate, err)
	}
	return cert, nil
}

// checkTime refuses cert outside its time. what names it for a person.
func checkTime(what string, cert *x509.Certificate, now time.Time) error {
	const form = time.RFC3339
	if now.After(cert.NotAfter) {
		return fmt.Errorf("%s ended at %s, and it is %s here: %w",
			what, cert.NotAfter.UTC().Format(form), now.UTC().Format(form), ErrExpired)
	}
	if now.Before(cert.NotBefore) {
		return fmt.Errorf("%s begins at %s, and it is %s here, check both clocks: %w",
			what, cert.NotBefore.UTC().Format(form), now.UTC().Format(form), ErrNotYetValid)
	}
	return nil
}
