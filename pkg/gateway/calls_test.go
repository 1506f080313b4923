package gateway

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// decided is who may call what is offered. A call of ours that is not here fails
// the test: whoever adds one says who may make it. Of etcd's, and of all others
// that are linked in, those that are not here are for nobody.
func decided() map[string]pki.Role {
	return map[string]pki.Role{
		"/etcdserverpb.KV/Range":    pki.RolePeer,
		"/etcdserverpb.Watch/Watch": pki.RolePeer,

		"/causeway.feed.v1.Feed/Subscribe":   pki.RoleAgent,
		"/causeway.observe.v1.Observe/Await": pki.RoleAgent,
		"/causeway.observe.v1.Observe/Send":  pki.RoleAgent,
		"/causeway.probe.v1.Probe/Report":    pki.RoleAgent,

		"/causeway.renewal.v1.Renewal/Renew":  roleHolders,
		"/causeway.renewal.v1.Renewal/Report": pki.RoleAgent,
		"/causeway.rotation.v1.Holder/Trust":  roleHolders,

		"/causeway.rotation.v1.Rotation/Status": pki.RoleAdmin,
		"/causeway.rotation.v1.Rotation/Start":  pki.RoleAdmin,
		"/causeway.rotation.v1.Rotation/Finish": pki.RoleAdmin,

		"/causeway.admin.v1.Admin/Status":      pki.RoleAdmin,
		"/causeway.admin.v1.Admin/Services":    pki.RoleAdmin,
		"/causeway.admin.v1.Admin/Addresses":   pki.RoleAdmin,
		"/causeway.admin.v1.Admin/Observe":     pki.RoleAdmin,
		"/causeway.admin.v1.Admin/Diagnose":    pki.RoleAdmin,
		"/causeway.admin.v1.Admin/Peers":       pki.RoleAdmin,
		"/causeway.admin.v1.Admin/ApprovePeer": pki.RoleAdmin,

		"/causeway.join.v1.Membership/Describe":   pki.RoleAdmin,
		"/causeway.join.v1.Membership/Invite":     pki.RoleAdmin,
		"/causeway.join.v1.Membership/Accept":     pki.RoleAdmin,
		"/causeway.join.v1.Membership/Disconnect": pki.RoleAdmin,
		"/causeway.join.v1.Membership/Declare":    pki.RoleAdmin,
		"/causeway.join.v1.Membership/Issue":      pki.RoleAdmin,
		"/causeway.join.v1.Membership/Reach":      pki.RoleAdmin,
		"/causeway.join.v1.Membership/Fits":       pki.RoleAdmin,

		"/causeway.join.v1.Join/Authority": roleNone,
		"/causeway.join.v1.Join/Join":      roleNone,

		"/causeway.stranger.v1.Enrolment/Authority": roleNone,
		"/causeway.stranger.v1.Enrolment/Enrol":     roleNone,
		"/causeway.stranger.v1.Tokens/Make":         pki.RoleAdmin,
		"/causeway.stranger.v1.Tokens/List":         pki.RoleAdmin,
		"/causeway.stranger.v1.Tokens/Revoke":       pki.RoleAdmin,
	}
}

// roleHolders are peers and agents, whose certificates are renewed.
const roleHolders pki.Role = "peer and agent"

// invented are calls that there are not. The role is let through, to nothing.
func invented() map[string]pki.Role {
	return map[string]pki.Role{
		"/causeway.feed.v1.Feed/None":                                    pki.RoleAgent,
		"/causeway.observe.v1.Observe/None":                              pki.RoleAgent,
		"/causeway.probe.v1.Probe/None":                                  pki.RoleAgent,
		"/causeway.renewal.v1.Renewal/None":                              pki.RoleAgent,
		"/causeway.admin.v1.Admin/None":                                  pki.RoleAdmin,
		"/causeway.join.v1.Membership/None":                              pki.RoleAdmin,
		"/causeway.join.v1.Join/None":                                    "",
		"/causeway.join.v1.Join/Join/":                                   "",
		"/causeway.join.v1.Joiner/Join":                                  "",
		"/causeway.join.v1.Membershipper/Invite":                         "",
		"/causeway.feedback.v1.Feed/Subscribe":                           "",
		"/causeway.renewal.v1.Renewal/Renews":                            pki.RoleAgent,
		"/etcdserverpb.KV/Ranges":                                        "",
		"/etcdserverpb.KV/range":                                         "",
		"/etcdserverpb.KV.Range":                                         malformed,
		"/etcdserverpb.KV/":                                              "",
		"//etcdserverpb.KV/Range":                                        "",
		"/ETCDSERVERPB.KV/Range":                                         "",
		"/etcdserverpb.KV/Range?":                                        "",
		"/grpc.health.v1.Health/Check":                                   "",
		"/grpc.health.v1.Health/Watch":                                   "",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      "",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "",
		"/grpc.channelz.v1.Channelz/GetServers":                          "",
		"//":                                                             "",
		"/x":                                                             malformed,
	}
}

// malformed is no method's name at all: gRPC itself answers.
const malformed pki.Role = "malformed"

