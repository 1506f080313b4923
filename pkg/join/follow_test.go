package join

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// A peer that has replaced its authority is not forgotten at the next start, and a
// new join counts before what is there of an older one.
func TestSaveAfterRotation(t *testing.T) {
	s := newShelf(t)
	from := time.Now().Add(-time.Minute).Truncate(time.Second)
	joined := s.member(s.issue(time.Hour, from))
	s.must(s.files.save("east", joined))
	trusted := func() []byte {
		text, err := os.ReadFile(s.path(".ca.crt"))
		s.must(err)
		return text
	}
	old := trusted()
	follow := func(step func() error) {
		s.must(step())
		_, err := paths(s.path("")).Trust("east", s.authority.Bundle())
		s.must(err)
		s.must(s.files.save("east", joined))
		if !bytes.Equal(trusted(), s.authority.Bundle()) {
			t.Error("the authorities of the join are back")
		}
	}
	follow(s.authority.Begin)
	follow(s.authority.Replace)
	renewed := s.issue(time.Hour, from)
	s.must(renewed.Save(s.path(".crt"), s.path(".key")))
	follow(s.authority.Finish)
	if !s.holds(renewed) {
		t.Error("the pair of the join is back")
	}

	again := s.member(s.issue(2*time.Hour, time.Time{}))
	other, err := pki.OpenAuthority(filepath.Join(t.TempDir(), "pki"), "east")
	s.must(err)
	pair, err := other.Issue(pki.Request{Role: pki.RolePeer, Name: "west", TTL: time.Hour})
	s.must(err)
	again.Reads.CA, again.Reads.Cert, again.Reads.Key = string(other.CertPEM()), string(pair.CertPEM), string(pair.KeyPEM)
	s.must(s.files.save("east", again))
	if !s.holds(pair) || !bytes.Equal(trusted(), other.CertPEM()) {
		t.Error("a new join does not count")
	}
	s.must(s.files.save("east", member{Out: time.Now()}))
	if _, err := os.Stat(s.files.origin("east")); err == nil {
		t.Error("the origin is left")
	}
	if len(old) == 0 {
		t.Error("nothing was trusted")
	}
}

// Another join within the same second brings another pair, which counts.
func TestSaveAnotherJoinAtOnce(t *testing.T) {
	s := newShelf(t)
	from := time.Now().Add(-time.Minute).Truncate(time.Second)
	for range 2 {
		pair := s.issue(time.Hour, from)
		s.must(s.files.save("east", s.member(pair)))
		if !s.holds(pair) {
			t.Error("the pair of an earlier join stays")
		}
	}
}

// Records are saved while the pair is renewed by an authority that the record does not
// know: neither the pair nor the authority is taken for a stranger's.
func TestSaveDuringRotation(t *testing.T) {
	s := newShelf(t)
	from := time.Now().Add(-time.Minute).Truncate(time.Second)
	joined := s.member(s.issue(time.Hour, from))
	s.must(s.files.save("east", joined))
	s.must(s.authority.Begin())
	s.must(s.authority.Replace())
	s.must(os.Remove(s.files.member("east"))) // is written first by each save

	saved := make(chan error, 1)
	_, err := paths(s.path("")).Trust("east", s.authority.Bundle())
	s.must(err)
	_, err = paths(s.path("")).RenewEarly(time.Now(), func(csrPEM []byte) ([]byte, error) {
		go func() { saved <- s.files.save("east", joined) }()
		for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(time.Millisecond) {
			if _, err := os.Stat(s.files.member("east")); err == nil {
				break
			}
		}
		return s.authority.Sign(pki.Request{Role: pki.RolePeer, Name: "west", TTL: 2 * time.Hour, NotBefore: from}, csrPEM)
	})
	s.must(err)
	renewed, err := os.ReadFile(s.path(".crt"))
	s.must(err)
	err = <-saved
	if errors.Is(err, pki.ErrBusy) { // the renewal took long; the book saves again, too
		err = s.files.save("east", joined)
	}
	s.must(err)
	if now, err := os.ReadFile(s.path(".crt")); err != nil || !bytes.Equal(now, renewed) || string(now) == joined.Reads.Cert {
		t.Errorf("the renewed pair is not there any more: %v", err)
	}
	if now, err := os.ReadFile(s.path(".ca.crt")); err != nil || !bytes.Equal(now, s.authority.Bundle()) {
		t.Errorf("the new authority is not trusted any more: %v", err)
	}
}
