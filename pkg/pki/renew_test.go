package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const week = 7 * 24 * time.Hour

func TestRenewAt(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct{ whole, left time.Duration }{
		{week + backdate, week / 3},
		{time.Minute + backdate, 20 * time.Second},
		{6 * time.Minute, 2 * time.Minute}, // of a signer that puts nothing back
	} {
		end := begin.Add(tc.whole)
		if got := end.Sub(RenewAt(&x509.Certificate{NotBefore: begin, NotAfter: end})); got != tc.left {
			t.Errorf("%s: renewed %s before the end, want %s", tc.whole, got, tc.left)
		}
	}
}

// signing returns what Renew asks, and counts how often.
func signing(a *Authority, r Request, asked *int) func([]byte) ([]byte, error) {
	return func(csrPEM []byte) ([]byte, error) {
		*asked++
		return a.Sign(r, csrPEM)
	}
}

func TestRenew(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := openAuthority(t, dir, "east")
		request := Request{Role: RoleAgent, Name: "n1", TTL: week}
		files := clientFiles(t, a, request)
		if err := os.Chmod(files.KeyFile, 0o640); err != nil {
			t.Fatal(err)
		}
		first, err := files.load()
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		for _, step := range []struct {
			after   time.Duration
			renewed bool
		}{{0, false}, {week*2/3 - time.Minute, false}, {2 * time.Minute, true}, {time.Minute, false}, {week * 2 / 3, true}} {
			time.Sleep(step.after)
			before := asked
			renewed, err := files.Renew(time.Now(), signing(a, request, &asked))
			if err != nil || renewed != step.renewed || (asked > before) != renewed {
				t.Errorf("after another %s: renewed %t, asked %d times, error %v", step.after, renewed, asked-before, err)
			}
		}
		now, err := files.load()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(now.pair.Leaf.RawSubjectPublicKeyInfo, first.pair.Leaf.RawSubjectPublicKeyInfo) {
			t.Error("the key is the old one")
		}
		if got, err := SubjectOf(now.pair.Leaf); err != nil || got != (Subject{"east", RoleAgent, "n1"}) {
			t.Errorf("subject %v, error %v", got, err)
		}
		if info, err := os.Stat(files.KeyFile); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("the key has mode %v, error %v", info.Mode(), err)
		}
		if _, err := os.Stat(files.nextKey()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a key is left: %v", err)
		}
	})
}

// Whatever goes wrong, what is there stays and goes on working.
func TestRenewFails(t *testing.T) {
	a, other := openAuthority(t, t.TempDir(), "east"), openAuthority(t, t.TempDir(), "west")
	request := Request{Role: RoleAgent, Name: "n1", TTL: time.Hour}
	broken := errors.New("broken")
	var asked int
	of := func(a *Authority, r Request) func([]byte) ([]byte, error) { return signing(a, r, &asked) }
	for name, tc := range map[string]struct {
		now   time.Duration
		sign  func([]byte) ([]byte, error)
		spoil func(t *testing.T, f ClientFiles)
		want  error
		asked bool
	}{
		"no answer":       {sign: func([]byte) ([]byte, error) { asked++; return nil, broken }, want: broken, asked: true},
		"an empty answer": {sign: func([]byte) ([]byte, error) { asked++; return nil, nil }, want: ErrCertificate, asked: true},
		"a huge answer": {sign: func(csrPEM []byte) ([]byte, error) {
			asked++
			chain, err := a.Sign(request, csrPEM)
			return append(chain, bytes.Repeat([]byte("#"), maxText)...), err
		}, want: ErrCertificate, asked: true},
		"another key's":       {sign: func([]byte) ([]byte, error) { asked++; return a.Sign(request, csr(t)) }, want: ErrCertificate, asked: true},
		"another node's":      {sign: of(a, Request{Role: RoleAgent, Name: "n2", TTL: time.Hour}), want: ErrSubject, asked: true},
		"another role's":      {sign: of(a, Request{Role: RolePeer, Name: "n1", TTL: time.Hour}), want: ErrSubject, asked: true},
		"another cluster's":   {sign: of(other, request), want: ErrSubject, asked: true},
		"one that has ended":  {sign: of(a, Request{Role: RoleAgent, Name: "n1", TTL: time.Nanosecond}), want: ErrExpired, asked: true},
		"another authority's": {sign: of(openAuthority(t, t.TempDir(), "east"), request), want: ErrUntrusted, asked: true},
		"a shorter one":       {sign: of(a, Request{Role: RoleAgent, Name: "n1", TTL: 55 * time.Minute}), want: ErrCertificate, asked: true},
		"too late":            {now: 2 * time.Hour, sign: of(a, request), want: ErrExpired},
		"no certificate":      {sign: of(a, request), spoil: func(_ *testing.T, f ClientFiles) { _ = os.Remove(f.CertFile) }, want: fs.ErrNotExist},
		"no key":              {sign: of(a, request), spoil: func(_ *testing.T, f ClientFiles) { _ = os.Remove(f.KeyFile) }, want: fs.ErrNotExist},
		"no room for the key": {sign: of(a, request), spoil: func(t *testing.T, f ClientFiles) {
			if err := os.Mkdir(f.nextKey(), 0o700); err != nil {
				t.Fatal(err)
			}
		}}, // the error is the file system's own
		"another process": {sign: of(a, request), spoil: func(t *testing.T, f ClientFiles) {
			unlock, err := f.lock()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(unlock)
		}, want: ErrBusy},
	} {
		t.Run(name, func(t *testing.T) {
			files := clientFiles(t, a, request)
			was := read(t, files.CertFile)
			if tc.spoil != nil {
				tc.spoil(t, files)
			}
			asked = 0
			now := tc.now
			if now == 0 {
				now = 50 * time.Minute
			}
			renewed, err := files.Renew(time.Now().Add(now), tc.sign)
			if renewed || err == nil || tc.want != nil && !errors.Is(err, tc.want) || (asked > 0) != tc.asked {
				t.Errorf("renewed %t, asked %d times, error %v", renewed, asked, err)
			}
			if tc.spoil != nil {
				return
			}
			if !bytes.Equal(read(t, files.CertFile), was) {
				t.Error("the certificate was changed")
			}
			if _, err := files.load(); err != nil {
				t.Errorf("the files are of no use any more: %v", err)
			}
			if _, err := os.Stat(files.nextKey()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a key is left: %v", err)
			}
		})
	}
}

