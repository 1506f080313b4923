package scenarios

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	etcd "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// door is a gateway as somebody in a pod of another cluster sees it, who is behind
// his node.
type door struct {
	t       *testing.T
	world   *world
	east    *lab.Cluster
	client  *lab.Pod
	address string
}

func newDoor(ctx context.Context, t *testing.T) *door {
	t.Helper()
	labtest.RequireRoot(t)
	w := newWorld(t, t.TempDir())
	network := lab.Network{Kind: lab.Routed}
	east := labtest.AddSite(t, w.lab, labtest.Site{Name: "east", ID: 1, Network: network, Mesh: true})
	labtest.AddSite(t, w.lab, labtest.Site{Name: "west", ID: 2, Network: network, Mesh: true})
	_, err := east.StartAPIServer(ctx)
	check(t, err, east.AwaitReady(ctx))
	gateway, err := east.Gateway()
	check(t, err)
	client, err := w.pod("west/client")
	check(t, err)
	return &door{t: t, world: w, east: east, client: client, address: gateway.String()}
}

func (d *door) dial(credentials credentials.TransportCredentials) *grpc.ClientConn {
	d.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+d.address, grpc.WithTransportCredentials(credentials),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.client.Dial(ctx, "tcp", address)
		}))
	check(d.t, err)
	d.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// anonymous trusts east and shows no certificate.
func (d *door) anonymous() *tls.Config {
	authority, err := d.east.Authority()
	check(d.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority.CertPEM())
	return &tls.Config{RootCAs: roots, ServerName: pki.MeshNames("east")[0], NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
}

// as shows a certificate that signer's authority made.
func (d *door) as(signer string, role pki.Role, name string) *tls.Config {
	c, err := d.world.cluster(signer)
	check(d.t, err)
	files, err := d.world.issue(c, role, name, filepath.Join(d.world.work, signer+"-"+string(role)), time.Hour)
	check(d.t, err)
	pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
	check(d.t, err)
	config := d.anonymous()
	// It is shown whatever authorities the server asks for.
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	return config
}

// calls are one of each kind, by name.
func calls(ctx context.Context, conn *grpc.ClientConn) map[string]error {
	out := map[string]error{}
	kv := etcd.NewKVClient(conn)
	_, out["read"] = kv.Range(ctx, &etcd.RangeRequest{Key: []byte("cilium/cluster-config/east")})
	_, out["read all"] = kv.Range(ctx, &etcd.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	_, out["write"] = kv.Put(ctx, &etcd.PutRequest{Key: []byte("cilium/state/nodes/v1/east/x"), Value: []byte("x")})
	_, out["delete"] = kv.DeleteRange(ctx, &etcd.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	_, out["lease"] = etcd.NewLeaseClient(conn).LeaseGrant(ctx, &etcd.LeaseGrantRequest{TTL: 60})
	_, out["members"] = etcd.NewClusterClient(conn).MemberList(ctx, &etcd.MemberListRequest{})
	_, out["status"] = adminpb.NewAdminClient(conn).Status(ctx, &adminpb.StatusRequest{})
	stream, err := feedpb.NewFeedClient(conn).Subscribe(ctx)
	if err == nil {
		// Nothing is said: who may not call is told at once, who may has to
		// begin, and is waited for by nobody here.
		err = stream.CloseSend()
		if err == nil {
			_, err = stream.Recv()
		}
	}
	out["feed"] = err
	return out
}

// allowed tells a call that was refused for who made it from one that was not.
func allowed(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented, codes.Unavailable:
		return false
	}
	return true
}

// TestGateway tries every door that the gateway has, with every key. What is refused
// is counted.
func TestGateway(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	d := newDoor(ctx, t)
	for _, tc := range []struct {
		name  string
		creds credentials.TransportCredentials
		code  codes.Code // of all that is refused; OK for any
		allow string
	}{
		{"plain text", insecure.NewCredentials(), codes.Unavailable, ""},
		{"no certificate", credentials.NewTLS(d.anonymous()), codes.Unauthenticated, ""},
		{"another authority", credentials.NewTLS(d.as("west", pki.RolePeer, "west")), codes.Unavailable, ""},
		{"a peer", credentials.NewTLS(d.as("east", pki.RolePeer, "west")), codes.OK, "read"},
		{"an agent", credentials.NewTLS(d.as("east", pki.RoleAgent, "n1")), codes.OK, "feed"},
		{"an admin", credentials.NewTLS(d.as("east", pki.RoleAdmin, "admin")), codes.OK, "status"},
		{"a server", credentials.NewTLS(d.as("east", pki.RoleServer, "east")), codes.OK, ""},
	} {
		for call, err := range calls(ctx, d.dial(tc.creds)) {
			if allowed(err) != (call == tc.allow) || tc.code != codes.OK && status.Code(err) != tc.code {
				t.Errorf("%s, %s: %v", tc.name, call, err)
			}
		}
	}
	for _, reason := range []string{"handshake", "certificate", "anonymous", "role"} {
		name := regexp.QuoteMeta(`causeway_gateway_refusals_total{reason="` + reason + `"}`)
		if metricOf(ctx, t, d.east.APIServer(), name) == 0 {
			t.Errorf("no refusal is counted for the reason %s", reason)
		}
	}
}

// TestGatewayOldTLS speaks to the port as scanners and old clients do.
func TestGatewayOldTLS(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	d := newDoor(ctx, t)
	old := d.anonymous()
	old.MaxVersion = tls.VersionTLS12
	conn, err := d.client.Dial(ctx, "tcp", d.address)
	check(t, err)
	defer func() { _ = conn.Close() }()
	if err := tls.Client(conn, old).HandshakeContext(ctx); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}

	for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x00"} {
		conn, err := d.client.Dial(ctx, "tcp", d.address)
		check(t, err)
		_, err = conn.Write([]byte(text))
		check(t, err, conn.(*net.TCPConn).CloseWrite(), conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		answer, _ := io.ReadAll(conn)
		_ = conn.Close()
		// At most a TLS alert: record type 21, two bytes of content.
		if len(answer) > 7 || len(answer) > 0 && answer[0] != 21 {
			t.Errorf("%q is answered by %q", text, answer)
		}
	}
	if err := d.east.AwaitReady(ctx); err != nil {
		t.Error(err)
	}
}
