package pki

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAuthority(t *testing.T, dir, cluster string) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, cluster)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *Authority, r Request) *Pair {
	t.Helper()
	if r.TTL == 0 {
		r.TTL = time.Hour
	}
	pair, err := a.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func parse(t *testing.T, certPEM []byte) *x509.Certificate {
	t.Helper()
	cert, err := parseCertificate("test", certPEM)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// clientFiles writes what a client of role needs into a directory of its own.
func clientFiles(t *testing.T, a *Authority, r Request) ClientFiles {
	t.Helper()
	dir := t.TempDir()
	files := ClientFiles{
		CAFile:   filepath.Join(dir, "trusted.crt"),
		CertFile: filepath.Join(dir, "client.crt"),
		KeyFile:  filepath.Join(dir, "client.key"),
	}
	write(t, files.CAFile, a.CertPEM())
	if err := issue(t, a, r).Save(files.CertFile, files.KeyFile); err != nil {
		t.Fatal(err)
	}
	return files
}

func write(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
