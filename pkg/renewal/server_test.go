package renewal

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal/renewalpb"
)

func request(t *testing.T) *renewalpb.RenewRequest {
	t.Helper()
	_, csrPEM, err := pki.NewSigningRequest()
	must(t, err)
	return &renewalpb.RenewRequest{Request: csrPEM}
}

func certificateOf(t *testing.T, dir string, chain []byte) *x509.Certificate {
	t.Helper()
	path := filepath.Join(dir, "chain.crt")
	must(t, os.WriteFile(path, chain, 0o600))
	cert, err := pki.ClientFiles{CertFile: path}.Certificate()
	must(t, err)
	return cert
}

// The new certificate is for the caller, whatever the request says, and never
// ends before the one that the caller has.
func TestRenewForTheCaller(t *testing.T) {
	for _, tc := range []struct {
		subject   pki.Subject
		has, gets time.Duration
	}{
		{agent(), time.Hour, life},
		{agent(), 100 * day, 100 * day},
		{pki.Subject{Cluster: "east", Role: pki.RolePeer, Name: "west"}, time.Hour, 30 * day},
	} {
		dir := t.TempDir()
		b := newBed(t, dir, tc.subject, tc.has)
		old := b.certificate()
		answer := new(renewalpb.RenewResponse)
		must(t, b.Invoke(t.Context(), renewalpb.Renewal_Renew_FullMethodName, request(t), answer))
		cert := certificateOf(t, dir, answer.Chain)
		if got, err := pki.SubjectOf(cert); err != nil || got != tc.subject {
			t.Errorf("subject %v, error %v", got, err)
		}
		if left := time.Until(cert.NotAfter); left > tc.gets || left < tc.gets-time.Hour || !cert.NotBefore.Equal(old.NotBefore) {
			t.Errorf("%s with %s got %s, from %s", tc.subject, tc.has, left, cert.NotBefore)
		}
		if !b.extended.Equal(cert.NotAfter) {
			t.Errorf("extended until %s, the certificate ends at %s", b.extended, cert.NotAfter)
		}
		if n := value(t, b.server.signed.WithLabelValues(string(tc.subject.Role))); n != 1 {
			t.Errorf("%v were counted", n)
		}
	}
}

func TestRenewRefuses(t *testing.T) {
	b := newBed(t, t.TempDir(), agent(), time.Hour)
	renew := func(m *renewalpb.RenewRequest) codes.Code {
		return status.Code(b.Invoke(t.Context(), renewalpb.Renewal_Renew_FullMethodName, m, new(renewalpb.RenewResponse)))
	}
	for _, text := range []string{"", "x", string(b.authority.CertPEM())} {
		if got := renew(&renewalpb.RenewRequest{Request: []byte(text)}); got != codes.InvalidArgument {
			t.Errorf("%q: %v", text, got)
		}
	}
	for _, subject := range []pki.Subject{{}, {Cluster: "east", Role: pki.RoleAdmin, Name: "admin"}, {Cluster: "east", Role: pki.RoleServer, Name: "east"}} {
		b.subject = subject
		if got := renew(request(t)); got != codes.PermissionDenied {
			t.Errorf("%s: %v", subject, got)
		}
	}
	b.subject = agent()
	b.server.cfg.Certificate = func(context.Context) (*x509.Certificate, bool) { return nil, false }
	if got := renew(request(t)); got != codes.PermissionDenied {
		t.Errorf("without a certificate: %v", got)
	}
	if !b.extended.IsZero() {
		t.Error("a connection was extended")
	}
}

// Nobody keeps the signer busy, and nobody is held up by somebody else.
func TestRenewTooOften(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, dir, agent(), time.Hour)
		renew := func() codes.Code {
			return status.Code(b.Invoke(t.Context(), renewalpb.Renewal_Renew_FullMethodName, request(t), new(renewalpb.RenewResponse)))
		}
		for range renewBurst {
			if got := renew(); got != codes.OK {
				t.Fatal(got)
			}
		}
		if got := renew(); got != codes.ResourceExhausted {
			t.Errorf("one more: %s", got)
		}
		b.subject.Name = "n2"
		if got := renew(); got != codes.OK {
			t.Errorf("another node: %s", got)
		}
		b.subject.Name = "n1"
		time.Sleep(renewEvery)
		if got := renew(); got != codes.OK {
			t.Errorf("later: %s", got)
		}
	})
}

func TestReport(t *testing.T) {
	b := newBed(t, t.TempDir(), agent(), time.Hour)
	report := func(m *renewalpb.ReportRequest) codes.Code {
		return status.Code(b.Invoke(t.Context(), renewalpb.Renewal_Report_FullMethodName, m, new(renewalpb.ReportResponse)))
	}
	if s := b.server.Agent("n1"); !s.Ends.IsZero() {
		t.Errorf("before the first: %+v", s)
	}
	if got := report(&renewalpb.ReportRequest{Ends: 1700000000, Problem: "a\x1b[31m\n" + strings.Repeat("b", 2*maxProblem)}); got != codes.OK {
		t.Error(got)
	}
	s := b.server.Agent("n1")
	if s.Ends.Unix() != 1700000000 || !strings.HasPrefix(s.Problem, "a[31mb") || len(s.Problem) > maxProblem {
		t.Errorf("got %+v", s)
	}
	b.subject.Role = pki.RolePeer
	if got := report(&renewalpb.ReportRequest{}); got != codes.PermissionDenied {
		t.Errorf("a peer: %v", got)
	}
}

// Who had the old authority's key has certificates of it for as long as it likes, and
// gets none of the new one for longer than others, nor any once the old one is gone.
func TestRenewOfAnotherAuthority(t *testing.T) {
	dir := t.TempDir()
	b := newBed(t, dir, agent(), 100*day)
	b.away(dir)
	must(t, b.authority.Begin())
	must(t, b.authority.Replace())
	_, err := b.files.Trust("east", b.authority.Bundle())
	must(t, err)
	k := NewKeeper(KeeperConfig{Files: b.files, Cluster: "east", Metrics: b.metrics})
	renew := func() error {
		_, err := b.files.RenewEarly(time.Now(), k.ask(t.Context(), renewalpb.NewRenewalClient(b)))
		return err
	}
	must(t, renew())
	if _, by, err := b.files.Trusted(); err != nil || by != b.authority.Roots()[1].Fingerprint || b.left() > life {
		t.Errorf("it is good for %s: %v", b.left(), err)
	}
	must(t, b.authority.Finish())
	b.moved = sha256.Sum256(b.top.Raw)
	if err := renew(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("by a connection from before: %v", err)
	}
	b.moved = b.authority.Roots()[0].Fingerprint // it has followed by that connection
	must(t, renew())
	if b.left() > life {
		t.Errorf("who followed has one that is good for %s", b.left())
	}
	b.top = parse(t, b.authority.CertPEM())
	must(t, renew())
}
