package gateway

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
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
		e.enter(c)
		return c
	}
	moves := enter("moves", 1)
	enter("stays", 1)
	enter("unknown", 0)
	e.enter(&connection{}) // without a certificate
	if len(seen) != 2 || len(e.Behind(root(2))) != 3 || len(e.Behind(root(1))) != 1 {
		t.Errorf("seen %v; behind %v", seen, e.Behind(root(2)))
	}
	Moved(context.Background(), root(2))
	Moved(peer.NewContext(context.Background(), &peer.Peer{AuthInfo: moves}), root(2))
	e.CutBehind(root(2))
	if len(cut) != 2 || cut["moves"] {
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
