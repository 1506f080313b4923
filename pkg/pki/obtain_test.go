package pki

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// obtaining is a client that has nothing, and who signs for it.
type obtaining struct {
	t         *testing.T
	authority *Authority
	files     ClientFiles
	want      Subject
	requests  []string
}

func newObtaining(t *testing.T) *obtaining {
	t.Helper()
	authority, err := OpenAuthority(t.TempDir(), "east")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "agent")
	return &obtaining{
		t: t, authority: authority, want: Subject{Cluster: "east", Role: RoleAgent, Name: "node-1"},
		files: ClientFiles{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "agent.crt"), KeyFile: filepath.Join(dir, "agent.key")},
	}
}

func (o *obtaining) sign(csrPEM []byte) (chain, authority []byte, err error) {
	csr, err := parseRequest(csrPEM)
	if err != nil {
		o.t.Fatal(err)
	}
	o.requests = append(o.requests, string(csr.RawSubjectPublicKeyInfo))
	chain, err = o.authority.Sign(Request{Role: o.want.Role, Name: o.want.Name, TTL: time.Hour}, csrPEM)
	return chain, o.authority.CertPEM(), err
}

func (o *obtaining) obtain() {
	o.t.Helper()
	if err := o.files.Obtain(o.want, o.sign); err != nil {
		o.t.Fatal(err)
	}
	if err := o.files.CheckSubject(o.want); err != nil {
		o.t.Error(err)
	}
	info, err := os.Stat(o.files.KeyFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		o.t.Errorf("the key: %v, %v", info, err)
	}
	if _, err := os.Stat(o.files.nextKey()); !errors.Is(err, os.ErrNotExist) {
		o.t.Errorf("the next key is there still: %v", err)
	}
}

func TestObtain(t *testing.T) {
	o := newObtaining(t)
	o.obtain()
	o.obtain() // has one
	if len(o.requests) != 1 {
		t.Errorf("%d certificates were asked for", len(o.requests))
	}
}

// What was signed and lost is signed again for the same key, whenever it was lost.
func TestObtainBrokenOff(t *testing.T) {
	o := newObtaining(t)
	lost := errors.New("the wire is cut")
	err := o.files.Obtain(o.want, func(csr []byte) (chain, authority []byte, err error) {
		_, _, _ = o.sign(csr)
		return nil, nil, lost
	})
	if !errors.Is(err, lost) {
		t.Fatal(err)
	}
	for _, path := range []string{o.files.CAFile, o.files.CertFile, o.files.KeyFile} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if info, err := os.Stat(o.files.nextKey()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key: %v, %v", info, err)
	}
	o.obtain()
	if len(o.requests) != 2 || o.requests[0] != o.requests[1] {
		t.Errorf("%d requests, of another key each", len(o.requests))
	}
}

// A process that ended after the certificate was written has its key.
func TestObtainBrokenOffLate(t *testing.T) {
	o := newObtaining(t)
	o.obtain()
	if err := os.Rename(o.files.KeyFile, o.files.nextKey()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.files.KeyFile, []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.obtain()
	if len(o.requests) != 1 {
		t.Error("another certificate was asked for")
	}
}

// An ended certificate of an authority that is no more is replaced, with its
// authority; one that is trusted already stays as it is, with what stands beside it.
func TestObtainAnew(t *testing.T) {
	o, other := newObtaining(t), newObtaining(t)
	other.files = o.files
	other.obtain()
	pair, err := other.authority.Issue(Request{Role: RoleAgent, Name: "node-1", TTL: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Save(o.files.CertFile, o.files.KeyFile); err != nil {
		t.Fatal(err)
	}
	if err := o.files.CheckSubject(o.want); !errors.Is(err, ErrExpired) {
		t.Fatal(err)
	}
	o.obtain()
	both := append(append([]byte{}, other.authority.CertPEM()...), o.authority.CertPEM()...)
	for _, err := range []error{os.WriteFile(o.files.CAFile, both, 0o644), os.Remove(o.files.CertFile)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	o.obtain()
	if text, err := os.ReadFile(o.files.CAFile); err != nil || string(text) != string(both) {
		t.Errorf("the authorities are %s, %v", text, err)
	}
}

// An answer that is no good leaves all as it was.
func TestObtainRefuses(t *testing.T) {
	o, other := newObtaining(t), newObtaining(t)
	for name, tc := range map[string]struct {
		sign func([]byte) ([]byte, []byte, error)
		want error
	}{
		"another node's": {func(csr []byte) ([]byte, []byte, error) {
			chain, err := o.authority.Sign(Request{Role: RoleAgent, Name: "node-2", TTL: time.Hour}, csr)
			return chain, o.authority.CertPEM(), err
		}, ErrSubject},
		"another authority's": {func(csr []byte) ([]byte, []byte, error) {
			chain, _, err := other.sign(csr)
			return chain, o.authority.CertPEM(), err
		}, ErrUntrusted},
		"another key's": {func([]byte) ([]byte, []byte, error) {
			_, csr, err := NewSigningRequest()
			if err != nil {
				return nil, nil, err
			}
			return o.sign(csr)
		}, ErrKey},
	} {
		if err := o.files.Obtain(o.want, tc.sign); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
		if _, err := os.Stat(o.files.CertFile); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a certificate was written: %v", name, err)
		}
	}
	o.obtain()
}
