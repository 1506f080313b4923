package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// ClientFiles are the paths, all needed, of what a client presents and trusts.
type ClientFiles struct {
	// CAFile holds the certificates of the authorities that may have signed
	// the server's.
	CAFile string
	// CertFile and KeyFile are the client's own pair.
	CertFile string
	KeyFile  string
}

// ClientConfig returns the TLS configuration of a client of a gateway, or of a
// peer's etcd. The server is taken when its certificate was signed by an
// authority in CAFile and is valid for the host name that is dialled or for one
// of names: certificates in a mesh name the cluster (MeshNames), addresses
// change. A dialled IP address is not known here; it counts when it is in names.
// The files are read again at every handshake, so renewed ones need no
// restart. They are read here too: an error says which file is wrong, how.
func ClientConfig(files ClientFiles, names ...string) (*tls.Config, error) {
	c := &client{names: names, load: files.load}
	return c.config()
}

// CheckSubject refuses files whose certificate is not a client's that speaks for
// want: a server says no more than that it is bad. The error wraps ErrSubject or
// ErrCertificate, and names the file and what is wrong.
func (f ClientFiles) CheckSubject(want Subject) error {
	c, err := f.load()
	if err != nil {
		return err
	}
	got, err := SubjectOf(c.pair.Leaf)
	if err != nil {
		return fmt.Errorf("%s: %w", c.certDoc, err)
	}
	if got != want {
		return fmt.Errorf("%s is for %s, needed is one for %s: %w", c.certDoc, got, want, ErrSubject)
	}
	if !slices.Contains(c.pair.Leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return fmt.Errorf("%s is not for clients (extended key usage): %w", c.certDoc, ErrCertificate)
	}
	return nil
}

// credentials is what a client presents and trusts at one moment, with what a
// person calls the two.
type credentials struct {
	pair    tls.Certificate
	roots   *x509.CertPool
	certDoc string
	caDoc   string
}

// load reads the files. Where certificate and key do not belong together a renewal
// was broken off, and the next key is the certificate's; or one is at work, and
// another look, of which each renewal spoils one at most, finds both.
func (f ClientFiles) load() (c *credentials, err error) {
	for range 3 {
		if c, err = f.read(f.KeyFile); !errors.Is(err, ErrKey) {
			return c, err
		}
		if next, err := f.read(f.nextKey()); err == nil {
			return next, nil
		}
	}
	return c, err
}

func (f ClientFiles) read(keyFile string) (*credentials, error) {
	caPEM, err := os.ReadFile(f.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read trusted certificates: %w", err)
	}
	certPEM, err := os.ReadFile(f.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read client key: %w", err)
	}
	c := &credentials{certDoc: "client certificate " + f.CertFile, caDoc: f.CAFile}
	return c, c.parse(caPEM, certPEM, keyPEM)
}

func (c *credentials) parse(caPEM, certPEM, keyPEM []byte) error {
	c.roots = x509.NewCertPool()
	if !c.roots.AppendCertsFromPEM(caPEM) {
		return fmt.Errorf("%s holds no PEM certificate: %w", c.caDoc, ErrCertificate)
	}
	if _, err := parseCertificate(c.certDoc, certPEM); err != nil {
		return err
	}
	var err error
	if c.pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		return fmt.Errorf("%s and its key: %w: %w", c.certDoc, ErrKey, err)
	}
	return checkTime(c.certDoc, c.pair.Leaf, time.Now())
}

type client struct {
	names []string
	load  func() (*credentials, error)
}

func (c *client) config() (*tls.Config, error) {
	if _, err := c.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: c.certificate,
		// The standard check knows one name only. VerifyConnection makes the
		// same check, chain and all, with every name; it runs on each handshake.
		InsecureSkipVerify: true,
		VerifyConnection:   c.verify,
	}, nil
}

// certificate answers the server's question for one. A server says which
// authorities it takes; a certificate of another one would be refused by an
// alert that names no reason, so it is refused here with one.
func (c *client) certificate(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	current, err := c.load()
	if err != nil {
		return nil, err
	}
	if err := info.SupportsCertificate(&current.pair); err != nil && len(info.AcceptableCAs) > 0 {
		return nil, fmt.Errorf("%s was signed by %q, which this server does not take: %w",
			current.certDoc, current.pair.Leaf.Issuer, ErrUntrusted)
	}
	return &current.pair, nil
}

func (c *client) verify(state tls.ConnectionState) error {
	current, err := c.load()
	if err != nil {
		return err
	}
	leaf := state.PeerCertificates[0]
	now := time.Now()
	if err := checkTime("server certificate", leaf, now); err != nil {
		return fmt.Errorf("%w; if the clocks are right, whoever runs the server has to give it a new one", err)
	}
	intermediates := x509.NewCertPool()
	for _, cert := range state.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:         current.roots,
		Intermediates: intermediates,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return fmt.Errorf("server certificate of %q, signed by %q, against %s: %w",
			leaf.Subject, leaf.Issuer, current.caDoc, classify(err))
	}
	return c.verifyName(leaf, state.ServerName)
}

// classify gives the usual reason its sentinel.
func classify(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w: %w", ErrUntrusted, err)
	}
	return err
}

func (c *client) verifyName(leaf *x509.Certificate, dialled string) error {
	names := c.names
	if dialled != "" {
		names = append([]string{dialled}, names...)
	}
	for _, name := range names {
		if leaf.VerifyHostname(name) == nil {
			return nil
		}
	}
	valid := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		valid = append(valid, ip.String())
	}
	return fmt.Errorf("server certificate is valid for %s, not for any of %s: %w",
		strings.Join(valid, ", "), strings.Join(names, ", "), ErrServerName)
}
