package main

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

const etcdConfig = `endpoints: [https://west.mesh.cilium.io:2379, https://192.0.2.9:2379]
trusted-ca-file: /var/lib/cilium/clustermesh/west.etcd-client-ca.crt
cert-file: /var/lib/cilium/clustermesh/west.etcd-client.crt
key-file: /var/lib/cilium/clustermesh/west.etcd-client.key
`

const aliasList = "cilium-host-aliases:\n- hostname: west.mesh.cilium.io\n  ips: [192.0.2.7, 192.0.2.9, \"fd00::7\"]\n"

func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The files may be beside the configuration, or the entries of a Secret.
func TestReadEtcdConfig(t *testing.T) {
	dir := t.TempDir()
	parts := map[string]string{"west": etcdConfig + aliasList, "west.etcd-client-ca.crt": "ca", "west.etcd-client.crt": "cert", "west.etcd-client.key": "key"}
	manifest := "kind: Secret\ndata:\n"
	for name, text := range parts {
		put(t, filepath.Join(dir, name), text)
		manifest += fmt.Sprintf("  %s: %s\n", name, base64.StdEncoding.EncodeToString([]byte(text)))
	}
	want := []string{"https://192.0.2.7:2379", "https://192.0.2.9:2379", "https://[fd00::7]:2379"}
	for _, path := range []string{filepath.Join(dir, "west"), put(t, filepath.Join(t.TempDir(), "secret.yaml"), manifest)} {
		var got joinpb.DeclareRequest
		if err := readEtcdConfig(path, "west", &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Endpoints); diff != "" || string(got.Ca) != "ca" || string(got.Cert) != "cert" || string(got.Key) != "key" {
			t.Errorf("%s: %s\n%s %s %s", path, diff, got.Ca, got.Cert, got.Key)
		}
	}
	given := joinpb.DeclareRequest{Endpoints: []string{"https://192.0.2.1:1"}}
	if err := readEtcdConfig(filepath.Join(dir, "west"), "west", &given); err != nil || len(given.Endpoints) != 1 {
		t.Errorf("%v, %v", given.Endpoints, err)
	}
	for want, text := range map[string]string{
		"no entry \"west\"":                    "kind: Secret\nstringData: {east: x}\n",
		"no entry \"west.etcd-client-ca.crt\"": "kind: Secret\nstringData:\n  west: |\n    " + strings.ReplaceAll(etcdConfig, "\n", "\n    ") + "\n",
		"entry \"west\" of the Secret":         "kind: Secret\ndata: {west: \"%\"}\n",
		"no endpoints":                         "trusted-ca-file: x\n",
		"no such file":                         strings.ReplaceAll(etcdConfig, "west.etcd", "none.etcd"),
		"cilium-host-aliases":                  etcdConfig + "cilium-host-aliases: [1]\n",
	} {
		if err := readEtcdConfig(put(t, filepath.Join(dir, "bad"), text), "west", &joinpb.DeclareRequest{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestHostAliases(t *testing.T) {
	want := map[string][]string{"west.mesh.cilium.io": {"192.0.2.7"}}
	for _, text := range []string{
		"cilium-host-aliases:\n- hostname: west.mesh.cilium.io\n  ips: [192.0.2.7]\n",
		"cilium-host-aliases:\n  west.mesh.cilium.io:\n    ips: [192.0.2.7]\n",
	} {
		got, err := hostAliases([]byte(text))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%v %s", err, diff)
		}
	}
	if got, err := hostAliases([]byte(etcdConfig)); err != nil || len(got) > 0 {
		t.Errorf("%v, %v", got, err)
	}
}
