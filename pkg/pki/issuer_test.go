package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// oldAuthority writes the authority of a data directory that was made before
// there were issuers: none may stand below it.
func oldAuthority(t *testing.T, dir, cluster string) *signer {
	t.Helper()
	key, err := newKey(filepath.Join(dir, caKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	s := Subject{Cluster: cluster, Role: roleAuthority, Name: cluster}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of " + cluster}, URIs: []*url.URL{s.uri()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(authorityTTL),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := (&signer{cert: template, key: key}).sign(template, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, CAFile), encodeCertificate(cert))
	return &signer{cert: cert, key: key}
}

// by returns a pair for s that somebody with signer's key made by hand, with the
// certificates of above shown behind it.
func by(t *testing.T, signer *signer, s Subject, above ...*x509.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := signer.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{s.uri()},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	pair := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	for _, c := range above {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair
}

// seen returns what a gateway of a makes of a client that shows pair.
func seen(t *testing.T, a *Authority, pair *tls.Certificate) (Subject, error) {
	t.Helper()
	config := &tls.Config{
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair, nil },
	}
	state, serverErr, _ := shake(t, serverConfig(t, a), config)
	if serverErr != nil {
		return Subject{}, serverErr
	}
	return SubjectOfChain(state.VerifiedChains[0])
}

func shown(t *testing.T, pair *Pair) *tls.Certificate {
	t.Helper()
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return &cert
}

// A role's certificates come from its own issuer, and no issuer, whoever has its
// key, can sign for another role, for a server, or below itself.
func TestIssuersAreSeparate(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	for _, role := range issuerRoles() {
		for _, wanted := range issuerRoles() {
			s := Subject{Cluster: "east", Role: wanted, Name: "west"}
			got, err := seen(t, a, by(t, a.old.issuers[role], s, a.old.issuers[role].cert))
			switch {
			case role == wanted && (err != nil || got != s):
				t.Errorf("%s by its issuer: %v, %v", wanted, got, err)
			case role != wanted && (!errors.Is(err, ErrSubject) || !strings.Contains(err.Error(), string(role)+" issuer")):
				t.Errorf("%s by the issuer of %s: %v, %v", wanted, role, got, err)
			}
		}
		server := by(t, a.old.issuers[role], Subject{Cluster: "east", Role: RoleServer, Name: "east"}, a.old.issuers[role].cert)
		if _, err := seen(t, a, server); !errors.Is(err, ErrSubject) {
			t.Errorf("a server by the issuer of %s: %v", role, err)
		}
	}
	deep := *a.old.issuers[RolePeer].cert
	deep.MaxPathLenZero, deep.MaxPathLen = false, -1
	below, err := a.old.issuers[RolePeer].sign(&deep, a.old.issuers[RoleAdmin].key.Public())
	if err != nil {
		t.Fatal(err)
	}
	admin := Subject{Cluster: "east", Role: RoleAdmin, Name: "admin"}
	if _, err := seen(t, a, by(t, &signer{below, a.old.issuers[RoleAdmin].key}, admin, below, a.old.issuers[RolePeer].cert)); err == nil {
		t.Error("an issuer was taken below an issuer")
	}
}

// An old data directory needs nobody's help: what its authority signed by itself
// stays good, what is signed from now on comes from issuers, and clients that
// trust its certificate verify the server.
func TestOldAuthority(t *testing.T) {
	dir := t.TempDir()
	old := oldAuthority(t, dir, "east")
	text := read(t, filepath.Join(dir, CAFile))
	a := openAuthority(t, dir, "east")
	if !bytes.Equal(read(t, a.CertFile()), text) {
		t.Error("the authority's certificate was changed")
	}
	peer := Subject{Cluster: "east", Role: RolePeer, Name: "west"}
	if got, err := seen(t, a, by(t, old, peer)); err != nil || got != peer {
		t.Errorf("signed by the authority itself: %v, %v", got, err)
	}
	files := clientFiles(t, a, Request{Role: RolePeer, Name: "west"})
	state, serverErr, clientErr := shake(t, serverConfig(t, a), clientConfig(t, files, MeshNames("east")...))
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	if got, err := SubjectOfChain(state.VerifiedChains[0]); err != nil || got != peer {
		t.Errorf("signed by its issuer: %v, %v", got, err)
	}
	// A replica has the authority alone, and makes issuers of its own.
	replica := t.TempDir()
	for _, name := range []string{CAFile, caKeyFile} {
		write(t, filepath.Join(replica, name), read(t, filepath.Join(dir, name)))
	}
	other := openAuthority(t, replica, "east")
	if other.old.issuers[RolePeer].key.Equal(a.old.issuers[RolePeer].key) {
		t.Fatal("the replica has the same issuer")
	}
	if got, err := seen(t, other, shown(t, issue(t, a, Request{Role: RolePeer, Name: "west"}))); err != nil || got != peer {
		t.Errorf("at another replica: %v, %v", got, err)
	}
	// Another one of the same name is another one.
	imposter := openAuthority(t, t.TempDir(), "east")
	if _, err := seen(t, a, shown(t, issue(t, imposter, Request{Role: RolePeer, Name: "west"}))); err == nil {
		t.Error("the issuer of another authority was taken")
	}
}

func TestIssuersAreKept(t *testing.T) {
	dir := t.TempDir()
	first := openAuthority(t, dir, "east")
	again := openAuthority(t, dir, "east")
	for _, role := range issuerRoles() {
		if !again.old.issuers[role].cert.Equal(first.old.issuers[role].cert) {
			t.Errorf("the second start has another issuer of %s", role)
		}
		info, err := os.Stat(first.old.issuerFile(role))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, error %v", info.Mode(), err)
		}
	}
	issued := shown(t, issue(t, first, Request{Role: RoleAgent, Name: "n1"}))
	other := openAuthority(t, t.TempDir(), "east")
	for what, damage := range map[string]func(path string){
		"missing":             func(path string) { _ = os.Remove(path) },
		"another authority's": func(path string) { write(t, path, read(t, other.old.issuerFile(RoleAgent))) },
		"another role's":      func(path string) { write(t, path, read(t, first.old.issuerFile(RoleAdmin))) },
	} {
		damage(first.old.issuerFile(RoleAgent))
		renewed := openAuthority(t, dir, "east")
		if renewed.old.issuers[RoleAgent].key.Equal(first.old.issuers[RoleAgent].key) {
			t.Errorf("%s: not made anew", what)
		}
		for _, pair := range []*tls.Certificate{issued, shown(t, issue(t, renewed, Request{Role: RoleAgent, Name: "n1"}))} {
			if got, err := seen(t, renewed, pair); err != nil || got.Role != RoleAgent {
				t.Errorf("%s: %v, %v", what, got, err)
			}
		}
	}
}

func TestOpenIssuersRefuses(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	path := a.old.issuerFile(RolePeer)
	good := read(t, path)
	block, _ := pem.Decode(good)
	for what, damage := range map[string]func(){
		"readable by all": func() { _ = os.Chmod(path, 0o644) },
		"no key":          func() { write(t, path, []byte("x")) },
		"no certificate":  func() { write(t, path, pem.EncodeToMemory(block)) },
	} {
		write(t, path, good)
		damage()
		_, err := OpenAuthority(a.dir, "east")
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: %v", what, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	openAuthority(t, a.dir, "east")
}
