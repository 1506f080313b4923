package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	clientyaml "go.etcd.io/etcd/client/v3/yaml"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// site is a cluster of ours, as others see it: its API server's process, the
// manifests that it reads, its gateway.
type site struct {
	t       *testing.T
	name    string
	id      uint32
	dir     string // short: a socket lies in it
	address string
	process *exec.Cmd
}

// newSite starts an API server over copies of manifests.
func newSite(t *testing.T, name string, id uint32, manifests ...string) *site {
	t.Helper()
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t: t, name: name, id: id, dir: dir, address: freeAddress(t)}
	for _, sub := range []string{"manifests", "peers"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range manifests {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "manifests", filepath.Base(file)), text)
	}
	s.start()
	t.Cleanup(s.kill)
	return s
}

// binary returns the path of one of our programs, as run.sh has built them.
func binary(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("CAUSEWAY_BIN")
	if dir == "" {
		t.Fatal("CAUSEWAY_BIN does not say where our programs are: use `make test-conformance`")
	}
	return filepath.Join(dir, name)
}

func (s *site) start() {
	s.t.Helper()
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	s.process = exec.Command(binary(s.t, "clustermesh-apiserver"),
		"--cluster-name", s.name, "--cluster-id", strconv.Itoa(int(s.id)), "--data-dir", filepath.Join(s.dir, "data"),
		"--manifests-dir", filepath.Join(s.dir, "manifests"), "--peers-dir", filepath.Join(s.dir, "peers"),
		"--listen", s.address, "--listen-http", "", "--log-level", "warn")
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.awaitMarkers()
}

func (s *site) log() string { return filepath.Join(s.dir, "log") }

func (s *site) said() string {
	text, _ := os.ReadFile(s.log()) // for people only
	return string(text)
}

// kill ends the process as a crash does.
func (s *site) kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.process = nil
	if s.t.Failed() {
		s.t.Logf("what %s said:\n%s", s.name, s.said())
	}
}

// wipe loses everything but the authority: another store comes to stand at
// the same address.
func (s *site) wipe() {
	s.t.Helper()
	s.kill()
	entries, err := os.ReadDir(filepath.Join(s.dir, "data"))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "pki" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dir, "data", e.Name())); err != nil {
			s.t.Fatal(err)
		}
	}
	s.start()
}

// edit replaces text in a manifest.
func (s *site) edit(file, from, to string) {
	s.t.Helper()
	path := filepath.Join(s.dir, "manifests", file)
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		s.t.Fatalf("%s does not hold %q", file, from)
	}
	draft := filepath.Join(s.dir, "."+file)
	writeFile(s.t, draft, []byte(strings.ReplaceAll(string(text), from, to)))
	if err := os.Rename(draft, path); err != nil {
		s.t.Fatal(err)
	}
}

// invite writes into dir what a Cilium cluster gets from us by command: an etcd client
// file named like our cluster, for the mesh name that the certificate carries. Cilium
// finds the address by an alias in the same file.
func (s *site) invite(dir string) (file string) {
	s.t.Helper()
	// Not beside the file: every file of that folder is a peer to Cilium.
	secrets := s.t.TempDir()
	cmd := exec.CommandContext(s.t.Context(), binary(s.t, "causeway"), "--admin-file", filepath.Join(s.dir, "data", "admin.yaml"),
		"invite", "--for-cilium", "--name", readerName, "--id", strconv.Itoa(readerID), "--directory", secrets)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(secrets, s.name))
	if err != nil {
		s.t.Fatal(err)
	}
	file = filepath.Join(dir, s.name)
	writeFile(s.t, file, []byte(strings.ReplaceAll(string(text), "/var/lib/cilium/clustermesh", secrets)))
	return file
}

// access writes into dir what etcd's own client needs to read from us.
func (s *site) access(dir string) (file string) {
	s.t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(s.dir, "data", "pki"), s.name)
	if err != nil {
		s.t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{Role: pki.RolePeer, Name: readerName, TTL: time.Hour})
	if err != nil {
		s.t.Fatal(err)
	}
	secrets := s.t.TempDir()
	writeFile(s.t, filepath.Join(secrets, "ca.crt"), authority.CertPEM())
	writeFile(s.t, filepath.Join(secrets, "tls.crt"), pair.CertPEM)
	writeFile(s.t, filepath.Join(secrets, "tls.key"), pair.KeyPEM)
	text := fmt.Sprintf("endpoints:\n- https://%s\ntrusted-ca-file: %[2]s/ca.crt\ncert-file: %[2]s/tls.crt\nkey-file: %[2]s/tls.key\n",
		s.address, secrets)
	file = filepath.Join(dir, s.name)
	writeFile(s.t, file, []byte(text))
	return file
}

// reader returns etcd's own client, connected to the gateway as a peer.
func (s *site) reader() *clientv3.Client {
	s.t.Helper()
	config, err := clientyaml.NewConfig(s.access(s.t.TempDir()))
	if err != nil {
		s.t.Fatal(err)
	}
	client, err := clientv3.New(*config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// published returns everything that a peer may read.
func (s *site) published() map[string][]byte {
	s.t.Helper()
	client := s.reader()
	out := map[string][]byte{}
	keys, prefixes := wire.Readable(s.name)
	for _, key := range keys {
		s.read(client, key, out)
	}
	for _, prefix := range prefixes {
		s.read(client, prefix, out, clientv3.WithPrefix())
	}
	return out
}

func (s *site) read(client *clientv3.Client, key string, to map[string][]byte, opts ...clientv3.OpOption) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	answer, err := client.Get(ctx, key, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, kv := range answer.Kvs {
		to[string(kv.Key)] = kv.Value
	}
}

// awaitMarkers waits until everything has been published once.
func (s *site) awaitMarkers() {
	s.t.Helper()
	eventually(s.t, func() error {
		if _, err := os.Stat(filepath.Join(s.dir, "data", "admin.yaml")); err != nil {
			return fmt.Errorf("%w; it says: %s", err, s.said())
		}
		return nil
	})
	client := s.reader()
	eventually(s.t, func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
		defer cancel()
		answer, err := client.Get(ctx, "cilium/synced/"+s.name+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err == nil && answer.Count == 0 {
			err = errors.New("no markers yet")
		}
		return err
	})
}