// calls are all that are offered by us, by etcd, and by whatever else is linked in.
func calls(t *testing.T) []string {
	t.Helper()
	all := ourCalls(t)
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				all = append(all, "/"+string(service.FullName())+"/"+string(service.Methods().Get(j).Name()))
			}
		}
		return true
	})
	slices.Sort(all)
	all = slices.Compact(all)
	for _, must := range []string{
		"/etcdserverpb.KV/Txn", "/etcdserverpb.Lease/LeaseGrant", "/etcdserverpb.Auth/UserAdd", "/etcdserverpb.Cluster/MemberList",
		"/etcdserverpb.Maintenance/Snapshot", "/v3electionpb.Election/Campaign", "/v3lockpb.Lock/Lock", "/causeway.renewal.v1.Renewal/Renew",
	} {
		if !slices.Contains(all, must) {
			t.Errorf("%s was not found: the test looks in the wrong place", must)
		}
	}
	return all
}

// ourCalls are read off the interfaces' own text, so that none is left out because
// nothing here links it in.
func ourCalls(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../*/*pb/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d interfaces, error %v", len(files), err)
	}
	token := regexp.MustCompile(`(?m)^\s*(package|service|rpc)\s+([\w.]+)`)
	var all []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var pkg, service string
		for _, m := range token.FindAllStringSubmatch(string(text), -1) {
			switch m[1] {
			case "package":
				pkg = m[2]
			case "service":
				service = m[2]
			case "rpc":
				all = append(all, "/"+pkg+"."+service+"/"+m[2])
			}
		}
	}
	return all
}

// registerAll offers all of ours; who gets through to one is told Aborted.
func registerAll(r grpc.ServiceRegistrar, calls []string) {
	services := map[string]*grpc.ServiceDesc{}
	for _, call := range calls {
		name, method, _ := strings.Cut(call[1:], "/")
		if services[name] == nil {
			services[name] = &grpc.ServiceDesc{ServiceName: name, HandlerType: (*any)(nil)}
		}
		services[name].Streams = append(services[name].Streams, grpc.StreamDesc{
			StreamName: method, ServerStreams: true, ClientStreams: true,
			Handler: func(any, grpc.ServerStream) error { return status.Error(codes.Aborted, "let through") },
		})
	}
	for _, service := range services {
		r.RegisterService(service, nil)
	}
}

// answer is what the gateway says to a call, and counts it as.
type answer struct {
	code codes.Code
	why  reason
}

// expected is the answer to an empty request of one whose certificate is good, or
// who has none.
func expected(role pki.Role, call string) answer {
	offered, there := decided()[call]
	toNothing, invented := invented()[call]
	switch {
	case role == roleNone && !(there && offered == roleNone):
		return answer{codes.Unauthenticated, reasonAnonymous}
	case toNothing == malformed:
		return answer{codes.Unimplemented, ""}
	case invented && toNothing == role:
		return answer{codes.Unimplemented, reasonMethod}
	case there && (offered == role || offered == roleHolders && role != pki.RoleAdmin):
		switch call { // these are the gateway's own, and an empty request is none that they take
		case "/etcdserverpb.KV/Range":
			return answer{codes.PermissionDenied, reasonRange}
		case "/etcdserverpb.Watch/Watch":
			return answer{codes.InvalidArgument, reasonRequest}
		}
		return answer{codes.Aborted, ""}
	default:
		return answer{codes.PermissionDenied, reasonRole}
	}
}

// reasonsNow returns how often each reason was counted.
func (b *bed) reasonsNow() map[reason]float64 {
	now := map[reason]float64{}
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "causeway_gateway_refusals_total" {
			for _, m := range family.GetMetric() {
				now[reason(m.GetLabel()[0].GetValue())] = m.GetCounter().GetValue()
			}
		}
	}
	return now
}

// call makes one with an empty request, and returns the answer.
func (b *bed) call(conn *grpc.ClientConn, method string) answer {
	b.t.Helper()
	before := b.reasonsNow()
	got := answer{code: status.Code(conn.Invoke(b.ctx(), method, new(emptypb.Empty), new(wrapperspb.StringValue)))}
	for why, n := range b.reasonsNow() {
		if n != before[why] {
			got.why += why
		}
	}
	return got
}

// Every call that there is, and some that there are not, made with every kind of
// certificate.
func TestEachCertificateAndCall(t *testing.T) {
	b := newBed(t)
	ours := ourCalls(t)
	b.register = func(r grpc.ServiceRegistrar) { registerAll(r, ours) }
	b.restartGateway()
	all := calls(t)
	for _, call := range all {
		if _, ok := decided()[call]; !ok && strings.HasPrefix(call, "/causeway.") {
			t.Errorf("nobody has decided who may call %s: say so here, and in access.go", call)
		}
	}
	for call := range invented() {
		all = append(all, call)
	}
	for _, caller := range b.callers() {
		t.Run(caller.name, func(t *testing.T) {
			conn := b.dialTLS(caller.config)
			certificates := b.refused(reasonCertificate)
			for _, call := range all {
				want := expected(caller.role, call)
				got := b.call(conn, call)
				switch caller.kind {
				case refusedAtOnce:
					want = answer{codes.Unavailable, ""}
					got.why = "" // it is counted when it connects, which is not with each call
				case takenBack:
					want = answer{codes.Unauthenticated, reasonExcluded}
					if invented()[call] == malformed {
						want = answer{codes.Unimplemented, ""}
					}
				}
				if got != want {
					t.Errorf("%s: %+v, want %+v", call, got, want)
				}
			}
			if counted := b.refused(reasonCertificate) > certificates; counted != (caller.kind == refusedAtOnce) {
				t.Errorf("a certificate was refused: %t", counted)
			}
			_ = conn.Close()
		})
	}
}
