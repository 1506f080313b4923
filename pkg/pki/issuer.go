package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// issuerRoles are the roles whose certificates come from an issuer of their own,
// so that what one of them signs can never be taken for another role's. Servers'
// are signed by the authority itself: a reader that trusts an authority which
// allows none below itself verifies them.
func issuerRoles() []Role { return []Role{RolePeer, RoleAgent, RoleAdmin} }

// signer is an authority or an issuer: what stands behind a certificate.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issuerFile holds key and certificate of a role's issuer in one file, so that
// there are always both or none.
func (a *root) issuerFile(role Role) string { return filepath.Join(a.dir, string(role)+".pem") }

// openIssuers loads or makes the issuers. One that the authority did not sign,
// or that is out of its time, is made anew: its certificates stay good, since
// their holders show it and it is not in any file that others trust.
func (a *root) openIssuers(now time.Time) error {
	a.issuers = make(map[Role]*signer, len(issuerRoles()))
	for _, role := range issuerRoles() {
		issuer, err := a.readIssuer(role, now)
		if err == nil && issuer == nil {
			issuer, err = a.createIssuer(role, now)
		}
		if err != nil {
			return err
		}
		a.issuers[role] = issuer
	}
	return nil
}

// readIssuer returns nil where there is none of this authority.
func (a *root) readIssuer(role Role, now time.Time) (*signer, error) {
	path := a.issuerFile(role)
	key, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is no error
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	var cert *x509.Certificate
	if err == nil {
		_, rest := pem.Decode(text)
		cert, err = parseCertificate(path, rest)
	}
	if err != nil {
		return nil, fmt.Errorf("%w; if it cannot be restored remove it, another one is made at the next start", err)
	}
	want := Subject{Cluster: a.cluster, Role: roleIssuer, Name: string(role)}
	if s, err := subjectOf(cert); err != nil || s != want || !key.PublicKey.Equal(cert.PublicKey) ||
		cert.CheckSignatureFrom(a.cert) != nil || checkTime(path, cert, now) != nil {
		return nil, nil //nolint:nilnil // as in openIssuers
	}
	return &signer{cert: cert, key: key}, nil
}

// createIssuer makes an issuer that ends with the authority.
func (a *root) createIssuer(role Role, now time.Time) (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make private key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	s := Subject{Cluster: a.cluster, Role: roleIssuer, Name: string(role)}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Causeway"}, CommonName: string(role) + " issuer of " + a.cluster},
		URIs:                  []*url.URL{s.uri()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              a.cert.NotAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// What is below may do no more than this: no issuer makes a server.
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	cert, err := (&signer{cert: a.cert, key: a.key}).sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return &signer{cert: cert, key: key}, file.Write(a.issuerFile(role), append(text, encodeCertificate(cert)...), 0o600)
}

// sign returns what template says for key, signed by s.
func (s *signer) sign(template *x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, s.cert, key, s.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", template.URIs[0], err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse certificate of %s: %w", template.URIs[0], err)
	}
	return cert, nil
}

// addTo adds what clients' certificates are verified against. An authority
// that was made when it signed all by itself says that no issuer may stand below
// it; a copy of it by the same key says otherwise here, where it is not sent to
// anybody. Every replica with the key trusts the issuers of the others so.
func (a *root) addTo(pool *x509.CertPool) error {
	pool.AddCert(a.cert)
	if a.cert.MaxPathLen != 0 {
		return nil
	}
	wide := &x509.Certificate{
		SerialNumber:          a.cert.SerialNumber,
		RawSubject:            a.cert.RawSubject,
		SubjectKeyId:          a.cert.SubjectKeyId,
		URIs:                  a.cert.URIs,
		NotBefore:             a.cert.NotBefore,
		NotAfter:              a.cert.NotAfter,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	cert, err := (&signer{cert: wide, key: a.key}).sign(wide, a.key.Public())
	if err != nil {
		return err
	}
	pool.AddCert(cert)
	return nil
}
