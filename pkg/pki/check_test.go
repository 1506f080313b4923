package pki

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCheckClient(t *testing.T) {
	east, err := OpenAuthority(t.TempDir(), "east")
	if err != nil {
		t.Fatal(err)
	}
	other, err := OpenAuthority(t.TempDir(), "east")
	if err != nil {
		t.Fatal(err)
	}
	key, request, err := NewSigningRequest()
	if err != nil {
		t.Fatal(err)
	}
	otherKey, _, err := NewSigningRequest()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(a *Authority, r Request) []byte {
		t.Helper()
		chain, err := a.Sign(r, request)
		if err != nil {
			t.Fatal(err)
		}
		return chain
	}
	west := Request{Role: RolePeer, Name: "west", TTL: time.Hour}
	want := Subject{Cluster: "east", Role: RolePeer, Name: "west"}
	good := sign(east, west)
	until, err := CheckClient(east.CertPEM(), good, key, want)
	if left := time.Until(until); err != nil || left > time.Hour || left < 50*time.Minute {
		t.Errorf("a good one: %s left, %v", left, err)
	}
	server, err := east.Issue(Request{Role: RoleServer, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		authority, chain, key []byte
		want                  error
	}{
		"for another":       {east.CertPEM(), sign(east, Request{Role: RolePeer, Name: "north", TTL: time.Hour}), key, ErrSubject},
		"another role":      {east.CertPEM(), sign(east, Request{Role: RoleAgent, Name: "west", TTL: time.Hour}), key, ErrSubject},
		"a server's":        {east.CertPEM(), server.CertPEM, server.KeyPEM, ErrSubject},
		"another key's":     {east.CertPEM(), good, otherKey, ErrKey},
		"another authority": {east.CertPEM(), sign(other, west), key, ErrUntrusted},
		"no issuer":         {east.CertPEM(), encodeCertificate(parse(t, good)), key, ErrUntrusted},
		"not yet":           {east.CertPEM(), sign(east, Request{Role: RolePeer, Name: "west", TTL: 2 * time.Hour, NotBefore: time.Now().Add(time.Hour)}), key, ErrNotYetValid},
		"nothing":           {east.CertPEM(), nil, key, ErrCertificate},
		"no authority":      {nil, good, key, ErrCertificate},
	} {
		if _, err := CheckClient(tc.authority, tc.chain, tc.key, want); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestNotBefore(t *testing.T) {
	a, err := OpenAuthority(t.TempDir(), "east")
	if err != nil {
		t.Fatal(err)
	}
	_, request, err := NewSigningRequest()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	for _, tc := range []struct{ ask, least, most time.Time }{
		{time.Time{}, now.Add(-backdate), now.Add(-backdate + time.Minute)},
		{now.Add(-time.Hour), now.Add(-backdate), now.Add(-backdate + time.Minute)},
		{now.Add(-time.Minute), now.Add(-time.Minute), now.Add(-time.Minute)},
	} {
		chain, err := a.Sign(Request{Role: RolePeer, Name: "west", TTL: time.Hour, NotBefore: tc.ask}, request)
		if err != nil {
			t.Fatal(err)
		}
		if from := parse(t, chain).NotBefore; from.Before(tc.least) || from.After(tc.most) {
			t.Errorf("asked for %s: valid from %s", tc.ask, from)
		}
	}
}

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, step := range []struct {
		text string
		mode os.FileMode
		same bool
	}{{"a", 0o644, false}, {"a", 0o644, true}, {"a", 0o600, false}, {"b", 0o600, false}} {
		before, _ := os.Stat(path)
		if err := WriteFile(path, []byte(step.text), step.mode); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		after, err2 := os.Stat(path)
		if errors.Join(err, err2) != nil || string(text) != step.text || after.Mode().Perm() != step.mode {
			t.Errorf("%+v: %q, %v, %v", step, text, after, err)
		}
		if step.same != (before != nil && os.SameFile(before, after)) {
			t.Errorf("%+v: written, or left, where it should not", step)
		}
	}
}
