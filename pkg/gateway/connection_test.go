package gateway

import (
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

func TestConnectionThatIsNotTLS(t *testing.T) {
	b := newBed(t)
	conn, err := net.Dial("tcp", b.gateway.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	b.eventually("counted", func() bool { return b.refused(reasonHandshake) == 1 })
}

func TestConnectionsAreCounted(t *testing.T) {
	b := newBed(t)
	const metric = "causeway_gateway_connections"
	for role, label := range map[pki.Role]string{
		"": "none", pki.RolePeer: "peer", pki.RoleAgent: "agent", pki.RoleAdmin: "admin",
	} {
		conn := b.dial(role, "west")
		_ = conn.Invoke(b.ctx(), "/causeway.feed.v1.Feed/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
		if got := b.value(metric, label); got != 1 {
			t.Errorf("%v connections of %s", got, label)
		}
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		b.eventually(label+" closed", func() bool { return b.value(metric, label) == 0 })
	}
}

// Those without a certificate cannot take the places of those with one, and keep
// nobody out who comes without one later: who joins, perhaps.
func TestAnonymousConnectionsAreFew(t *testing.T) {
	b := newBed(t)
	config := b.clientTLS("", "", time.Hour)
	config.NextProtos = []string{"h2"}
	// One after the other, and such as answer the gateway's pings: a slow machine
	// takes longer to open all than one that is silent may stay.
	open := func() *grpc.ClientConn {
		conn := b.dialTLS(config)
		conn.Connect()
		for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
			if !conn.WaitForStateChange(b.ctx(), state) {
				t.Fatalf("a connection is %s", state)
			}
		}
		return conn
	}
	for range maxAnonymous {
		open()
	}
	strangers := func() float64 { return b.value("causeway_gateway_connections", "none") }
	b.eventually("all open", func() bool { return strangers() == maxAnonymous })
	err := open().Invoke(b.ctx(), "/causeway.join.v1.Join/Join", new(emptypb.Empty), new(wrapperspb.StringValue))
	if status.Code(err) != codes.Unimplemented { // let through, to a service that this gateway has not
		t.Errorf("one more: %v", err)
	}
	b.eventually("not more than there may be", func() bool { return strangers() == maxAnonymous })
	if b.refused(reasonLimit) == 0 {
		t.Error("what was cut was not counted")
	}
	answer := new(wrapperspb.StringValue)
	err = b.dial(pki.RoleAdmin, "admin").Invoke(b.ctx(), "/causeway.admin.v1.Admin/Who", new(emptypb.Empty), answer)
	if err != nil {
		t.Errorf("with a certificate: %v", err)
	}
}

func TestPortInUse(t *testing.T) {
	b := newBed(t)
	config := b.config()
	config.Registerer = nil
	config.Listen = b.gateway.Addr().String()
	second := New(config)
	if second.Addr() != nil {
		t.Error("it has an address before it listens")
	}
	err := second.Run(b.ctx())
	if err == nil || !strings.Contains(err.Error(), config.Listen) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("error %v", err)
	}
}
