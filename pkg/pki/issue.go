package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// maxCommonName is what X.509 allows; some readers refuse a longer one.
const maxCommonName = 64

// Request says what a certificate is to be for.
type Request struct {
	Role Role
	// Name is the peer's cluster, the node, or the operator. A server's is its
	// cluster's and may be left out.
	Name string
	// TTL is how long the certificate is valid from now on, more than 0. It
	// ends with the authority at the latest.
	TTL time.Duration
	// NotBefore is the earliest time at which it may begin; zero for any, which
	// dates it back for clocks that are behind.
	NotBefore time.Time
	// Begins is when it begins, whatever NotBefore says; zero: see there. A
	// certificate that follows another one begins with it.
	Begins time.Time
	// DNSNames and IPs are what a server is dialled by besides its mesh names
	// and localhost; other roles have none.
	DNSNames []string
	IPs      []netip.Addr
}

// Pair is a certificate, a client's with its issuer's behind it, and its private
// key, both PEM.
type Pair struct {
	CertPEM []byte
	KeyPEM  []byte
}

// Save writes p to two files, each as a whole, the key readable by its owner
// only.
func (p *Pair) Save(certFile, keyFile string) error {
	return errors.Join(file.Write(keyFile, p.KeyPEM, 0o600), file.Write(certFile, p.CertPEM, 0o644))
}

// Issue makes a key and signs a certificate for it. An error about the request
// wraps ErrSubject.
func (a *Authority) Issue(r Request) (*Pair, error) {
	cert, err := a.signing().issue(r)
	if err != nil {
		return nil, err
	}
	keyPEM, err := encodeKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		return nil, err
	}
	var certPEM []byte
	for _, der := range cert.Certificate {
		certPEM = append(certPEM, pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der})...)
	}
	return &Pair{CertPEM: certPEM, KeyPEM: keyPEM}, nil
}

// issue is Issue for use in this process; PrivateKey is an *ecdsa.PrivateKey.
func (a *root) issue(r Request) (*tls.Certificate, error) {
	template, err := a.template(r, time.Now())
	if err != nil {
		return nil, fmt.Errorf("issue %s certificate: %w", r.Role, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make private key: %w", err)
	}
	by, below := a.issuers[r.Role]
	if !below {
		by = &signer{cert: a.cert, key: a.key}
	}
	leaf, err := by.sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	chain := [][]byte{leaf.Raw}
	if below {
		chain = append(chain, by.cert.Raw)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

func (a *root) template(r Request, now time.Time) (*x509.Certificate, error) {
	s := Subject{Cluster: a.cluster, Role: r.Role, Name: r.Name}
	if r.Role == RoleServer && r.Name == "" {
		s.Name = a.cluster
	}
	if r.Role == roleAuthority || r.Role == roleIssuer {
		return nil, fmt.Errorf("role %q is never issued: %w", r.Role, ErrSubject)
	}
	if err := s.validate(); err != nil {
		return nil, err
	}
	if r.TTL <= 0 {
		return nil, fmt.Errorf("time to live %s is not more than 0: %w", r.TTL, ErrSubject)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	signed, err := keyUsedFrom(now)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject: pkix.Name{
			Organization: []string{"Causeway"},
			CommonName:   s.Name[:min(len(s.Name), maxCommonName)],
		},
		URIs:                  []*url.URL{s.uri()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(r.TTL),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{signed},
	}
	if template.NotBefore.Before(r.NotBefore) {
		template.NotBefore = r.NotBefore
	}
	if !r.Begins.IsZero() {
		template.NotBefore = r.Begins
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	return template, a.usage(template, r)
}

// usage fills in what divides a server's certificate from a client's.
func (a *root) usage(template *x509.Certificate, r Request) error {
	if r.Role != RoleServer {
		if len(r.DNSNames)+len(r.IPs) > 0 {
			return fmt.Errorf("only a server is dialled, so only its certificate names hosts: %w", ErrSubject)
		}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		return nil
	}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames = append(append(MeshNames(a.cluster), "localhost"), r.DNSNames...)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
	for _, ip := range r.IPs {
		if !ip.IsValid() {
			return fmt.Errorf("address %s: %w", ip, ErrSubject)
		}
		template.IPAddresses = append(template.IPAddresses, ip.Unmap().WithZone("").AsSlice())
	}
	return nil
}
