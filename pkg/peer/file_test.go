package peer

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

const goodFile = `endpoints:
- https://west.mesh.cilium.io:2379
- https://10.77.0.21:8474
trusted-ca-file: ca.crt
cert-file: /certs/peer.crt
key-file: peer.key
`

func TestParseFile(t *testing.T) {
	got, err := ParseFile([]byte(goodFile), "/peers")
	if err != nil {
		t.Fatal(err)
	}
	want := File{
		Endpoints: []string{"https://west.mesh.cilium.io:2379", "https://10.77.0.21:8474"},
		TLS:       pki.ClientFiles{CAFile: "/peers/ca.crt", CertFile: "/certs/peer.crt", KeyFile: "/peers/peer.key"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseFileRefuses(t *testing.T) {
	for _, tc := range []struct{ name, text, want string }{
		{"nothing", "", "no endpoints"},
		{"no endpoints", "trusted-ca-file: a\ncert-file: b\nkey-file: c\n", "no endpoints"},
		{"plain text", strings.Replace(goodFile, "https://10", "http://10", 1), "not https://host:port"},
		{"no port", strings.Replace(goodFile, ":8474", "", 1), "has no port"},
		{"a path", strings.Replace(goodFile, ":8474", ":8474/x", 1), "not https://host:port"},
		{"no CA", strings.Replace(goodFile, "trusted-ca-file", "x", 1), "trusted-ca-file is missing"},
		{"no certificate", strings.Replace(goodFile, "cert-file", "x", 1), "cert-file is missing"},
		{"no key", strings.Replace(goodFile, "key-file", "x", 1), "key-file is missing"},
		{"insecure transport", goodFile + "insecure-transport: true\n", "not supported"},
		{"unverified", goodFile + "insecure-skip-tls-verify: true\n", "not supported"},
		{"not YAML", "endpoints: [", "yaml"},
		{"another shape", "endpoints: 3\n", "yaml"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := ParseFile([]byte(tc.text), "/peers")
			if !errors.Is(err, ErrFile) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want one that says %q", err, tc.want)
			}
		})
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(goodFile))
	f.Add([]byte("endpoints: [https://a:1]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ParseFile(text, "/peers")
		if err != nil && !errors.Is(err, ErrFile) {
			t.Errorf("%v is not ErrFile", err)
		}
		if err == nil && (len(file.Endpoints) == 0 || file.TLS.CAFile == "" || file.TLS.KeyFile == "") {
			t.Errorf("accepted %q as %+v", text, file)
		}
	})
}
