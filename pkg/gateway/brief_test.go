package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// A stranger's connection ends after a while, and after so many bytes.
func TestBrief(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		ours, theirs := net.Pipe()
		b := newBrief(ours, func() { _ = ours.Close() })
		if _, err := theirs.Read(make([]byte, 1)); err != io.EOF || time.Since(begin) != anonymousStay { //nolint:errorlint // a pipe's own
			t.Errorf("ended after %s by %v", time.Since(begin), err)
		}
		_ = b.Close()

		ours, theirs = net.Pipe()
		b = newBrief(ours, func() { t.Error("cut after it was closed") })
		go func() { _, _ = theirs.Write(make([]byte, 2*anonymousBytes)) }()
		got := new(bytes.Buffer)
		_, err := got.ReadFrom(b)
		if err != errBrief || got.Len() != anonymousBytes { //nolint:errorlint // its own
			t.Errorf("%d bytes, error %v", got.Len(), err)
		}
		_ = b.Close()
		time.Sleep(2 * anonymousStay)
	})
}

// The handshake makes a stranger's connection one that ends, and no other.
func TestHandshakeBrief(t *testing.T) {
	b := newBed(t)
	config := b.config()
	h := newHandshaker("east", config.TLS, newRefusals(config.Logger, prometheus.NewRegistry()), NewExclusions(slog.New(slog.DiscardHandler)), prometheus.NewRegistry())
	for role, want := range map[pki.Role]bool{"": true, pki.RolePeer: false} {
		ours, theirs := net.Pipe()
		client := b.handshake(theirs, role)
		conn, _, err := h.ServerHandshake(ours)
		if err != nil {
			t.Fatal(err)
		}
		if _, got := conn.(*brief); got != want {
			t.Errorf("role %q: brief %t", role, got)
		}
		<-client
		_, _ = theirs.Close(), conn.Close() // TLS says farewell to who still reads
	}
}

// handshake runs a client's, whose end is told.
func (b *bed) handshake(conn net.Conn, role pki.Role) <-chan error {
	b.t.Helper()
	config := b.clientTLS(role, "west", time.Hour)
	config.NextProtos, config.ServerName = []string{"h2"}, "localhost"
	done := make(chan error, 1)
	go func() { done <- tls.Client(conn, config).HandshakeContext(b.ctx()) }()
	return done
}

// A stranger's call is refused by its headers: its body need never come. Calls that
// join wait for theirs, of which there are few at once.
func TestStrangersAreRefusedAtOnce(t *testing.T) {
	b := newBed(t)
	conn := b.dial("", "")
	open := func(method string) grpc.ClientStream {
		t.Helper()
		stream, err := conn.NewStream(b.ctx(), &grpc.StreamDesc{ClientStreams: true}, method)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	// A unary method of which no message is sent.
	if err := open("/etcdserverpb.KV/Range").RecvMsg(new(emptypb.Empty)); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "needs a client certificate") {
		t.Errorf("a read: %v", err)
	}
	if b.refused(reasonAnonymous) != 1 {
		t.Error("the refusal was not counted")
	}
	for range 3 * anonymousStreams { // a place comes back with the end of a call
		b.eventually("a call that joins is let through", func() bool {
			err := conn.Invoke(b.ctx(), "/causeway.join.v1.Join/Join", new(emptypb.Empty), new(wrapperspb.StringValue))
			return status.Code(err) == codes.Unimplemented
		})
	}
}

func TestStrangersStreams(t *testing.T) {
	a := &access{refusals: newRefusals(slog.New(slog.DiscardHandler), prometheus.NewRegistry())}
	c := &connection{}
	call := func() (context.CancelFunc, error) {
		ctx, cancel := context.WithCancel(peer.NewContext(t.Context(), &peer.Peer{Addr: new(net.TCPAddr), AuthInfo: c}))
		t.Cleanup(cancel)
		_, err := a.begin(ctx, &tap.Info{FullMethodName: "/causeway.join.v1.Join/Join"})
		return cancel, err
	}
	end, err := call()
	for range anonymousStreams - 1 {
		if err == nil {
			_, err = call()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := call(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	end()
	deadline := time.Now().Add(patience)
	for c.streams.Load() == anonymousStreams && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	if _, err := call(); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
	c.known, c.holder = true, new(holder)
	for range maxHolderCalls {
		if _, err := call(); err != nil {
			t.Fatalf("with a certificate: %v", err)
		}
	}
	if _, err := call(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("more than the holder of a certificate may have: %v", err)
	}
}
