package peer

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// renewedFor is for how long gateways here sign.
const renewedFor = 30 * 24 * time.Hour

// sign is what an operator does by hand: a certificate for a signing request,
// by the authority's own key.
func (r *remote) sign(csrPEM []byte, from, until time.Time) []byte {
	r.t.Helper()
	dir := filepath.Join(r.dir, "pki")
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		r.t.Fatal(err)
	}
	block, _ := pem.Decode(csrPEM)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		r.t.Fatal(err)
	}
	name, err := url.Parse("causeway://" + r.name + "/peer/east")
	if err != nil {
		r.t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(7), URIs: []*url.URL{name}, NotBefore: from, NotAfter: until, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, pair.Leaf, csr.PublicKey, pair.PrivateKey)
	if err != nil {
		r.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// A certificate that was signed by hand, and is past two thirds of its life, is
// renewed over the connection by which the peer is read, in the files that the
// peer file names; the session does not notice.
func TestCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	keyPEM, csrPEM, err := pki.NewSigningRequest()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	l.write("west.ca.crt", west.ca.CertPEM())
	l.write("west.key", keyPEM)
	l.write("west.crt", west.sign(csrPEM, now.Add(-3*time.Hour), now.Add(time.Hour)))
	l.write("west", fmt.Appendf(nil, "endpoints: [https://%s]\ntrusted-ca-file: west.ca.crt\ncert-file: west.crt\nkey-file: west.key\n", west.address))
	eventually(t, func() error {
		var s Status
		if all := l.Status(); len(all) > 0 {
			s = all[0]
		}
		if left := s.Certificate.Ends.Sub(now); left < renewedFor-time.Hour || s.Certificate.Problem != "" {
			return fmt.Errorf("it stands at %+v", s.Certificate)
		}
		return nil
	})
	west.node("n3")
	l.awaitNodes("west", "n1", "n2", "n3")
	l.awaitState("west", Synced, "")
	files := pki.ClientFiles{CAFile: filepath.Join(l.dir, "west.ca.crt"), CertFile: filepath.Join(l.dir, "west.crt"), KeyFile: filepath.Join(l.dir, "west.key")}
	if err := files.CheckSubject(pki.Subject{Cluster: "west", Role: pki.RolePeer, Name: "east"}); err != nil {
		t.Error(err)
	}
	if problems := l.Problems(); len(problems) > 0 {
		t.Errorf("what a renewal writes is taken for peer files: %v", problems)
	}
}
