package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Connections are known by whose certificate they show, or whose their caller has by
// now, and those are cut that did not move on.
func TestRoots(t *testing.T) {
	root := func(n byte) [sha256.Size]byte { return [sha256.Size]byte{n} }
	var seen []pki.Subject
	e := NewExclusions(slog.New(slog.DiscardHandler))
	e.Watch(Roots{
		Of: func(top *x509.Certificate) ([sha256.Size]byte, bool) { return root(top.Raw[0]), top.Raw[0] != 0 },
		Seen: func(s pki.Subject, _ *x509.Certificate, of [sha256.Size]byte) {
			if of != root(1) {
				t.Errorf("%s shows one of %x", s, of)
			}
			seen = append(seen, s)
		},
	})
	cut := map[string]bool{}
	enter := func(name string, of byte) *connection {
		c := &connection{known: true, subject: pki.Subject{Cluster: "east", Role: pki.RolePeer, Name: name}, cut: func() { cut[name] = true }}
		c.certificate = &x509.Certificate{}
		c.TLSInfo = credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{c.certificate, {Raw: []byte{of}}}}}}
		forget, ok := e.enter(c)
		if ok != (of != 0) {
			t.Errorf("%s is taken: %t", name, ok)
		}
		if !ok {
			forget()
		}
		return c
	}
	moves := enter("moves", 1)
	enter("stays", 1)
	enter("gone", 0)
	if _, ok := e.enter(&connection{}); !ok {
		t.Error("one without a certificate is refused")
	}
	if len(seen) != 2 || len(e.Behind(root(2))) != 2 || len(e.Behind(root(1))) != 0 {
		t.Errorf("seen %v; behind %v", seen, e.Behind(root(2)))
	}
	Moved(context.Background(), root(2))
	Moved(peer.NewContext(context.Background(), &peer.Peer{AuthInfo: moves}), root(2))
	e.CutBehind(root(1), root(2))
	if len(cut) != 0 {
		t.Errorf("cut though both are trusted: %v", cut)
	}
	e.CutBehind(root(2))
	if len(cut) != 1 || !cut["stays"] {
		t.Errorf("cut: %v", cut)
	}
}

func TestOut(t *testing.T) {
	e := NewExclusions(slog.New(slog.DiscardHandler))
	west := pki.Subject{Cluster: "east", Role: pki.RolePeer, Name: "west"}
	now := time.Now()
	if e.Out(west, now) {
		t.Error("nobody was put out")
	}
	e.Exclude(west, now)
	if e.Out(west, now) || !e.Out(west, now.Add(-time.Second)) {
		t.Error("who was put out is told wrong")
	}
}

// A handshake that was begun while the old authority was trusted, and is held open
// until that is gone, lets nobody in, and a command line least.
func TestSlowHandshake(t *testing.T) {
	b := newBed(t)
	b.gateway.exclusions.Watch(Roots{Of: b.authority.RootOf, Seen: func(s pki.Subject, _ *x509.Certificate, _ [sha256.Size]byte) { t.Errorf("%s is taken", s) }})
	config := b.clientTLS(pki.RoleAdmin, "admin", time.Hour)
	config.VerifyConnection = func(tls.ConnectionState) error { // before the certificate is sent
		return errors.Join(b.authority.Begin(), b.authority.Replace(), b.authority.Finish())
	}
	config.NextProtos = []string{"h2"}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", b.gateway.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the gateway speaks: %d bytes, %v", n, err)
	}
	if n := len(b.gateway.exclusions.Behind(b.authority.Roots()[0].Fingerprint)); n != 0 {
		t.Errorf("%d connections are kept", n)
	}
}
