package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestIssue(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	for _, test := range []struct {
		request Request
		want    Subject
		usage   x509.ExtKeyUsage
	}{
		{Request{Role: RoleServer}, Subject{"east", RoleServer, "east"}, x509.ExtKeyUsageServerAuth},
		{Request{Role: RolePeer, Name: "west"}, Subject{"east", RolePeer, "west"}, x509.ExtKeyUsageClientAuth},
		{Request{Role: RoleAgent, Name: "west"}, Subject{"east", RoleAgent, "west"}, x509.ExtKeyUsageClientAuth},
		{Request{Role: RoleAdmin, Name: "west"}, Subject{"east", RoleAdmin, "west"}, x509.ExtKeyUsageClientAuth},
	} {
		pair := issue(t, a, test.request)
		if _, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM); err != nil {
			t.Errorf("%s: %v", test.request.Role, err)
		}
		cert := parse(t, pair.CertPEM)
		got, err := SubjectOf(cert)
		if err != nil || got != test.want {
			t.Errorf("%s: subject %v, error %v", test.request.Role, got, err)
		}
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			_, rest := pem.Decode(pair.CertPEM)
			issuers := x509.NewCertPool()
			issuers.AppendCertsFromPEM(rest)
			_, err := cert.Verify(x509.VerifyOptions{Roots: a.old.pool(), Intermediates: issuers, KeyUsages: []x509.ExtKeyUsage{usage}})
			if (err == nil) != (usage == test.usage) {
				t.Errorf("%s with usage %v: error %v", test.request.Role, usage, err)
			}
		}
		if cert.SerialNumber.Sign() <= 0 || cert.IsCA {
			t.Errorf("%s: serial %v, ca %t", test.request.Role, cert.SerialNumber, cert.IsCA)
		}
	}
}

func TestIssueServerNames(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	cert := parse(t, issue(t, a, Request{
		Role:     RoleServer,
		DNSNames: []string{"gateway.example.org"},
		IPs:      []netip.Addr{netip.MustParseAddr("10.77.0.11"), netip.MustParseAddr("::ffff:10.77.0.12"), netip.MustParseAddr("fe80::1%eth0")},
	}).CertPEM)
	for _, name := range []string{
		"east.mesh.causeway.io", "east.mesh.cilium.io", "localhost", "127.0.0.1", "::1",
		"gateway.example.org", "10.77.0.11", "10.77.0.12", "fe80::1",
	} {
		if err := cert.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"west.mesh.causeway.io", "east", "10.77.0.13"} {
		if cert.VerifyHostname(name) == nil {
			t.Errorf("valid for %s", name)
		}
	}
}

func TestIssueTime(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	now := time.Now()
	cert := parse(t, issue(t, a, Request{Role: RoleAdmin, Name: "admin", TTL: time.Hour}).CertPEM)
	if cert.NotBefore.After(now.Add(-backdate+time.Second)) || cert.NotAfter.Before(now.Add(time.Hour-time.Second)) {
		t.Errorf("valid from %s to %s, made at %s", cert.NotBefore, cert.NotAfter, now)
	}
	cert = parse(t, issue(t, a, Request{Role: RoleAdmin, Name: "admin", TTL: 2 * authorityTTL}).CertPEM)
	if !cert.NotAfter.Equal(a.old.cert.NotAfter) {
		t.Errorf("ends at %s, its authority at %s", cert.NotAfter, a.old.cert.NotAfter)
	}
}

func TestIssueLongName(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	name := strings.Repeat("node.", 40) + "example"
	cert := parse(t, issue(t, a, Request{Role: RoleAgent, Name: name}).CertPEM)
	if got, err := SubjectOf(cert); err != nil || got.Name != name {
		t.Errorf("subject %v, error %v", got, err)
	}
	if len(cert.Subject.CommonName) != maxCommonName {
		t.Errorf("common name %q", cert.Subject.CommonName)
	}
}

func TestIssueRefuses(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	for _, r := range []Request{
		{},
		{TTL: time.Hour},
		{Role: "root", Name: "root", TTL: time.Hour},
		{Role: roleAuthority, Name: "east", TTL: time.Hour},
		{Role: RolePeer, TTL: time.Hour},
		{Role: RolePeer, Name: "west"},
		{Role: RolePeer, Name: "west", TTL: -time.Hour},
		{Role: RolePeer, Name: "west.example", TTL: time.Hour},
		{Role: RolePeer, Name: "../admin", TTL: time.Hour},
		{Role: RoleServer, Name: "west", TTL: time.Hour},
		{Role: RoleServer, IPs: []netip.Addr{{}}, TTL: time.Hour},
		{Role: RoleAgent, Name: "Node", TTL: time.Hour},
		{Role: RoleAgent, Name: "node", DNSNames: []string{"east.mesh.causeway.io"}, TTL: time.Hour},
		{Role: RoleAgent, Name: "node", IPs: []netip.Addr{netip.IPv6Loopback()}, TTL: time.Hour},
	} {
		if _, err := a.Issue(r); !errors.Is(err, ErrSubject) {
			t.Errorf("%+v: error %v", r, err)
		}
	}
}

func TestPairSave(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")
	for range 2 { // the second replaces the first
		pair := issue(t, a, Request{Role: RolePeer, Name: "west"})
		if err := pair.Save(certFile, keyFile); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(pair, &Pair{CertPEM: read(t, certFile), KeyPEM: read(t, keyFile)}); diff != "" {
			t.Error(diff)
		}
	}
	info, err := os.Stat(keyFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, error %v", info.Mode(), err)
	}
	pair := issue(t, a, Request{Role: RolePeer, Name: "west"})
	if err := pair.Save(filepath.Join(dir, "none", "a.crt"), keyFile); err == nil {
		t.Error("saved into a directory that is not there")
	}
}
