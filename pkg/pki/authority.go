package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/file"
)

// The files of an authority inside its directory.
const (
	// CAFile is the authority's certificate, which may be given to anybody.
	CAFile = "ca.crt"
	// caKeyFile never leaves the directory.
	caKeyFile = "ca.key"
	lockFile  = ".lock"
)

const (
	// authorityTTL is long: who cannot follow when an authority is replaced needs
	// new files by hand.
	authorityTTL = 10 * 365 * 24 * time.Hour
	// backdate is by how much clocks of a mesh may differ before a new
	// certificate is refused.
	backdate = 10 * time.Minute
)

// Authority signs the certificates of one cluster, clients' through an issuer of
// each role. While it is replaced it is two: see Begin. It is safe for concurrent
// use.
type Authority struct {
	cluster string
	dir     string

	mu    sync.RWMutex
	stage Stage
	// old is the only one but while it is replaced, next the one that replaces it.
	old, next *root
	record    record
	changed   chan struct{} // closed and replaced when one of the above changes
}

// root is one certificate that signs itself, and its issuers. It does not change.
type root struct {
	cluster string
	dir     string
	cert    *x509.Certificate
	certPEM []byte
	key     *ecdsa.PrivateKey
	issuers map[Role]*signer
}

// OpenAuthority loads the authority in dir, or makes one when there is none.
// Processes that do so at the same time get the same one. So are the issuers,
// beneath one that is older than they are too. A replacement that was broken off
// is as it was, or goes on. Errors wrap
// ErrWrongCluster, ErrKey, ErrCertificate, ErrExpired or ErrNotYetValid, or
// come from the file system.
func OpenAuthority(dir, clusterName string) (*Authority, error) {
	if err := cluster.ValidateName(clusterName); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of the authority: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, err
	}
	defer unlock()
	a := &Authority{cluster: clusterName, dir: dir, changed: make(chan struct{})}
	return a, a.load(time.Now())
}

// openRoot loads or makes what is in dir. name is what a new one is called.
func openRoot(dir, clusterName, name string, now time.Time) (*root, error) {
	a := &root{cluster: clusterName, dir: dir}
	if err := a.open(name); err != nil {
		return nil, err
	}
	if err := a.check(now); err != nil {
		return nil, err
	}
	return a, a.openIssuers(now)
}

// lock waits for the exclusive lock of path. The lock ends with the process,
// however that ends.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of the authority: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// open loads or makes key and certificate. The key is written first: a crash
// between the two leaves a key that nobody trusts yet, and the next start
// finishes the work.
func (a *root) open(name string) error {
	certFile, keyFile := filepath.Join(a.dir, CAFile), filepath.Join(a.dir, caKeyFile)
	certPEM, certErr := os.ReadFile(certFile)
	if certErr != nil && !errors.Is(certErr, fs.ErrNotExist) {
		return fmt.Errorf("read certificate of the authority: %w", certErr)
	}
	key, err := readKey(keyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist) && certErr != nil:
		if key, err = newKey(keyFile); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s is missing beside %s; restore it, or remove %s to begin a new authority,"+
			" after which every peer and agent needs a new certificate: %w", keyFile, CAFile, CAFile, ErrKey)
	case err != nil:
		return err
	}
	a.key = key
	if certErr != nil {
		return a.create(certFile, name)
	}
	return a.choose(certFile, certPEM)
}

// choose takes the certificate of the key among those in a file; there are two
// while an authority is replaced. Without one it is the first, for check to refuse.
func (a *root) choose(path string, text []byte) (err error) {
	a.certPEM = text
	if a.cert, err = parseCertificate(path, text); err != nil {
		return err
	}
	all := Certificates(text)
	for _, cert := range all {
		if len(all) > 1 && a.key.PublicKey.Equal(cert.PublicKey) {
			a.cert, a.certPEM = cert, encodeCertificate(cert)
		}
	}
	return nil
}

// create signs the authority's own certificate and writes it to path.
func (a *root) create(path, name string) error {
	now := time.Now()
	serial, err := newSerial()
	if err != nil {
		return err
	}
	s := Subject{Cluster: a.cluster, Role: roleAuthority, Name: a.cluster}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Causeway"}, CommonName: name},
		URIs:                  []*url.URL{s.uri()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityTTL),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLen:            1, // the issuers are below
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if a.cert, err = (&signer{cert: template, key: a.key}).sign(template, a.key.Public()); err != nil {
		return err
	}
	a.certPEM = encodeCertificate(a.cert)
	return file.Write(path, a.certPEM, 0o644)
}

// check refuses an authority that is not this cluster's or whose signatures
// nobody would accept.
func (a *root) check(now time.Time) error {
	path := filepath.Join(a.dir, CAFile)
	if err := checkTime(path, a.cert, now); err != nil {
		return err
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return fmt.Errorf("%s is not the key of %s; restore both from the same backup: %w",
			filepath.Join(a.dir, caKeyFile), path, ErrKey)
	}
	s, err := subjectOf(a.cert)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrCertificate, err)
	}
	if s.Role != roleAuthority {
		return fmt.Errorf("%s is a certificate of role %q, not an authority: %w", path, s.Role, ErrCertificate)
	}
	if s.Cluster != a.cluster {
		return fmt.Errorf("%s is the authority of cluster %q, not of %q; a cluster that changes its name"+
			" needs an empty directory: %w", path, s.Cluster, a.cluster, ErrWrongCluster)
	}
	return nil
}

// Cluster returns the name of the cluster that a signs for.
func (a *Authority) Cluster() string { return a.cluster }

// CertPEM returns the certificate of who signs now, for those who are to trust it.
// The caller must not change it.
func (a *Authority) CertPEM() []byte { return a.signing().certPEM }

// CertFile returns the path of what is trusted now: the authority's certificate,
// and the next one's while it is replaced.
func (a *Authority) CertFile() string { return filepath.Join(a.dir, CAFile) }

func (a *root) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make private key: %w", err)
	}
	text, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, file.Write(path, text, 0o600)
}

// newSerial draws 127 random bits: positive, and at most 16 bytes in DER.
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	return serial, nil
}
