package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

func requestOf(t *testing.T, template *x509.CertificateRequest, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der})
}

func TestSign(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	for _, role := range issuerRoles() {
		keyPEM, csrPEM, err := NewSigningRequest()
		if err != nil {
			t.Fatal(err)
		}
		chain, err := a.Sign(Request{Role: role, Name: "west", TTL: time.Hour}, csrPEM)
		if err != nil {
			t.Fatal(err)
		}
		got, err := seen(t, a, shown(t, &Pair{CertPEM: chain, KeyPEM: keyPEM}))
		if want := (Subject{"east", role, "west"}); err != nil || got != want {
			t.Errorf("subject %v, error %v", got, err)
		}
	}
}

// What a request asks for is not looked at: only its key counts.
func TestSignTakesNothingButTheKey(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	admin := Subject{Cluster: "east", Role: RoleAdmin, Name: "root"}
	csrPEM := requestOf(t, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root", Organization: []string{"system:masters"}}, URIs: []*url.URL{admin.uri()},
		DNSNames: []string{"east.mesh.causeway.io"}, IPAddresses: []net.IP{net.IPv6loopback}, EmailAddresses: []string{"a@b"},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}}, // cA
	}, key)
	before := time.Now()
	chain, err := a.Sign(Request{Role: RolePeer, Name: "west", TTL: time.Hour}, csrPEM)
	if err != nil {
		t.Fatal(err)
	}
	cert := parse(t, chain)
	if got, err := SubjectOf(cert); err != nil || got != (Subject{"east", RolePeer, "west"}) {
		t.Errorf("subject %v, error %v", got, err)
	}
	if cert.IsCA || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || cert.Subject.CommonName != "west" {
		t.Errorf("got more than was to be given: %+v", cert.Subject)
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("usages %v, %v", cert.KeyUsage, cert.ExtKeyUsage)
	}
	if cert.NotAfter.After(time.Now().Add(time.Hour)) || cert.NotAfter.Before(before.Add(time.Hour-time.Second)) {
		t.Errorf("ends at %s", cert.NotAfter)
	}
	pair := &tls.Certificate{Certificate: [][]byte{cert.Raw, a.old.issuers[RolePeer].cert.Raw}, PrivateKey: key}
	if got, err := seen(t, a, pair); err != nil || got.Role != RolePeer {
		t.Errorf("an Ed25519 key: %v, %v", got, err)
	}
}

func TestSignRefuses(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	_, good, err := NewSigningRequest()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []Request{
		{},
		{Role: RoleServer, TTL: time.Hour},
		{Role: roleAuthority, Name: "east", TTL: time.Hour},
		{Role: roleIssuer, Name: "peer", TTL: time.Hour},
		{Role: RolePeer, Name: "west"},
		{Role: RolePeer, Name: "../admin", TTL: time.Hour},
		{Role: RoleAgent, Name: "n1", TTL: time.Hour, DNSNames: []string{"east.mesh.causeway.io"}},
	} {
		if _, err := a.Sign(r, good); !errors.Is(err, ErrSubject) {
			t.Errorf("%+v: error %v", r, err)
		}
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	forged := append([]byte(nil), block.Bytes...)
	forged[len(forged)-1] ^= 1 // in the signature
	for what, csrPEM := range map[string][]byte{
		"empty":           nil,
		"no PEM":          []byte("x"),
		"a certificate":   a.CertPEM(),
		"malformed":       pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: []byte{0x30}}),
		"too large":       []byte(strings.Repeat(string(good), 1+maxRequest/len(good))),
		"P-384":           requestOf(t, &x509.CertificateRequest{}, p384),
		"RSA":             requestOf(t, &x509.CertificateRequest{}, rsaKey),
		"wrong signature": pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: forged}),
	} {
		if _, err := a.Sign(Request{Role: RolePeer, Name: "west", TTL: time.Hour}, csrPEM); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

// FuzzSign: whatever text asks, what is signed is for the subject that the signer
// chose, and for no other use.
func FuzzSign(f *testing.F) {
	a, err := OpenAuthority(f.TempDir(), "east")
	if err != nil {
		f.Fatal(err)
	}
	_, good, err := NewSigningRequest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(a.CertPEM())
	f.Fuzz(func(t *testing.T, csrPEM []byte) {
		chain, err := a.Sign(Request{Role: RolePeer, Name: "west", TTL: time.Hour}, csrPEM)
		if err != nil {
			if !errors.Is(err, ErrRequest) {
				t.Errorf("error %v", err)
			}
			return
		}
		cert := parse(t, chain)
		if s, err := SubjectOf(cert); err != nil || s != (Subject{"east", RolePeer, "west"}) || len(cert.DNSNames) > 0 {
			t.Errorf("%q: signed for %v, %v", csrPEM, s, err)
		}
	})
}
