package gateway

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// etcdMethods are all calls that an etcd offers.
func etcdMethods() []string {
	var methods []string
	for _, service := range []grpc.ServiceDesc{
		pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc,
		pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc, pb.Auth_ServiceDesc,
	} {
		for _, m := range service.Methods {
			methods = append(methods, "/"+service.ServiceName+"/"+m.MethodName)
		}
		for _, s := range service.Streams {
			methods = append(methods, "/"+service.ServiceName+"/"+s.StreamName)
		}
	}
	return methods
}

func TestEachRoleAndCall(t *testing.T) {
	b := newBed(t)
	b.put(wire.HeartbeatKey, "now")
	methods := append(etcdMethods(),
		"/causeway.feed.v1.Feed/Who", "/causeway.feed.v1.Feed/None", "/causeway.feedback.v1.Feed/Who",
		"/causeway.observe.v1.Observe/Who", "/causeway.observe.v1.Observe/None",
		"/causeway.probe.v1.Probe/Who", "/causeway.probe.v1.Probe/None",
		"/causeway.admin.v1.Admin/Who", "/causeway.admin.v1.Admin/None",
		"/causeway.renewal.v1.Renewal/Renew", "/causeway.renewal.v1.Renewal/Report",
		"/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "//", "/x")
	// What is let through to a service; everything else has one answer a role.
	let := map[pki.Role]map[string]codes.Code{
		pki.RolePeer: {
			// An empty request is let through, and is none that is offered.
			"/etcdserverpb.KV/Range":    codes.PermissionDenied,
			"/etcdserverpb.Watch/Watch": codes.InvalidArgument,
			// An empty request is none.
			"/causeway.renewal.v1.Renewal/Renew": codes.InvalidArgument,
		},
		pki.RoleAgent: {
			"/causeway.feed.v1.Feed/Who":  codes.OK,
			"/causeway.feed.v1.Feed/None": codes.Unimplemented,

			"/causeway.observe.v1.Observe/Who":  codes.OK,
			"/causeway.observe.v1.Observe/None": codes.Unimplemented,

			"/causeway.probe.v1.Probe/Who":  codes.OK,
			"/causeway.probe.v1.Probe/None": codes.Unimplemented,

			"/causeway.renewal.v1.Renewal/Renew":  codes.InvalidArgument,
			"/causeway.renewal.v1.Renewal/Report": codes.OK,
		},
		pki.RoleAdmin: {
			"/causeway.admin.v1.Admin/Who":  codes.OK,
			"/causeway.admin.v1.Admin/None": codes.Unimplemented,
		},
	}
	for _, role := range []pki.Role{"", pki.RolePeer, pki.RoleAgent, pki.RoleAdmin} {
		conn := b.dial(role, "west")
		for _, method := range methods {
			want, ok := let[role][method]
			switch {
			case ok:
			case role == "":
				want = codes.Unauthenticated
			default:
				want = codes.PermissionDenied
			}
			if method == "/x" && role != "" { // not a method's name at all: gRPC itself answers
				want = codes.Unimplemented
			}
			err := conn.Invoke(b.ctx(), method, new(emptypb.Empty), new(wrapperspb.StringValue))
			if got := status.Code(err); got != want {
				t.Errorf("%s as %q: %v, want %s", method, role, err, want)
			}
		}
	}
	for _, why := range []reason{reasonAnonymous, reasonRole, reasonMethod, reasonRange} {
		if b.refused(why) == 0 {
			t.Errorf("no refusal for %s was counted", why)
		}
	}
}

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
