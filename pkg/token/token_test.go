package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

func wantRefused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line with %q", err, want)
	}
}

// A token that one replica made is good at the other, once; the same key may come
// again, at any replica.
func TestEnrol(t *testing.T) {
	t.Parallel()
	s := newSite(t, "east")
	pass, files := s.token("node-1", time.Hour), newFiles(t)
	check(t, stranger.Enrol(within(t), files, s.at(pass, 1)))
	check(t, files.CheckSubject(pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: "node-1"}))
	cert, err := files.Certificate()
	check(t, err)
	if left := time.Until(cert.NotAfter); left > time.Hour || left < 50*time.Minute {
		t.Errorf("it is good for %s", left)
	}
	if text, err := os.ReadFile(files.CAFile); err != nil || !bytes.Equal(text, s.authority.CertPEM()) {
		t.Errorf("the authority is %s, %v", text, err)
	}
	wantRefused(t, stranger.Enrol(within(t), newFiles(t), s.at(pass, 0)), "the token was used already, by another key, at ")

	// The certificate was lost on its way, the key is there.
	next := strings.Replace(files.KeyFile, "agent.key", ".agent.key.next", 1)
	check(t, os.Rename(files.KeyFile, next), os.Remove(files.CertFile))
	check(t, stranger.Enrol(within(t), files, s.at(pass, 0)))
	check(t, files.CheckSubject(pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: "node-1"}))

	list, err := s.operator().List(within(t), &strangerpb.ListRequest{})
	check(t, err)
	if len(list.Tokens) != 1 || list.Tokens[0].Node != "node-1" || list.Tokens[0].Used == nil || list.Tokens[0].Id != pass.Name() {
		t.Errorf("listed: %v", list)
	}
	if n := value(t, s.replicas[1].enrolled) + value(t, s.replicas[0].enrolled); n != 2 {
		t.Errorf("%v enrolments are counted", n)
	}
}

// What a certificate says comes from the token, whatever the request asks for.
func TestSubjectIsTheTokens(t *testing.T) {
	t.Parallel()
	s := newSite(t, "east")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"east.mesh.causeway.io"},
		URIs: []*url.URL{{Scheme: "causeway", Host: "east", Path: "/admin/root"}},
	}, key)
	check(t, err)
	pass := s.token("node-1", time.Hour)
	conn, err := stranger.Dial(pass.Addresses[0], "east", s.authority.CertPEM())
	check(t, err)
	defer func() { _ = conn.Close() }()
	client := strangerpb.NewEnrolmentClient(conn)
	request := &strangerpb.EnrolRequest{
		Id: pass.ID[:], Secret: pass.Secret[:], Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
	}
	answer, err := client.Enrol(within(t), request)
	check(t, err)
	block, _ := pem.Decode(answer.Chain)
	cert, err := x509.ParseCertificate(block.Bytes)
	check(t, err)
	subject, err := pki.SubjectOf(cert)
	check(t, err)
	if want := (pki.Subject{Cluster: "east", Role: pki.RoleAgent, Name: "node-1"}); subject != want || len(cert.DNSNames) != 0 ||
		cert.Subject.CommonName != "node-1" || cert.IsCA || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth {
		t.Errorf("got %s, %v, %v, %v", subject, cert.DNSNames, cert.Subject, cert.ExtKeyUsage)
	}
	// A request that is no good costs no token.
	other := s.token("node-2", time.Hour)
	request = &strangerpb.EnrolRequest{Id: other.ID[:], Secret: other.Secret[:], Request: []byte("none")}
	if _, err := client.Enrol(within(t), request); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no request: %v", err)
	}
	check(t, stranger.Enrol(within(t), newFiles(t), other))
	if n := value(t, s.replicas[0].refusals.WithLabelValues(string(reasonMalformed))); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s, west := newSite(t, "east"), newSite(t, "west")
	good := s.token("node-1", time.Hour)
	for name, tc := range map[string]struct {
		change func(p *stranger.Pass)
		want   string
	}{
		"altered":             {func(p *stranger.Pass) { p.Secret[0] ^= 1 }, "no such token"},
		"another id":          {func(p *stranger.Pass) { p.ID[0] ^= 1 }, "no such token"},
		"another's":           {func(p *stranger.Pass) { *p = s.at(west.token("node-1", time.Hour), 0) }, "another cluster than west answers"},
		"another's authority": {func(p *stranger.Pass) { p.Fingerprint[0] ^= 1 }, "or its authority was replaced since"},
		"renamed":             {func(p *stranger.Pass) { p.Cluster = "west" }, "west"},
		"another node":        {func(p *stranger.Pass) { p.Node = "node-2" }, "for causeway://east/agent/node-1, needed is one for causeway://east/agent/node-2"},
	} {
		pass, files := good, newFiles(t)
		tc.change(&pass)
		wantRefused(t, stranger.Enrol(within(t), files, pass), tc.want)
		if _, err := os.Stat(files.CertFile); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a certificate is there: %v", name, err)
		}
	}
	for node, want := range map[string]string{"": "agent name", "Node": "agent name", "a/b": "agent name", strings.Repeat("a", 254): "agent name"} {
		_, err := s.operator().Make(within(t), &strangerpb.MakeRequest{Node: node})
		wantRefused(t, err, want)
	}
	_, err := s.operator().Make(within(t), &strangerpb.MakeRequest{Node: "node-1", Addresses: []string{"nowhere"}})
	wantRefused(t, err, "give --address")
}