func csr(t *testing.T) []byte {
	t.Helper()
	_, csrPEM, err := NewSigningRequest()
	if err != nil {
		t.Fatal(err)
	}
	return csrPEM
}

// A process that ends in the middle of a renewal leaves files that the next one
// can use, and finishes.
func TestRenewBrokenOff(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	request := Request{Role: RoleAgent, Name: "n1", TTL: time.Hour}
	files := clientFiles(t, a, request)
	next := issue(t, a, request)
	write(t, files.nextKey(), next.KeyPEM) // before the certificate was replaced
	if _, err := files.load(); err != nil {
		t.Fatal(err)
	}
	asked := 0
	if renewed, err := files.Renew(time.Now(), signing(a, request, &asked)); err != nil || renewed {
		t.Errorf("renewed %t, error %v", renewed, err)
	}
	write(t, files.CertFile, next.CertPEM) // after it
	if _, err := files.load(); err != nil {
		t.Fatal(err)
	}
	if renewed, err := files.Renew(time.Now(), signing(a, request, &asked)); err != nil || renewed || asked > 0 {
		t.Errorf("renewed %t, asked %d times, error %v", renewed, asked, err)
	}
	if !bytes.Equal(read(t, files.KeyFile), next.KeyPEM) {
		t.Error("the key is not in its place")
	}
	if _, err := files.load(); err != nil {
		t.Fatal(err)
	}
}

// While one authority replaces another both are trusted, and either may have signed.
func TestRenewByAnotherTrusted(t *testing.T) {
	old, a := openAuthority(t, t.TempDir(), "east"), openAuthority(t, t.TempDir(), "east")
	request := Request{Role: RoleAgent, Name: "n1", TTL: time.Hour}
	files := clientFiles(t, old, request)
	write(t, files.CAFile, append(old.CertPEM(), a.CertPEM()...))
	asked := 0
	if renewed, err := files.Renew(time.Now().Add(50*time.Minute), signing(a, request, &asked)); err != nil || !renewed {
		t.Errorf("renewed %t, error %v", renewed, err)
	}
}

// Who makes connections meanwhile always finds a pair; of two that renew one does.
func TestRenewBesideReaders(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	request := Request{Role: RoleAgent, Name: "n1", TTL: time.Hour}
	files := clientFiles(t, a, request)
	for range 20 {
		var together sync.WaitGroup
		for range 2 {
			together.Go(func() {
				if _, err := files.load(); err != nil {
					t.Error(err)
				}
			})
			together.Go(func() {
				asked := 0
				_, err := files.Renew(time.Now().Add(50*time.Minute), signing(a, request, &asked))
				if err != nil && !errors.Is(err, ErrBusy) {
					t.Error(err)
				}
			})
		}
		together.Wait()
	}
	if entries, err := filepath.Glob(filepath.Join(filepath.Dir(files.KeyFile), ".client.key.next*")); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// A pair is replaced when nobody renews it, and not over one that is to stay.
func TestReplace(t *testing.T) {
	a := openAuthority(t, t.TempDir(), "east")
	request := Request{Role: RoleAgent, Name: "n1", TTL: time.Hour}
	files := clientFiles(t, a, request)
	was, next := read(t, files.CertFile), issue(t, a, request)
	if err := files.Replace(func(there Held) Held { return there }); err != nil || !bytes.Equal(read(t, files.CertFile), was) {
		t.Errorf("replaced what was to stay: %v", err)
	}
	unlock, err := files.lock()
	if err != nil {
		t.Fatal(err)
	}
	replaced := make(chan error, 1)
	go func() { replaced <- files.Replace(func(there Held) Held { return Held{CA: there.CA, Pair: *next} }) }()
	unlock()
	if err := <-replaced; err != nil || !bytes.Equal(read(t, files.CertFile), next.CertPEM) || !bytes.Equal(read(t, files.KeyFile), next.KeyPEM) {
		t.Errorf("not replaced: %v", err)
	}
}
