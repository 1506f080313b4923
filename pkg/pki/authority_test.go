package pki

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

func TestOpenAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "pki")
	made := openAuthority(t, dir, "east")
	if made.Cluster() != "east" {
		t.Errorf("cluster %q", made.Cluster())
	}
	for name, want := range map[string]os.FileMode{CAFile: 0o644, caKeyFile: 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o", name, info.Mode().Perm())
		}
	}
	if got := read(t, made.CertFile()); !bytes.Equal(got, made.CertPEM()) {
		t.Error("the file is not the certificate")
	}
	again := openAuthority(t, dir, "east")
	if !bytes.Equal(again.CertPEM(), made.CertPEM()) {
		t.Error("the second start made another authority")
	}
	if again.old.key.Equal(made.old.key) == false {
		t.Error("the second start has another key")
	}
}

func TestOpenAuthorityTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	certs := make([][]byte, 8)
	for i := range certs {
		wg.Go(func() {
			if a, err := OpenAuthority(dir, "east"); err == nil {
				certs[i] = a.CertPEM()
			}
		})
	}
	wg.Wait()
	for _, cert := range certs {
		if len(cert) == 0 || !bytes.Equal(cert, certs[0]) {
			t.Fatal("processes that start together have different authorities")
		}
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 3+len(issuerRoles()) {
		t.Errorf("files are left over: %v", names)
	}
}

// A crash after the key was written and before the certificate was.
func TestOpenAuthorityHalfMade(t *testing.T) {
	dir := t.TempDir()
	first := openAuthority(t, dir, "east")
	if err := os.Remove(first.CertFile()); err != nil {
		t.Fatal(err)
	}
	second := openAuthority(t, dir, "east")
	if !second.old.key.Equal(first.old.key) {
		t.Error("the key was thrown away")
	}
	openAuthority(t, dir, "east")
}

func TestOpenAuthorityRefuses(t *testing.T) {
	other := openAuthority(t, t.TempDir(), "east")
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, a *Authority)
		want   error
	}{
		{"key missing", func(t *testing.T, a *Authority) {
			if err := os.Remove(filepath.Join(a.dir, caKeyFile)); err != nil {
				t.Fatal(err)
			}
		}, ErrKey},
		{"key of another", func(t *testing.T, a *Authority) {
			write(t, filepath.Join(a.dir, caKeyFile), read(t, filepath.Join(other.dir, caKeyFile)))
		}, ErrKey},
		{"key readable by all", func(t *testing.T, a *Authority) {
			if err := os.Chmod(filepath.Join(a.dir, caKeyFile), 0o644); err != nil {
				t.Fatal(err)
			}
		}, ErrKey},
		{"key no PEM", func(t *testing.T, a *Authority) {
			write(t, filepath.Join(a.dir, caKeyFile), []byte("secret"))
		}, ErrKey},
		{"key malformed", func(t *testing.T, a *Authority) {
			write(t, filepath.Join(a.dir, caKeyFile), []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"))
		}, ErrKey},
		{"certificate empty", func(t *testing.T, a *Authority) { write(t, a.CertFile(), nil) }, ErrCertificate},
		{"certificate malformed", func(t *testing.T, a *Authority) {
			write(t, a.CertFile(), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
		}, ErrCertificate},
		{"certificate of a peer", func(t *testing.T, a *Authority) {
			pair := issue(t, a, Request{Role: RolePeer, Name: "west"})
			if err := pair.Save(a.CertFile(), filepath.Join(a.dir, caKeyFile)); err != nil {
				t.Fatal(err)
			}
		}, ErrCertificate},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := openAuthority(t, t.TempDir(), "east")
			test.damage(t, a)
			if _, err := OpenAuthority(a.dir, "east"); !errors.Is(err, test.want) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestOpenAuthorityOfAnotherCluster(t *testing.T) {
	dir := t.TempDir()
	openAuthority(t, dir, "east")
	if _, err := OpenAuthority(dir, "east2"); !errors.Is(err, ErrWrongCluster) {
		t.Errorf("error %v", err)
	}
	if _, err := OpenAuthority(dir, "East"); !errors.Is(err, cluster.ErrName) {
		t.Errorf("error %v", err)
	}
}

func TestOpenAuthorityWithoutDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, nil)
	if _, err := OpenAuthority(filepath.Join(file, "pki"), "east"); err == nil {
		t.Error("a file was taken for a directory")
	}
	if _, err := readKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestAuthorityTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		openAuthority(t, dir, "east")
		time.Sleep(authorityTTL + time.Second)
		if _, err := OpenAuthority(dir, "east"); !errors.Is(err, ErrExpired) {
			t.Errorf("error %v", err)
		}
	})
	later := t.TempDir()
	openAuthority(t, later, "east") // made now, and the bubble's clock begins in 2000
	synctest.Test(t, func(t *testing.T) {
		if _, err := OpenAuthority(later, "east"); !errors.Is(err, ErrNotYetValid) {
			t.Errorf("error %v", err)
		}
	})
}
