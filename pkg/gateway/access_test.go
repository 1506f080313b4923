package gateway

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

func TestServicesKnowTheSubject(t *testing.T) {
	b := newBed(t)
	for method, role := range map[string]pki.Role{
		"/causeway.feed.v1.Feed/Who": pki.RoleAgent, "/causeway.admin.v1.Admin/Who": pki.RoleAdmin,
	} {
		answer := new(wrapperspb.StringValue)
		if err := b.dial(role, "node-1").Invoke(b.ctx(), method, new(emptypb.Empty), answer); err != nil {
			t.Fatal(err)
		}
		if want := "causeway://east/" + string(role) + "/node-1 true"; answer.Value != want {
			t.Errorf("subject %q", answer.Value)
		}
	}
}

// A stream, and a call on an old connection, end with the certificate.
func TestCertificateEnds(t *testing.T) {
	b := newBed(t)
	conn := b.dialTLS(b.clientTLS(pki.RoleAgent, "node-1", 6*time.Second)) // time enough to connect, on a slow machine too
	stream, err := conn.NewStream(b.ctx(), &grpc.StreamDesc{ServerStreams: true}, "/causeway.feed.v1.Feed/Wait")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(new(emptypb.Empty)); err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(new(emptypb.Empty)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("stream: %v", err)
	}
	err = conn.Invoke(b.ctx(), "/causeway.feed.v1.Feed/Who", new(emptypb.Empty), new(wrapperspb.StringValue))
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("call: %v", err)
	}
	if b.refused(reasonCertificate) == 0 {
		t.Error("the refusal was not counted")
	}
}

// Whatever a method is called, strangers and peers are let through to no other than
// those that are for them, and nobody but peers to etcd.
func FuzzMayCall(f *testing.F) {
	for call := range decided() {
		f.Add(call)
	}
	for call := range invented() {
		f.Add(call)
	}
	f.Fuzz(func(t *testing.T, method string) {
		to, there := decided()[method]
		if mayCall(roleNone, method) != (there && to == roleNone) {
			t.Errorf("strangers are let call %q", method)
		}
		if mayCall(pki.RolePeer, method) && (!there || to == pki.RoleAgent || to == pki.RoleAdmin || to == roleNone) {
			t.Errorf("peers are let call %q", method)
		}
		for _, role := range []pki.Role{pki.RoleAgent, pki.RoleAdmin, pki.RoleServer, ""} {
			if mayCall(role, method) && (!strings.HasPrefix(method, "/causeway.") || to == roleNone || role == "" || role == pki.RoleServer) {
				t.Errorf("%q is let call %q", role, method)
			}
		}
	})
}
