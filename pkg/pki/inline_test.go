package pki

import (
	"strings"
	"testing"
	"time"
)

func TestInlineConfig(t *testing.T) {
	a, err := OpenAuthority(t.TempDir(), "west")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := a.Issue(Request{Role: RolePeer, Name: "east", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := InlineConfig("west.yaml", a.CertPEM(), pair.CertPEM, pair.KeyPEM, "west.mesh.cilium.io"); err != nil {
		t.Error(err)
	}
	for want, parts := range map[string][3][]byte{
		"the CA of west.yaml":          {nil, pair.CertPEM, pair.KeyPEM},
		"the certificate of west.yaml": {a.CertPEM(), pair.CertPEM, a.CertPEM()},
	} {
		if _, err := InlineConfig("west.yaml", parts[0], parts[1], parts[2]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want one that names %s", err, want)
		}
	}
}
