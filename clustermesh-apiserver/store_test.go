package main

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/process"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

func TestValidateStore(t *testing.T) {
	files := "--etcd-ca-file=a --etcd-cert-file=b --etcd-key-file=c"
	for _, tc := range []struct{ args, want string }{
		{"--etcd-endpoints=https://a:2379,https://[fd00::1]:2379 " + files, ""},
		{"--etcd-endpoints=http://localhost:2379,http://127.0.0.1:1,http://[::1]:2", ""},
		{files, "give --etcd-endpoints too"},
		{"--etcd-endpoints=https://a:2379 --etcd-ca-file=a", "give all three or none"},
		{"--etcd-endpoints=https://a:2379", "needs --etcd-ca-file"},
		{"--etcd-endpoints=http://a:2379", "without TLS only on this machine"},
		{"--etcd-endpoints=http://localhost:2379 " + files, "must be https://"},
		{"--etcd-endpoints=https://a " + files, "is not https://host:port"},
		{"--etcd-endpoints=https://a:1/x " + files, "is not https://host:port"},
		{"--etcd-endpoints=a:2379 " + files, "--etcd-endpoints: "},
		{"--etcd-endpoints=unix:///a:1 " + files, "is not https://host:port"},
	} {
		err := parse(t, strings.Fields(tc.args)...).validate()
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.args, err, tc.want)
		}
	}
}

func TestReplicaName(t *testing.T) {
	if got := parse(t, "--listen=10.0.0.1:8474").replica(); got != "10.0.0.1:8474" {
		t.Errorf("got %q", got)
	}
	for _, all := range []string{":8474", "0.0.0.0:8474", "[::]:8474"} {
		if got := parse(t, "--listen="+all).replica(); strings.HasPrefix(got, ":") || strings.Contains(got, "0.0.0.0") || !strings.HasSuffix(got, ":8474") {
			t.Errorf("%s: got %q, want the host's name", all, got)
		}
	}
}

func TestStoreWithoutItsFiles(t *testing.T) {
	cfg := parse(t, "--etcd-endpoints=https://a:2379", "--etcd-ca-file=/none", "--etcd-cert-file=/none", "--etcd-key-file=/none")
	if _, err := newStore(cfg, slog.New(slog.DiscardHandler)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// An external etcd leaves the data directory to one process all the same.
func TestStoreHoldsTheDirectory(t *testing.T) {
	s := &store{dir: filepath.Join(t.TempDir(), "etcd"), external: kvstore.ClientConfig{Endpoints: []string{"http://localhost:1"}}}
	_, release, err := s.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.dial(t.Context()); !errors.Is(err, kvstore.ErrDirInUse) {
		t.Errorf("a second one got %v", err)
	}
	release()
}

func newOwner(t *testing.T, cluster string) (*pki.Authority, string) {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.OpenAuthority(dir, cluster)
	if err != nil {
		t.Fatal(err)
	}
	return authority, dir
}

// The first to come has the store; others with the same authority share it, and
// all others are told what is wrong.
func TestOwner(t *testing.T) {
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: t.TempDir()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	etcd, err := server.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	s := &store{external: kvstore.ClientConfig{Endpoints: []string{"https://a:1"}}}
	election := kvstore.NewElection(kvstore.ElectionConfig{Client: etcd, Name: "a", TTL: 2 * time.Second})
	status := process.NewStatus(process.StatusConfig{})
	begin := func(ctx context.Context, a *pki.Authority, dir string) (<-chan struct{}, <-chan error) {
		claimed, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- guard(ctx, a, s, etcd, election, dir, status.Condition("etcd"), claimed) }()
		return claimed, done
	}

	east, dir := newOwner(t, "east")
	for range 2 { // two replicas
		running, stop := context.WithCancel(ctx)
		claimed, done := begin(running, east, dir)
		<-claimed
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := status.Ready(); err != nil {
		t.Errorf("not ready: %v", err)
	}
	other, dir := newOwner(t, "east")
	if _, done := begin(ctx, other, dir); true {
		if err := <-done; !errors.Is(err, errOtherAuthority) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), ownerOf(east).Authority) {
			t.Errorf("another authority: %v", err)
		}
	}
	// One whose authority was replaced keeps the store; a replica with the old one is out.
	stale := t.TempDir()
	if err := errors.Join(os.CopyFS(stale, os.DirFS(filepath.Dir(east.CertFile()))), os.Chmod(filepath.Join(stale, "ca.key"), 0o600), openKeys(stale)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{east.Begin, east.Replace, east.Finish} { // with a restart after each
		if err := step(); err != nil {
			t.Fatal(err)
		}
		again, err := pki.OpenAuthority(filepath.Dir(east.CertFile()), "east")
		if err != nil {
			t.Fatal(err)
		}
		running, stop := context.WithCancel(ctx)
		claimed, done := begin(running, again, filepath.Dir(east.CertFile()))
		select {
		case <-claimed:
			stop()
			err = <-done
		case err = <-done:
			stop()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	old, err := pki.OpenAuthority(stale, "east")
	if err != nil {
		t.Fatal(err)
	}
	if _, done := begin(ctx, old, stale); true {
		if err := <-done; !errors.Is(err, errOtherAuthority) || !strings.Contains(err.Error(), "copy the pki directory") {
			t.Errorf("a replica with the old authority: %v", err)
		}
	}
	west, dir := newOwner(t, "west")
	if _, done := begin(ctx, west, dir); true {
		if err := <-done; !errors.Is(err, errOtherCluster) || !strings.Contains(err.Error(), `cluster "east"'s`) {
			t.Errorf("another cluster: %v", err)
		}
	}
}

// openKeys makes copies of keys their owner's only.
func openKeys(dir string) (err error) {
	for _, role := range []string{"peer", "agent", "admin"} {
		err = errors.Join(err, os.Chmod(filepath.Join(dir, role+".pem"), 0o600))
	}
	return err
}
