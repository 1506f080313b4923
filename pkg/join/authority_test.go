package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

// between answers in another cluster's place: it shows that cluster's authority and,
// behind it, its own, which certified its connection.
type between struct {
	joinpb.UnimplementedJoinServer
	shown []byte
	heard chan *joinpb.Offer
}

func (b *between) Authority(context.Context, *joinpb.AuthorityRequest) (*joinpb.AuthorityResponse, error) {
	return &joinpb.AuthorityResponse{Authority: b.shown}, nil
}

func (b *between) Join(stream stream) error {
	request, err := stream.Recv()
	if err == nil {
		b.heard <- request.GetOffer()
	}
	return errors.New("that was all")
}

func (b *between) serve(t *testing.T, authority *pki.Authority) (address string) {
	t.Helper()
	pair, err := authority.Issue(pki.Request{Role: pki.RoleServer, Name: authority.Cluster(), TTL: time.Hour})
	check(t, err)
	cert, err := tls.X509KeyPair(pair.CertPEM, pair.KeyPEM)
	check(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
	})))
	joinpb.RegisterJoinServer(server, b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Stop()
		<-done
	})
	return listener.Addr().String()
}

// Who answers in a cluster's place gets no secret, though it shows that cluster's
// authority: what stands behind the certificate of the fingerprint is not trusted.
func TestAuthorityInFrontOfAnother(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	evil, err := pki.OpenAuthority(t.TempDir(), "east")
	check(t, err)
	both := bytes.Join([][]byte{east.authority.CertPEM(), evil.CertPEM()}, nil)
	b := &between{shown: both, heard: make(chan *joinpb.Offer, 1)}
	inv, err := ParseInvitation(east.invite(&joinpb.InviteRequest{}))
	check(t, err)
	inv.Addresses = []string{b.serve(t, evil)}
	if _, err := west.join(&joinpb.AcceptRequest{Invitation: inv.Text()}); err == nil || !strings.Contains(err.Error(), "east is not reached") {
		t.Errorf("it is taken for east: %v", err)
	}
	select {
	case offer := <-b.heard:
		t.Errorf("it was told the secret %x", offer.GetSecret())
	default:
	}
}

// Of the authority that a joining cluster sends only the certificate that was
// looked at is kept.
func TestAuthorityWithMoreBehindIt(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	evil, err := pki.OpenAuthority(t.TempDir(), "west")
	check(t, err)
	both := bytes.Join([][]byte{west.authority.CertPEM(), evil.CertPEM()}, nil)
	inv, err := ParseInvitation(east.invite(&joinpb.InviteRequest{}))
	check(t, err)
	mine, err := west.pendingKey(west.ctx(), inv)
	check(t, err)
	offer := east.offer(inv.Text(), []byte(mine.Request))
	offer.Authority, offer.Facts.Addresses = both, []string{west.door.Addr().String()}
	conn, err := stranger.Dial(east.door.Addr().String(), "east", east.authority.CertPEM())
	check(t, err)
	defer func() { _ = conn.Close() }()
	_, _, err = west.converse(west.ctx(), "east", time.Time{}, conn, offer, []byte(mine.Key), east.authority.CertPEM(), func(string, bool) {})
	check(t, err)
	if kept := east.book.member("west").Reads.CA; kept != string(west.authority.CertPEM()) {
		t.Errorf("kept: %s", kept)
	}
}

// A peer is not replaced by another cluster of its name, until it is put out.
func TestAnotherOfThatName(t *testing.T) {
	t.Parallel()
	east, other, west := newCluster(t, "east", 1), newCluster(t, "east", 1), newCluster(t, "west", 2)
	_, err := west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	check(t, err)
	text := other.invite(&joinpb.InviteRequest{})
	_, err = west.join(&joinpb.AcceptRequest{Invitation: text})
	if err == nil || !strings.Contains(err.Error(), "with another authority") || !strings.Contains(err.Error(), "disconnect east") {
		t.Errorf("it is replaced: %v", err)
	}
	if ca := west.book.member("east").Reads.CA; ca != string(east.authority.CertPEM()) {
		t.Error("another authority is kept")
	}
	// The same one may join anew.
	_, err = west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{Peer: "west"})})
	check(t, err)
	_, err = west.disconnect("east")
	check(t, err)
	_, err = west.join(&joinpb.AcceptRequest{Invitation: text})
	check(t, err)
}
