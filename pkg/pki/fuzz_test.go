package pki

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// FuzzAdmin: no text makes the reader panic; what it takes names a cluster and an
// endpoint, is written and read again as it was, and gives a TLS configuration
// or an error.
func FuzzAdmin(f *testing.F) {
	authority, err := OpenAuthority(f.TempDir(), "east")
	if err != nil {
		f.Fatal(err)
	}
	pair, err := authority.Issue(Request{Role: RoleAdmin, Name: "admin", TTL: 24 * time.Hour})
	if err != nil {
		f.Fatal(err)
	}
	whole := Admin{
		Endpoint: "10.77.0.11:8474", ClusterName: "east",
		CA: string(authority.CertPEM()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM),
	}
	text, err := yaml.Marshal(whole)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("endpoint: a:1\ncluster-name: east\nca: &a |\n  -----BEGIN CERTIFICATE-----\ncert: *a\n"))
	f.Add([]byte("endpoint: a:1\ncluster-name: east\n---\nca: b\n"))
	path := filepath.Join(f.TempDir(), "admin.yaml")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		admin, err := ReadAdmin(path)
		if err != nil {
			return
		}
		if err := cluster.ValidateName(admin.ClusterName); err != nil || admin.Endpoint == "" {
			t.Errorf("%q was read as %+v", text, admin)
		}
		if config, err := admin.ClientConfig(); (config == nil) == (err == nil) {
			t.Errorf("config %v with error %v", config, err)
		}
		if err := WriteAdmin(path, admin); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadAdmin(path); err != nil || again != admin {
			t.Errorf("%+v came back with %v: %s", again, err, cmp.Diff(admin, again))
		}
	})
}