func TestEnded(t *testing.T) {
	t.Parallel()
	s := newSite(t, "east")
	pass := s.token("node-1", time.Second)
	for time.Now().Before(pass.Expires.Add(time.Second)) {
		time.Sleep(10 * time.Millisecond) // until it has ended
	}
	wantRefused(t, stranger.Enrol(within(t), newFiles(t), pass), "the token has ended: it was good until ")

	// One that ended a week ago is forgotten when the next is made.
	key := prefix + pass.Name()
	text, _, err := s.etcd.Get(t.Context(), key)
	check(t, err)
	ago := time.Now().Add(-remembered - time.Minute).UTC().Format(time.RFC3339)
	old := bytes.Replace(text, []byte(pass.Expires.UTC().Format(time.RFC3339)), []byte(ago), 1)
	check(t, s.etcd.Put(t.Context(), key, old))
	s.token("node-1", time.Hour)
	if _, found, err := s.etcd.Get(t.Context(), key); found || err != nil || bytes.Equal(text, old) {
		t.Errorf("it is there still: %v", err)
	}
}

// The secret is in no key of the store.
func TestSecretIsNotKept(t *testing.T) {
	t.Parallel()
	s := newSite(t, "east")
	pass := s.token("node-1", time.Hour)
	check(t, stranger.Enrol(within(t), newFiles(t), pass))
	forms := []string{
		string(pass.Secret[:]), hex.EncodeToString(pass.Secret[:]),
		base64.StdEncoding.EncodeToString(pass.Secret[:])[:40], base64.RawURLEncoding.EncodeToString(pass.Secret[:])[:40],
	}
	keys := 0
	check(t, s.etcd.List(t.Context(), kvstore.Prefix("causeway/"), func(item kvstore.Item) error {
		keys++
		for _, form := range forms {
			if strings.Contains(string(item.Value), form) {
				t.Errorf("%s holds the secret: %s", item.Key, item.Value)
			}
		}
		return nil
	}))
	if keys == 0 {
		t.Error("nothing is kept")
	}
}

// Wrong secrets wait after some; a right one is never held up for them.
func TestGuessing(t *testing.T) {
	t.Parallel()
	s := newSite(t, "east")
	pass := s.token("node-1", time.Hour)
	wrong := pass
	wrong.Secret[0] ^= 1
	for range stranger.FailuresPerWindow {
		wantRefused(t, stranger.Enrol(within(t), newFiles(t), wrong), "no such token")
	}
	conn, err := stranger.Dial(pass.Addresses[0], "east", s.authority.CertPEM())
	check(t, err)
	defer func() { _ = conn.Close() }()
	answered := make(chan error, 1)
	go func() {
		_, err := strangerpb.NewEnrolmentClient(conn).Enrol(within(t), &strangerpb.EnrolRequest{Id: wrong.ID[:], Secret: wrong.Secret[:]})
		answered <- err
	}()
	check(t, stranger.Enrol(within(t), newFiles(t), pass))
	select {
	case err := <-answered:
		t.Errorf("one wrong secret too many was answered before the right one: %v", err)
	default:
	}
	_ = conn.Close()
	<-answered
}

