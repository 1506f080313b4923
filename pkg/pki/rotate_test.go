package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// takes reports whether server and client take each other.
func takes(t *testing.T, server *tls.Config, files ClientFiles) error {
	t.Helper()
	config, err := ClientConfig(files, MeshNames("east")...)
	if err != nil {
		return err
	}
	_, serverErr, clientErr := shake(t, server, config)
	return errors.Join(serverErr, clientErr)
}

// Each stage, with a restart after it, lets in who has followed so far and who has
// not; the end lets in those alone that have.
func TestRotate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a := openAuthority(t, dir, "east")
	server := serverConfig(t, a) // one gateway, which is not restarted
	follows, stays := clientFiles(t, a, Request{Role: RoleAgent, Name: "n1"}), clientFiles(t, a, Request{Role: RolePeer, Name: "west"})
	first := a.CertPEM()
	same := func(stage Stage) {
		t.Helper()
		again := openAuthority(t, dir, "east")
		if got, _ := again.Stage(); got != stage || !bytes.Equal(again.Bundle(), a.Bundle()) || !bytes.Equal(again.CertPEM(), a.CertPEM()) {
			t.Errorf("a restart in %q finds %q, or other authorities", stage, got)
		}
		if !bytes.Equal(read(t, a.CertFile()), a.Bundle()) {
			t.Errorf("in %q the file is not what is trusted", stage)
		}
	}

	changed := a.Changed()
	must(t, a.Begin())
	<-changed
	same(Spreading)
	if !bytes.Equal(a.CertPEM(), first) || len(a.Roots()) != 2 || !a.Roots()[0].Signs {
		t.Error("the old authority does not sign")
	}
	for _, f := range []ClientFiles{follows, stays} {
		must(t, takes(t, server, f))
	}
	if done, err := follows.Trust("east", a.Bundle()); err != nil || !done {
		t.Fatal(done, err)
	}
	must(t, takes(t, server, follows))

	must(t, a.Replace())
	same(Replacing)
	for _, f := range []ClientFiles{follows, stays} { // the new server's certificate, by both ways
		must(t, takes(t, server, f))
	}
	trusted, signer, err := follows.Trusted()
	if roots := a.Roots(); err != nil || len(trusted) != 2 || signer != roots[0].Fingerprint || !roots[1].Signs {
		t.Fatal(trusted, signer, err)
	}
	for _, f := range []ClientFiles{follows, stays} {
		trusted, _, _ := f.Trusted()
		done, err := f.RenewEarly(time.Now(), func(csr []byte) ([]byte, error) {
			return a.SignFor(trusted, Request{Role: subjectOfFiles(t, f).Role, Name: subjectOfFiles(t, f).Name, TTL: time.Hour}, csr)
		})
		if err != nil || !done {
			t.Fatal(done, err)
		}
		must(t, takes(t, server, f))
	}
	if _, signer, _ := stays.Trusted(); signer != a.Roots()[0].Fingerprint {
		t.Error("who does not trust the new authority has a certificate of it")
	}
	old := read(t, filepath.Join(dir, caKeyFile))

	must(t, a.Finish())
	same(Single)
	must(t, takes(t, server, follows)) // which trusts both still
	if done, err := follows.Trust("east", a.Bundle()); err != nil || !done {
		t.Fatal(done, err)
	}
	must(t, takes(t, server, follows))
	if err := takes(t, server, stays); !errors.Is(err, ErrUntrusted) {
		t.Errorf("who has not followed: %v", err)
	}
	write(t, stays.CAFile, a.CertPEM())
	if err := takes(t, server, stays); !errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), "does not take") {
		t.Errorf("a certificate of the old authority: %v", err)
	}
	must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && bytes.Contains(read(t, path), old) {
			t.Errorf("%s has the old key", path)
		}
		return err
	}))
	if sum := Fingerprint(parse(t, first)); a.Replaced() != hex.EncodeToString(sum[:]) {
		t.Errorf("replaced %s", a.Replaced())
	}
	must(t, a.Begin()) // and again
}

func subjectOfFiles(t *testing.T, f ClientFiles) Subject {
	t.Helper()
	cert, err := f.Certificate()
	must(t, err)
	s, err := SubjectOf(cert)
	must(t, err)
	return s
}

