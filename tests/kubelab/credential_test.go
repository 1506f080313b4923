package kubelab

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

func authorityIn(t *testing.T) *authority {
	t.Helper()
	a, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// pool returns what trusts the authority's certificate, as its file holds it.
func (a *authority) pool(t *testing.T) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(a.dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("no certificate in %q", text)
	}
	return pool
}

func TestServe(t *testing.T) {
	t.Parallel()
	a := authorityIn(t)
	if err := a.serve("server", "127.0.0.1"); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(a.dir, "server.crt"), filepath.Join(a.dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"127.0.0.1", "localhost"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: a.pool(t), DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: authorityIn(t).pool(t)}); err == nil {
		t.Error("another authority trusts it")
	}
}

func TestKubeconfig(t *testing.T) {
	t.Parallel()
	a := authorityIn(t)
	if err := a.kubeconfig("user.conf", "https://127.0.0.1:6443", "system:node:one", "system:nodes"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(a.dir, "user.conf"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Clusters []struct{ Cluster struct{ Server string } }
		Users    []struct {
			User map[string]string
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if got := file.Clusters[0].Cluster.Server; got != "https://127.0.0.1:6443" {
		t.Errorf("the server is %q", got)
	}
	var pems [][]byte
	for _, field := range []string{"client-certificate-data", "client-key-data"} {
		raw, err := base64.StdEncoding.DecodeString(file.Users[0].User[field])
		if err != nil {
			t.Fatal(err)
		}
		pems = append(pems, raw)
	}
	pair, err := tls.X509KeyPair(pems[0], pems[1])
	if err != nil {
		t.Fatal(err)
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: a.pool(t), KeyUsages: usages}); err != nil {
		t.Error(err)
	}
	if s := pair.Leaf.Subject; s.CommonName != "system:node:one" || !slices.Equal(s.Organization, []string{"system:nodes"}) {
		t.Errorf("the certificate is of %v", s)
	}
}
