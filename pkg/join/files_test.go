package join

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// shelf is a directory of joined clusters, and the authority of one of them.
type shelf struct {
	t         *testing.T
	authority *pki.Authority
	files     files
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(t.TempDir(), "pki"), "east")
	s := &shelf{t: t, authority: authority, files: files{dir: t.TempDir()}}
	s.must(err)
	_, err = s.files.load()
	s.must(err)
	return s
}

func (s *shelf) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) issue(ttl time.Duration, from time.Time) *pki.Pair {
	s.t.Helper()
	pair, err := s.authority.Issue(pki.Request{Role: pki.RolePeer, Name: "west", TTL: ttl, NotBefore: from})
	s.must(err)
	return pair
}

func (s *shelf) member(pair *pki.Pair) member {
	return member{Reads: &reading{
		Endpoints: []string{"https://192.0.2.1:2379"}, CA: string(s.authority.CertPEM()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM),
	}}
}

func (s *shelf) path(suffix string) string { return filepath.Join(s.files.dir, "east"+suffix) }

// holds says whether the pair on disk is this one.
func (s *shelf) holds(pair *pki.Pair) bool {
	s.t.Helper()
	cert, err := os.ReadFile(s.path(".crt"))
	s.must(err)
	key, err := os.ReadFile(s.path(".key"))
	s.must(err)
	return bytes.Equal(cert, pair.CertPEM) && bytes.Equal(key, pair.KeyPEM)
}

// A process that ended in the middle of a renewal, wherever that was, does not go
// back to the pair of the join at the next start if it got another one.
func TestSaveAfterBrokenRenewal(t *testing.T) {
	s := newShelf(t)
	joined, renewed := s.issue(time.Hour, time.Time{}), s.issue(2*time.Hour, time.Time{})
	next := filepath.Join(s.files.dir, ".east.key.next")
	s.must(s.files.save("east", s.member(joined)))
	s.must(os.WriteFile(next, renewed.KeyPEM, 0o600)) // before the certificate was replaced
	s.must(s.files.save("east", s.member(joined)))
	if !s.holds(joined) {
		t.Error("the pair of the join is gone before there was another one")
	}
	s.must(os.WriteFile(s.path(".crt"), renewed.CertPEM, 0o600)) // after it
	s.must(s.files.save("east", s.member(joined)))
	if !s.holds(renewed) {
		t.Error("the pair of the join replaced the renewed one")
	}
	s.must(os.Remove(s.path(".crt"))) // what is of no use is replaced
	s.must(os.WriteFile(next, renewed.KeyPEM, 0o600))
	s.must(s.files.save("east", s.member(joined)))
	if !s.holds(joined) {
		t.Error("the pair of the join is not put back")
	}
}

// What is on disk stays only if it comes of the join by renewal.
func TestSaveReplaces(t *testing.T) {
	s, other := newShelf(t), newShelf(t)
	from := time.Now().Add(-time.Minute).Truncate(time.Second)
	joined := s.issue(2*time.Hour, from)
	for name, tc := range map[string]struct {
		there *pki.Pair
		stays bool
	}{
		"a renewed one":                     {s.issue(3*time.Hour, from), true},
		"one from before, for longer":       {s.issue(3*time.Hour, from.Add(-time.Minute)), false},
		"one for a shorter time":            {s.issue(time.Hour, from), false},
		"another authority's, for longer":   {other.issue(3*time.Hour, from), false},
		"a pair that does not fit together": {&pki.Pair{CertPEM: s.issue(3*time.Hour, from).CertPEM, KeyPEM: joined.KeyPEM}, false},
	} {
		s.must(s.files.remove(s.files.origin("east"))) // which join the files are of is not known
		s.must(tc.there.Save(s.path(".crt"), s.path(".key")))
		s.must(s.files.save("east", s.member(joined)))
		if s.holds(tc.there) != tc.stays || s.holds(joined) == tc.stays {
			t.Errorf("%s: stays %t", name, !tc.stays)
		}
	}
}

// Who is put out is read no more, whatever can not be written or removed; and
// nothing of its keys is left.
func TestSaveRemoves(t *testing.T) {
	s := newShelf(t)
	s.must(s.files.save("east", s.member(s.issue(time.Hour, time.Time{}))))
	s.must(os.WriteFile(s.path("")+".next", nil, 0o600)) // not ours
	s.must(os.WriteFile(filepath.Join(s.files.dir, ".east.key.next"), nil, 0o600))
	s.must(os.RemoveAll(s.files.membersDir())) // as on a disk that takes nothing
	s.must(os.Remove(s.path(".key")))
	s.must(os.MkdirAll(filepath.Join(s.path(".key"), "full"), 0o700)) // can not be removed
	err := s.files.save("east", member{Out: time.Now()})
	if err == nil || !strings.Contains(err.Error(), "east.key") || !strings.Contains(err.Error(), "east.json") {
		t.Errorf("error %v", err)
	}
	for _, path := range []string{s.path(""), s.path(".crt"), s.path(".ca.crt"), filepath.Join(s.files.dir, ".east.key.next")} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	if _, err := os.Stat(s.path("") + ".next"); err != nil {
		t.Error(err)
	}
}

// A cluster may have the name of anything here.
func TestSaveOfAnyName(t *testing.T) {
	s := newShelf(t)
	m := s.member(s.issue(time.Hour, time.Time{}))
	s.must(s.files.save("members", m))
	if got, err := s.files.load(); err != nil || len(got) != 1 || got["members"].Reads == nil {
		t.Errorf("got %v, error %v", got, err)
	}
}