// An authority that allows nothing below it can not vouch for the next one.
func TestRotateNarrow(t *testing.T) {
	dir := t.TempDir()
	oldAuthority(t, dir, "east")
	a := openAuthority(t, dir, "east")
	server := serverConfig(t, a)
	files := clientFiles(t, a, Request{Role: RoleAgent, Name: "n1"})
	if a.Smooth() {
		t.Fatal("it would cut nobody off")
	}
	must(t, a.Begin())
	must(t, takes(t, server, files))
	must(t, a.Replace())
	if err := takes(t, server, files); !errors.Is(err, ErrUntrusted) {
		t.Errorf("error %v", err)
	}
	_, err := files.Trust("east", a.Bundle())
	must(t, err)
	must(t, takes(t, server, files))
	must(t, a.Finish())
	if !a.Smooth() {
		t.Error("the new one is narrow, too")
	}
}

func TestRotateOrder(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	for i, step := range []func() error{a.Finish, a.Replace} {
		if err := step(); !errors.Is(err, ErrStage) {
			t.Errorf("%d: %v", i, err)
		}
	}
	must(t, a.Begin())
	for i, step := range []func() error{a.Begin, a.Finish} {
		if err := step(); !errors.Is(err, ErrStage) {
			t.Errorf("%d: %v", i, err)
		}
	}
	must(t, a.Replace())
	if err := a.Replace(); !errors.Is(err, ErrStage) {
		t.Error(err)
	}
}

