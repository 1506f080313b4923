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

	"github.com/causeway-mesh/causeway/pkg/file"
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
			must(t, file.Write(filepath.Join(dir, name), text, 0o600))
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
	if got := Certificates(read(t, files.CAFile)); len(got) != 2 || !sameCertificates(got, []*x509.Certificate{east.old.cert, west.old.cert}) {
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

// The old authority stays while the next one would not load.
func TestFinishUnloadable(t *testing.T) {
	dir := t.TempDir()
	a := openAuthority(t, dir, "east")
	must(t, a.Begin())
	must(t, a.Replace())
	next, before := filepath.Join(dir, nextDir), a.Bundle()
	key, cert := read(t, filepath.Join(next, caKeyFile)), read(t, filepath.Join(next, CAFile))
	other := filepath.Join(t.TempDir(), "other")
	openAuthority(t, other, "east")
	for name, damage := range map[string]func(){
		"wrong mode": func() { must(t, os.Chmod(filepath.Join(next, caKeyFile), 0o644)) },
		"no key":     func() { must(t, os.Remove(filepath.Join(next, caKeyFile))) },
		"another one": func() {
			must(t, file.Write(filepath.Join(next, caKeyFile), read(t, filepath.Join(other, caKeyFile)), 0o600))
			must(t, file.Write(filepath.Join(next, CAFile), read(t, filepath.Join(other, CAFile)), 0o644))
		},
	} {
		old := read(t, filepath.Join(dir, caKeyFile))
		damage()
		if err := a.Finish(); err == nil || !strings.Contains(err.Error(), "can not take over") {
			t.Errorf("%s: %v", name, err)
		}
		if stage, _ := a.Stage(); stage != Replacing || !bytes.Equal(a.Bundle(), before) || !bytes.Equal(read(t, filepath.Join(dir, caKeyFile)), old) {
			t.Errorf("%s: it is in %q, or the old key is gone", name, stage)
		}
		must(t, file.Write(filepath.Join(next, caKeyFile), key, 0o600))
		must(t, file.Write(filepath.Join(next, CAFile), cert, 0o644))
	}
	must(t, a.Finish())
	if !bytes.Equal(openAuthority(t, dir, "east").Bundle(), cert) || !bytes.Equal(a.Bundle(), cert) {
		t.Error("the next one is not the only one")
	}
	must(t, a.Begin())
}

// An old authority that ended while it was replaced does not keep the next one from
// starting; one that does not sign yet is not helped.
func TestOldEnds(t *testing.T) {
	dir := t.TempDir()
	a := openAuthority(t, dir, "east")
	old := a.old.cert
	must(t, a.Begin())
	// The next one is made to end later, as it does when the old one is years old.
	next := filepath.Join(dir, nextDir)
	template := *a.next.cert
	template.NotAfter = old.NotAfter.Add(365 * 24 * time.Hour)
	cert, err := (&signer{cert: &template, key: a.next.key}).sign(&template, a.next.key.Public())
	must(t, err)
	must(t, file.Write(filepath.Join(next, CAFile), encodeCertificate(cert), 0o644))
	after := old.NotAfter.Add(time.Hour)
	open := func(now time.Time) (*Authority, error) {
		b := &Authority{cluster: "east", dir: dir, changed: make(chan struct{})}
		return b, b.load(now)
	}
	if _, err := open(after); !errors.Is(err, ErrExpired) {
		t.Errorf("while the old one signs: %v", err)
	}
	again := openAuthority(t, dir, "east")
	must(t, again.Replace())
	key := read(t, filepath.Join(dir, caKeyFile))
	if _, err := open(cert.NotAfter.Add(time.Hour)); !errors.Is(err, ErrExpired) || !bytes.Equal(read(t, filepath.Join(dir, caKeyFile)), key) {
		t.Errorf("both have ended: %v, or the old key is gone", err)
	}
	b, err := open(after)
	must(t, err)
	sum := Fingerprint(old)
	if stage, _ := b.Stage(); stage != Single || !bytes.Equal(b.Bundle(), encodeCertificate(cert)) || b.Replaced() != hex.EncodeToString(sum[:]) {
		t.Errorf("it is in %q, or has replaced %s", stage, b.Replaced())
	}
	if bytes.Equal(read(t, filepath.Join(dir, caKeyFile)), key) {
		t.Error("the old key is there")
	}
}

// What could not be deleted is at the next try.
func TestFinishAgain(t *testing.T) {
	dir := t.TempDir()
	a := openAuthority(t, dir, "east")
	must(t, a.Begin())
	must(t, a.Replace())
	blocked := filepath.Join(dir, "peer.pem") // after the key
	must(t, os.Remove(blocked))
	must(t, os.Mkdir(blocked, 0o700))
	if err := a.Finish(); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if len(a.Roots()) != 2 {
		t.Error("the old authority is not trusted, though it is not gone")
	}
	must(t, os.Remove(blocked))
	must(t, a.Finish())
	if stage, _ := a.Stage(); stage != Single || !bytes.Equal(openAuthority(t, dir, "east").Bundle(), a.Bundle()) {
		t.Errorf("it is in %q", stage)
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

// A start removes from what is trusted what was never begun.
func TestBeginBrokenOff(t *testing.T) {
	dir := t.TempDir()
	a := openAuthority(t, dir, "east")
	record := filepath.Join(dir, recordFile)
	must(t, os.Mkdir(record, 0o700)) // no file can be renamed to there
	if err := a.Begin(); err == nil {
		t.Error("begun")
	}
	if stage, _ := a.Stage(); stage != Single || !bytes.Equal(read(t, a.CertFile()), a.CertPEM()) {
		t.Errorf("stage %q, or the file has more than is trusted", stage)
	}
	must(t, os.Remove(record))
	must(t, a.Begin())
	must(t, os.Remove(record)) // as if it had ended right before that was written
	again := openAuthority(t, dir, "east")
	if !bytes.Equal(read(t, a.CertFile()), again.CertPEM()) || len(again.Roots()) != 1 {
		t.Error("the file has more than is trusted")
	}
}

// A record that is on the disk counts, whatever is said about writing it.
func TestRecordReads(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	if a.reads([]byte("{}")) {
		t.Error("there is none")
	}
	must(t, a.Begin())
	text := read(t, filepath.Join(a.dir, recordFile))
	if !a.reads(text) || a.reads(append(text, ' ')) {
		t.Error("it is not what was written")
	}
}
