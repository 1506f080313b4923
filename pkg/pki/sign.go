package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"
)

// pemRequest is the PEM type of a certificate signing request.
const pemRequest = "CERTIFICATE REQUEST"

// maxRequest bounds a signing request, in bytes. Ours are of 300.
const maxRequest = 8 << 10

// NewSigningRequest makes a key, and a request for a certificate of it, both
// PEM. The request says nothing of the holder: who signs decides that. The key
// stays where it was made.
func NewSigningRequest() (keyPEM, csrPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make private key: %w", err)
	}
	if keyPEM, err = encodeKey(key); err != nil {
		return nil, nil, err
	}
	csrPEM, err = signingRequest(key)
	return keyPEM, csrPEM, err
}

func signingRequest(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make signing request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}), nil
}

// Sign returns a certificate for the key of a PEM signing request, and behind it
// that of its issuer, both PEM, as a client shows them. Subject, names, usages
// and time come from request alone; whatever else the signing request asks for
// is not looked at. The text may be from anybody: it must be signed by its own
// key, which is an ECDSA key on P-256 or an Ed25519 key. Servers' certificates
// are not signed so. An error about csrPEM wraps ErrRequest, one about request
// ErrSubject.
func (a *Authority) Sign(request Request, csrPEM []byte) (chainPEM []byte, err error) {
	return a.signing().signRequest(request, csrPEM)
}

func (a *root) signRequest(request Request, csrPEM []byte) (chainPEM []byte, err error) {
	template, err := a.template(request, time.Now())
	if err != nil {
		return nil, fmt.Errorf("sign %s certificate: %w", request.Role, err)
	}
	issuer, ok := a.issuers[request.Role]
	if !ok {
		return nil, fmt.Errorf("sign %s certificate: only clients get one for a request: %w", request.Role, ErrSubject)
	}
	csr, err := parseRequest(csrPEM)
	if err != nil {
		return nil, err
	}
	cert, err := issuer.sign(template, csr.PublicKey)
	if err != nil {
		return nil, err
	}
	return append(encodeCertificate(cert), encodeCertificate(issuer.cert)...), nil
}

// parseRequest takes what anybody may have sent.
func parseRequest(csrPEM []byte) (*x509.CertificateRequest, error) {
	if len(csrPEM) > maxRequest {
		return nil, fmt.Errorf("%d bytes are more than %d: %w", len(csrPEM), maxRequest, ErrRequest)
	}
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != pemRequest {
		return nil, fmt.Errorf("no PEM block of type %q: %w", pemRequest, ErrRequest)
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() {
			return nil, fmt.Errorf("ECDSA key on %s, must be on P-256: %w", key.Curve.Params().Name, ErrRequest)
		}
	case ed25519.PublicKey:
	default:
		return nil, fmt.Errorf("key of type %s, must be ECDSA on P-256 or Ed25519: %w", csr.PublicKeyAlgorithm, ErrRequest)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("not signed by its own key: %w: %w", ErrRequest, err)
	}
	return csr, nil
}
