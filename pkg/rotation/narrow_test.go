package rotation

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// narrow puts an authority there that allows nothing but issuers below it.
func narrow(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	u, err := url.Parse("causeway://east/authority/east")
	must(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of east"}, URIs: []*url.URL{u},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100000 * time.Hour), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	must(t, err)
	p8, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "ca.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "ca.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p8}), 0o600))
}

// Who can not follow is left behind by force, and nobody else.
func TestNarrowForce(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		narrow(t, dir)
		b := newBed(t, dir)
		agent := b.holder(pki.RoleAgent, "n1")
		b.holder(pki.RolePeer, "cilium")
		b.run()
		b.start()
		synctest.Wait()
		agent.follow()
		answer, err := b.finish(true)
		must(t, err)
		if b.stage() != pki.Replacing || len(answer.Cut) != 1 || answer.Cut[0].Name != "cilium" {
			t.Fatalf("it is in %q, cut off: %v", b.stage(), answer.Cut)
		}
		agent.follow()
		answer, err = b.finish(true)
		must(t, err)
		if b.stage() != pki.Single || len(answer.Cut) != 1 {
			t.Errorf("it is in %q, cut off: %v", b.stage(), answer.Cut)
		}
		if _, by, err := agent.files.Trusted(); err != nil || by != b.newest() {
			t.Errorf("who follows has no certificate: %v", err)
		}
		time.Sleep(2 * farewell)
	})
}
