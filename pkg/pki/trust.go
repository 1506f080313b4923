package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/file"
)

// maxAuthorities is how many a cluster may have at a time: one, and the one that
// replaces it.
const maxAuthorities = 2

// maxText is how many bytes of certificates are taken from another cluster at a time,
// which are kept on disk and in etcd.
const maxText = 64 << 10

// Trusted returns the fingerprints of the authorities that the client trusts, and
// of the one of them that signed its certificate, which is zero when none did.
func (f ClientFiles) Trusted() (trusted [][sha256.Size]byte, signer [sha256.Size]byte, err error) {
	text, err := os.ReadFile(f.CAFile)
	if err != nil {
		return nil, signer, fmt.Errorf("read trusted certificates: %w", err)
	}
	chain, err := os.ReadFile(f.CertFile)
	if err != nil {
		return nil, signer, fmt.Errorf("read client certificate: %w", err)
	}
	all := Certificates(text)
	for _, cert := range all {
		trusted = append(trusted, Fingerprint(cert))
	}
	if by := signerOf(chain, all); by != nil {
		signer = Fingerprint(by)
	}
	return trusted, signer, nil
}

// signerOf returns which of the authorities the chain is of, nil for none.
func signerOf(chainPEM []byte, authorities []*x509.Certificate) *x509.Certificate {
	chain := Certificates(chainPEM)
	for i := 1; i < len(chain); i++ {
		if chain[i-1].CheckSignatureFrom(chain[i]) != nil {
			return nil
		}
	}
	for _, cert := range authorities {
		if len(chain) > 0 && chain[len(chain)-1].CheckSignatureFrom(cert) == nil {
			return cert
		}
	}
	return nil
}

// Trust makes authoritiesPEM what the client trusts of a cluster, and says whether
// that is a change. The caller has them over a connection that was verified against
// what is trusted till now. Refused are texts without the authority that signed the
// client's own certificate, or with anything but authorities of the cluster. What
// else the file trusts, of other makers, stays. The file is not changed while the
// pair is renewed or replaced, which is waited for. An error wraps ErrCertificate,
// ErrUntrusted, ErrWrongCluster or ErrBusy, or comes from the file system.
func (f ClientFiles) Trust(clusterName string, authoritiesPEM []byte) (changed bool, err error) {
	if len(authoritiesPEM) > maxText {
		return false, fmt.Errorf("%d bytes of authorities of cluster %s, more than %d: %w", len(authoritiesPEM), clusterName, maxText, ErrCertificate)
	}
	said := Certificates(authoritiesPEM)
	if len(said) == 0 || len(said) > maxAuthorities {
		return false, fmt.Errorf("%d authorities of cluster %s: %w", len(said), clusterName, ErrCertificate)
	}
	want := Subject{Cluster: clusterName, Role: roleAuthority, Name: clusterName}
	for _, cert := range said {
		if s, err := subjectOf(cert); err != nil || s != want || cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil {
			return false, fmt.Errorf("certificate %q is not the authority of cluster %s: %w", cert.Subject, clusterName, ErrWrongCluster)
		}
	}
	if next, err := f.trusting(want, said); err != nil || next == nil {
		return false, err
	}
	unlock, err := f.await()
	if err != nil {
		return false, err
	}
	defer unlock()
	next, err := f.trusting(want, said) // the pair may be another one now
	if err != nil || next == nil {
		return false, err
	}
	info, err := os.Stat(f.CAFile)
	if err != nil {
		return false, fmt.Errorf("read trusted certificates: %w", err)
	}
	var out []byte
	for _, cert := range next {
		out = append(out, encodeCertificate(cert)...)
	}
	return true, file.Write(f.CAFile, out, info.Mode().Perm())
}

// trusting returns what the file is to trust where said are the authorities of a
// cluster, nil when it does.
func (f ClientFiles) trusting(want Subject, said []*x509.Certificate) ([]*x509.Certificate, error) {
	chain, err := os.ReadFile(f.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read client certificate: %w", err)
	}
	if signerOf(chain, said) == nil {
		return nil, fmt.Errorf("the authority that signed %s is not among those of cluster %s: %w", f.CertFile, want.Cluster, ErrUntrusted)
	}
	text, err := os.ReadFile(f.CAFile)
	if err != nil {
		return nil, fmt.Errorf("read trusted certificates: %w", err)
	}
	old := Certificates(text)
	next := slices.Clone(said)
	for _, cert := range old {
		if s, err := subjectOf(cert); err != nil || s != want {
			next = append(next, cert)
		}
	}
	if sameCertificates(old, next) {
		return nil, nil
	}
	return next, nil
}

func sameCertificates(a, b []*x509.Certificate) bool {
	in := func(all []*x509.Certificate) func(*x509.Certificate) bool {
		return func(cert *x509.Certificate) bool { return !slices.ContainsFunc(all, cert.Equal) }
	}
	return !slices.ContainsFunc(a, in(b)) && !slices.ContainsFunc(b, in(a))
}
