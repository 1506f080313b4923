package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
)

// What is written for Cilium is what join reads, as files and as a Secret.
func TestCiliumFiles(t *testing.T) {
	answer := &joinpb.IssueResponse{
		Cluster: "east", Addresses: []string{"192.0.2.1:8474", "192.0.2.2:8474", "[fd00::1]:9000", "gw.example.com:8474"},
		Ca: []byte("ca"), Cert: []byte("cert"), Key: []byte("key"),
	}
	files, err := ciliumFiles(answer)
	if err != nil {
		t.Fatal(err)
	}
	var config ciliumConfig
	if err := yaml.Unmarshal(files["east"], &config); err != nil {
		t.Fatal(err)
	}
	want := ciliumConfig{
		Endpoints: []string{"https://east.mesh.cilium.io:8474", "https://east.mesh.cilium.io:9000", "https://gw.example.com:8474"},
		CA:        "/var/lib/cilium/clustermesh/east.etcd-client-ca.crt", Cert: "/var/lib/cilium/clustermesh/east.etcd-client.crt",
		Key:     "/var/lib/cilium/clustermesh/east.etcd-client.key",
		Aliases: []hostAlias{{Hostname: "east.mesh.cilium.io", IPs: []string{"192.0.2.1", "192.0.2.2", "fd00::1"}}},
	}
	if diff := cmp.Diff(want, config); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if err := errors.Join(makePrivate(dir), writeFiles(dir, files)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "east.etcd-client.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	var out bytes.Buffer
	i := issuing{secret: "cilium-clustermesh", namespace: "kube-system"}
	if err := i.writeSecret(&out, files); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "# Holds a private key") || !strings.Contains(out.String(), "name: cilium-clustermesh") {
		t.Errorf("%s", out.String())
	}
	for _, path := range []string{filepath.Join(dir, "east"), put(t, filepath.Join(t.TempDir(), "secret.yaml"), out.String())} {
		var got joinpb.DeclareRequest
		if err := readEtcdConfig(path, "east", &got); err != nil || string(got.Key) != "key" || len(got.Endpoints) != 7 {
			t.Errorf("%s: %v, %v", path, got.Endpoints, err)
		}
	}
}

// Where there is no place for the files nothing is asked for.
func TestIssueNowhere(t *testing.T) {
	i := issuing{directory: "/dev/null/x"}
	err := i.issue(&cobra.Command{}, &options{adminFile: filepath.Join(t.TempDir(), "none")})
	if err == nil || !strings.Contains(err.Error(), "make the directory") {
		t.Errorf("got %v", err)
	}
}

func TestPrepare(t *testing.T) {
	d := declaring{file: filepath.Join(t.TempDir(), "none"), pods: []string{"10.2.0.0/16", " 10.3.0.0/16"}, external: []string{"198.51.100.0/24"}}
	if err := d.prepare(); err == nil || !strings.Contains(err.Error(), "--name and --id") {
		t.Errorf("without a name: %v", err)
	}
	d.request.Name, d.request.Id = "west", 2
	if err := d.prepare(); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("without a file: %v", err)
	}
	if got := d.request.Claims; len(got) != 3 {
		t.Errorf("claims %v", got)
	}
}