// Two keys that come at the same time: one has it.
func TestRace(t *testing.T) {
	t.Parallel()
	s := newSite(t, "east")
	pass := s.token("node-1", time.Hour)
	const n = 8
	errs := make(chan error, n)
	for i := range n {
		files := newFiles(t)
		go func() { errs <- stranger.Enrol(within(t), files, s.at(pass, i%2)) }()
	}
	won := 0
	for range n {
		if err := <-errs; err == nil {
			won++
		} else if !strings.Contains(err.Error(), "by another key") {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d got a certificate", won)
	}
}

// A token that names another authority is of no use to wait with; one gateway of
// another cluster keeps nobody from the right one.
func TestOtherAuthority(t *testing.T) {
	t.Parallel()
	s, west := newSite(t, "east"), newSite(t, "west")
	right := s.token("node-1", time.Hour)
	right.Addresses = []string{west.doors[0].Addr().String(), s.doors[0].Addr().String()}
	check(t, stranger.Enrol(within(t), newFiles(t), right))
	old := s.token("node-1", time.Hour)
	old.Fingerprint[0] ^= 1
	old.Addresses = []string{"127.0.0.1:1", s.doors[0].Addr().String()} // nobody is at the first
	err := stranger.Enrol(within(t), newFiles(t), old)
	if !errors.Is(err, stranger.ErrOther) || errors.Is(err, stranger.ErrAway) || !strings.Contains(err.Error(), "`causeway agent token node-1`") {
		t.Errorf("got %v", err)
	}
}

// What is taken back is good for nobody, not for who used it either, at any replica, and
// is shown as that.
func TestRevoke(t *testing.T) {
	t.Parallel()
	s := newSite(t, "east")
	used, unused, other := s.token("node-1", time.Hour), s.token("node-1", time.Hour), s.token("node-2", time.Hour)
	files := newFiles(t)
	check(t, stranger.Enrol(within(t), files, s.at(used, 0)))
	answer, err := s.operator().Revoke(within(t), &strangerpb.RevokeRequest{Node: "node-1"})
	check(t, err)
	if len(answer.Tokens) != 2 || answer.Tokens[0].Revoked == nil || answer.Tokens[1].Node != "node-1" {
		t.Errorf("taken back: %v", answer)
	}
	wantRefused(t, stranger.Enrol(within(t), newFiles(t), s.at(unused, 1)), "the token was taken back, at ")
	// With the key of before, too.
	next := strings.Replace(files.KeyFile, "agent.key", ".agent.key.next", 1)
	check(t, os.Rename(files.KeyFile, next), os.Remove(files.CertFile))
	wantRefused(t, stranger.Enrol(within(t), files, s.at(used, 1)), "the token was taken back, at ")
	check(t, stranger.Enrol(within(t), newFiles(t), s.at(other, 1)))

	_, err = s.operator().Revoke(within(t), &strangerpb.RevokeRequest{Node: "node-1"})
	wantRefused(t, err, `no token of a node "node-1" is good`)
	list, err := s.operator().List(within(t), &strangerpb.ListRequest{})
	check(t, err)
	revoked := 0
	for _, one := range list.Tokens {
		if one.Revoked != nil {
			revoked++
		}
	}
	if len(list.Tokens) != 3 || revoked != 2 {
		t.Errorf("listed: %v", list)
	}
}

// A node that the cluster does not know has its token, with a warning.
func TestUnknownNode(t *testing.T) {
	s := &Server{cfg: Config{Cluster: "east"}}
	if text := s.unknownNode("node-1"); text != "" {
		t.Errorf("nobody knows the nodes: %q", text)
	}
	var nodes []string
	s.cfg.Nodes = func() []string { return nodes }
	if text := s.unknownNode("node-1"); text != "" {
		t.Errorf("the nodes are not known yet: %q", text)
	}
	nodes = []string{"node-1", "node-2"}
	if text := s.unknownNode("node-1"); text != "" {
		t.Errorf("it is known: %q", text)
	}
	if text := s.unknownNode("node-3"); !strings.Contains(text, "east knows no node node-3") {
		t.Errorf("said %q", text)
	}
}
