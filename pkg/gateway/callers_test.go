package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// kind is what becomes of one who calls.
type kind int

const (
	good kind = iota
	// refusedAtOnce has no connection.
	refusedAtOnce
	// takenBack has one, and hears at each call that the certificate is no more.
	takenBack
)

// caller is one who tries all calls.
type caller struct {
	name   string
	kind   kind
	role   pki.Role
	config *tls.Config
}

// signer is what a test signs certificates with, in the place of the authority.
type signer struct {
	cert *x509.Certificate
	key  any
	root bool
}

// signerOf reads the authority's own keys.
func (b *bed) signerOf(certFile, keyFile string) signer {
	b.t.Helper()
	dir := filepath.Join(filepath.Dir(b.dir), "pki")
	var texts [][]byte
	for _, file := range []string{certFile, keyFile} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			b.t.Fatal(err)
		}
		texts = append(texts, text)
	}
	pair, err := tls.X509KeyPair(texts[0], texts[1])
	if err != nil {
		b.t.Fatal(err)
	}
	return signer{cert: pair.Leaf, key: pair.PrivateKey, root: certFile == pki.CAFile}
}

// forge signs what change makes of a good certificate of a peer, by itself where
// there is no signer.
func (b *bed) forge(by *signer, change func(*x509.Certificate)) *tls.Certificate {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "west"},
		URIs:         []*url.URL{uri(b, "causeway://east/peer/west")},
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	change(leaf)
	if by == nil {
		by = &signer{cert: leaf, key: key, root: true}
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, by.cert, key.Public(), by.key)
	if err != nil {
		b.t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	if cert.Leaf, err = x509.ParseCertificate(der); err != nil {
		b.t.Fatal(err)
	}
	if !by.root {
		cert.Certificate = append(cert.Certificate, by.cert.Raw)
	}
	return cert
}

func uri(b *bed, text string) *url.URL {
	b.t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		b.t.Fatal(err)
	}
	return u
}

func (b *bed) issue(authority *pki.Authority, r pki.Request) *tls.Certificate {
	b.t.Helper()
	if r.TTL == 0 {
		r.TTL = time.Hour
	}
	pair, err := authority.Issue(r)
	if err != nil {
		b.t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	if err != nil {
		b.t.Fatal(err)
	}
	return &cert
}

// callers are all kinds of certificates. The peer "gone" was put out.
func (b *bed) callers() []caller {
	b.t.Helper()
	out := time.Now().Truncate(time.Second).Add(-time.Minute)
	b.gateway.exclusions.Exclude(peerOf("gone"), out)
	var all []caller
	add := func(name string, kind kind, role pki.Role, cert *tls.Certificate) {
		config := b.clientTLS("", "", time.Hour)
		if cert != nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		all = append(all, caller{name, kind, role, config})
	}
	add("none", good, roleNone, nil)
	for name, r := range map[string]pki.Request{
		"a peer":                   {Role: pki.RolePeer, Name: "west"},
		"another peer":             {Role: pki.RolePeer, Name: "north"},
		"a peer called admin":      {Role: pki.RolePeer, Name: "admin"},
		"a renewed peer":           {Role: pki.RolePeer, Name: "west", Begins: time.Now().Add(-time.Hour)},
		"an agent":                 {Role: pki.RoleAgent, Name: "node-1"},
		"an agent called as peers": {Role: pki.RoleAgent, Name: "gone"},
		"an admin":                 {Role: pki.RoleAdmin, Name: "admin"},
		"put out, invited again":   {Role: pki.RolePeer, Name: "gone", Begins: out},
	} {
		add(name, good, r.Role, b.issue(b.authority, r))
	}
	add("put out", takenBack, "", b.issue(b.authority, pki.Request{Role: pki.RolePeer, Name: "gone"}))
	add("put out, renewed", takenBack, "", b.issue(b.authority, pki.Request{Role: pki.RolePeer, Name: "gone", Begins: out.Add(-time.Second), TTL: 2 * time.Hour}))
	add("server", refusedAtOnce, "", b.issue(b.authority, pki.Request{Role: pki.RoleServer}))
	for name, cluster := range map[string]string{"another authority of our name": "east", "another cluster's authority": "north"} {
		authority, err := pki.OpenAuthority(filepath.Join(b.t.TempDir(), "pki"), cluster)
		if err != nil {
			b.t.Fatal(err)
		}
		add(name, refusedAtOnce, "", b.issue(authority, pki.Request{Role: pki.RoleAdmin, Name: "admin"}))
	}
	b.forgeries(add)
	return all
}

// forgeries are what the authority would not sign, or somebody else has signed.
func (b *bed) forgeries(add func(string, kind, pki.Role, *tls.Certificate)) {
	root := b.signerOf(pki.CAFile, "ca.key")
	peers, agents := b.signerOf("peer.pem", "peer.pem"), b.signerOf("agent.pem", "agent.pem")
	named := func(text string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = []*url.URL{uri(b, text)} }
	}
	none := func(*x509.Certificate) {}
	add("peer by its issuer", good, pki.RolePeer, b.forge(&peers, none)) // so that all below fails for what it says
	add("peer by the root, as before there were issuers", good, pki.RolePeer, b.forge(&root, none))
	bad := func(name string, cert *tls.Certificate) { add(name, refusedAtOnce, "", cert) }
	bad("expired", b.forge(&peers, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	bad("not yet valid", b.forge(&peers, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) }))
	bad("self-signed", b.forge(nil, none))
	bad("self-signed authority", b.forge(nil, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }))
	server := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	bad("for servers, by its issuer", b.forge(&peers, server))
	bad("for servers, by the root", b.forge(&root, server))
	bad("peer by the agents' issuer", b.forge(&agents, none))
	bad("agent by the peers' issuer", b.forge(&peers, named("causeway://east/agent/node-1")))
	bad("admin by the peers' issuer", b.forge(&peers, named("causeway://east/admin/admin")))
	bad("of another cluster's name", b.forge(&peers, named("causeway://north/peer/west")))
	bad("of an unknown role", b.forge(&root, named("causeway://east/root/west")))
	bad("with two names", b.forge(&peers, func(c *x509.Certificate) { c.URIs = append(c.URIs, uri(b, "causeway://east/peer/north")) }))
	bad("with a common name only", b.forge(&peers, func(c *x509.Certificate) { c.URIs = nil }))
	bad("admin with an escaped name", b.forge(&root, named("causeway://east/%61dmin/admin")))
	leaf := b.forge(&peers, none)
	bad("admin by a peer", b.forge(&signer{cert: leaf.Leaf, key: leaf.PrivateKey}, named("causeway://east/admin/admin")))
	for name, s := range map[string]signer{"the root itself": root, "the peers' issuer itself": peers} {
		bad(name, &tls.Certificate{Certificate: [][]byte{s.cert.Raw}, PrivateKey: s.key})
	}
}