// What was broken off before the record was written is as if it had not been; what
// was so after it goes on, whatever had been moved.
func TestRotateBrokenOff(t *testing.T) {
	names := []string{caKeyFile, "peer.pem", "agent.pem", "admin.pem", CAFile}
	for moved := range len(names) + 2 {
		dir := t.TempDir()
		a := openAuthority(t, dir, "east")
		must(t, a.Begin())
		must(t, a.Replace())
		next := a.CertPEM()
		r := a.record
		r.Stage = finishing
		must(t, a.writeRecord(r))
		for _, name := range names[:min(moved, len(names))] {
			text := read(t, filepath.Join(dir, nextDir, name))
			must(t, writeFile(filepath.Join(dir, name), text, 0o600))
			if name != CAFile {
				must(t, os.Remove(filepath.Join(dir, nextDir, name)))
			}
		}
		if moved > len(names) {
			must(t, os.RemoveAll(filepath.Join(dir, nextDir)))
		}
		again := openAuthority(t, dir, "east")
		if stage, _ := again.Stage(); stage != Single || !bytes.Equal(again.Bundle(), next) {
			t.Errorf("after %d files it is in %q", moved, stage)
		}
	}

	dir := t.TempDir()
	first := openAuthority(t, dir, "east")
	must(t, first.Begin())
	must(t, os.Remove(filepath.Join(dir, recordFile)))
	again := openAuthority(t, dir, "east")
	if stage, _ := again.Stage(); stage != Single || !bytes.Equal(again.Bundle(), first.CertPEM()) {
		t.Errorf("what was never begun is in %q", stage)
	}
	if _, err := os.Stat(filepath.Join(dir, nextDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("its key lies there")
	}
	for text, damage := range map[string]func(){
		"restore both": func() { must(t, os.RemoveAll(filepath.Join(dir, nextDir))) },
		"stage":        func() { write(t, filepath.Join(dir, recordFile), []byte(`{"stage":"x"}`)) },
	} {
		must(t, os.RemoveAll(filepath.Join(dir, recordFile)))
		must(t, openAuthority(t, dir, "east").Begin())
		damage()
		if _, err := OpenAuthority(dir, "east"); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// Nobody but the authority that signed the client's certificate adds another one.
func TestTrustRefuses(t *testing.T) {
	east, evil, west := openAuthority(t, t.TempDir(), "east"), openAuthority(t, t.TempDir(), "east"), openAuthority(t, t.TempDir(), "west")
	files := clientFiles(t, east, Request{Role: RoleAgent, Name: "n1"})
	before := read(t, files.CAFile)
	three := slices.Concat(east.CertPEM(), evil.CertPEM(), openAuthority(t, t.TempDir(), "east").CertPEM())
	leaf := issue(t, east, Request{Role: RoleAdmin, Name: "x"}).CertPEM
	for name, test := range map[string]struct {
		text []byte
		want error
	}{
		"another's":                {evil.CertPEM(), ErrUntrusted},
		"another cluster's":        {west.CertPEM(), ErrWrongCluster},
		"another cluster's, too":   {slices.Concat(east.CertPEM(), west.CertPEM()), ErrWrongCluster},
		"none":                     {nil, ErrCertificate},
		"too many":                 {three, ErrCertificate},
		"what is not an authority": {slices.Concat(east.CertPEM(), encodeCertificate(parse(t, leaf))), ErrWrongCluster},
	} {
		if _, err := files.Trust("east", test.text); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !bytes.Equal(before, read(t, files.CAFile)) {
		t.Error("the file has changed")
	}
	// What is of another maker stays, and what is the same is not written.
	write(t, files.CAFile, slices.Concat(west.CertPEM(), evil.CertPEM(), east.CertPEM()))
	if done, err := files.Trust("east", east.CertPEM()); err != nil || !done {
		t.Fatal(done, err)
	}
	if got := parseAll(read(t, files.CAFile)); len(got) != 2 || !sameCertificates(got, []*x509.Certificate{east.old.cert, west.old.cert}) {
		t.Errorf("%d authorities", len(got))
	}
	if done, err := files.Trust("east", east.CertPEM()); err != nil || done {
		t.Error(done, err)
	}
}

func TestSignerOf(t *testing.T) {
	a, other := openAuthority(t, t.TempDir(), "east"), openAuthority(t, t.TempDir(), "east")
	chain := issue(t, a, Request{Role: RoleAgent, Name: "n1"}).CertPEM
	if leaf, by, ok := a.SignerOf(chain); !ok || by != a.Roots()[0].Fingerprint || !leaf.Equal(parse(t, chain)) {
		t.Error("it is not known")
	}
	for name, text := range map[string][]byte{
		"another's": issue(t, other, Request{Role: RoleAgent, Name: "n1"}).CertPEM, "none": nil,
		"too long": bytes.Repeat([]byte("x"), maxRequest+1), "alone": encodeCertificate(parse(t, chain)),
	} {
		if _, _, ok := a.SignerOf(text); ok {
			t.Error(name)
		}
	}
	if _, ok := a.RootOf(other.old.cert); ok {
		t.Error("another's")
	}
	if sum, ok := a.RootOf(a.old.cert); !ok || sum != a.Roots()[0].Fingerprint {
		t.Error("its own")
	}
}

// An authority that can not be read takes nobody's place.
func TestFinishUnreadable(t *testing.T) {
	dir := t.TempDir()
	a := openAuthority(t, dir, "east")
	must(t, a.Begin())
	must(t, a.Replace())
	old := read(t, filepath.Join(dir, caKeyFile))
	must(t, os.Chmod(filepath.Join(dir, nextDir, caKeyFile), 0o644))
	if err := a.Finish(); !errors.Is(err, ErrKey) {
		t.Errorf("finish: %v, want ErrKey", err)
	}
	if stage, _ := a.Stage(); stage != Replacing || len(a.Roots()) != 2 {
		t.Errorf("stage %q, %d roots", stage, len(a.Roots()))
	}
	if !bytes.Equal(old, read(t, filepath.Join(dir, caKeyFile))) {
		t.Error("the old key is gone")
	}
	must(t, os.Chmod(filepath.Join(dir, nextDir, caKeyFile), 0o600))
	must(t, a.Finish())
	if stage, _ := a.Stage(); stage != Single || len(a.Roots()) != 1 {
		t.Errorf("stage %q, %d roots", stage, len(a.Roots()))
	}
}

// A replacement that can not be told to others does not begin.
func TestBeginUntold(t *testing.T) {
	dir := t.TempDir()
	a := openAuthority(t, dir, "east")
	must(t, os.Remove(filepath.Join(dir, CAFile)))
	must(t, os.Mkdir(filepath.Join(dir, CAFile), 0o700)) // no file can be renamed to there
	if err := a.Begin(); err == nil {
		t.Error("begun")
	}
	if stage, _ := a.Stage(); stage != Single || len(a.Roots()) != 1 {
		t.Errorf("stage %q, %d roots", stage, len(a.Roots()))
	}
	must(t, os.Remove(filepath.Join(dir, CAFile)))
	must(t, a.Begin())
	if stage, _ := a.Stage(); stage != Spreading {
		t.Errorf("stage %q", stage)
	}
}
