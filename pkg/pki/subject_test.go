package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSubjectOf(t *testing.T) {
	longest := strings.Repeat("n", maxName)
	for _, test := range []struct {
		uri  string
		ca   bool
		want Subject
	}{
		{uri: "causeway://east/server/east", want: Subject{"east", RoleServer, "east"}},
		{uri: "causeway://east/peer/west", want: Subject{"east", RolePeer, "west"}},
		{uri: "causeway://east/agent/node-1.rack.example", want: Subject{"east", RoleAgent, "node-1.rack.example"}},
		{uri: "causeway://east/agent/" + longest, want: Subject{"east", RoleAgent, longest}},
		{uri: "causeway://east/admin/admin", want: Subject{"east", RoleAdmin, "admin"}},

		{uri: "causeway://east/authority/east", ca: true},
		{uri: "causeway://east/authority/east"},
		{uri: "causeway://east/peer/west", ca: true},
		{uri: "causeway://east/server/west"},
		{uri: "causeway://east/root/west"},
		{uri: "causeway://east/peer/"},
		{uri: "causeway://east/peer"},
		{uri: "causeway://east"},
		{uri: "causeway:///peer/west"},
		{uri: "causeway://EAST/peer/west"},
		{uri: "causeway://east/peer/West"},
		{uri: "causeway://east/peer/west/more"},
		{uri: "causeway://east//peer/west"},
		{uri: "causeway://east/peer/we%73t"},
		{uri: "causeway://east/agent/..%2fadmin"},
		{uri: "causeway://admin@east/peer/west"},
		{uri: "causeway://east:1/peer/west"},
		{uri: "causeway://east/peer/west?role=admin"},
		{uri: "causeway://east/peer/west#admin"},
		{uri: "causeway://east/agent/" + longest + "n"},
		{uri: "spiffe://east/peer/west"},
	} {
		u, err := url.Parse(test.uri)
		if err != nil {
			t.Fatal(err)
		}
		got, err := SubjectOf(&x509.Certificate{URIs: []*url.URL{u}, IsCA: test.ca})
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (ca %t): %s", test.uri, test.ca, diff)
		}
		if refused := test.want == (Subject{}); refused != errors.Is(err, ErrSubject) {
			t.Errorf("%s (ca %t): error %v", test.uri, test.ca, err)
		}
	}
}

func TestSubjectOfSeveralNames(t *testing.T) {
	one, two := Subject{"east", RolePeer, "west"}, Subject{"east", RoleAdmin, "admin"}
	for _, uris := range [][]*url.URL{nil, {one.uri(), two.uri()}} {
		if _, err := SubjectOf(&x509.Certificate{URIs: uris}); !errors.Is(err, ErrSubject) {
			t.Errorf("%v: error %v", uris, err)
		}
	}
}

func TestSubjectFromContext(t *testing.T) {
	if _, ok := SubjectFromContext(context.Background()); ok {
		t.Error("nobody is somebody")
	}
	want := Subject{"east", RoleAgent, "node-1"}
	got, ok := SubjectFromContext(ContextWithSubject(context.Background(), want))
	if !ok || got != want {
		t.Errorf("subject %v, %t", got, ok)
	}
}

// FuzzSubjectOf checks that what is taken is spelt in one way only.
func FuzzSubjectOf(f *testing.F) {
	f.Add("causeway://east/peer/west")
	f.Add("causeway://east/agent/node-1.example")
	f.Add("causeway://u@east:1/agent/a%2fb?x#y")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		s, err := SubjectOf(&x509.Certificate{URIs: []*url.URL{u}})
		if err != nil {
			return
		}
		if s.String() != u.String() {
			t.Errorf("%q gives %q", u, s)
		}
		if err := s.validate(); err != nil {
			t.Error(err)
		}
	})
}
