package main

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

// obliging are services that do all that they are asked.
type obliging struct {
	joinpb.UnimplementedMembershipServer
	joinpb.UnimplementedJoinServer
}

func (obliging) Invite(context.Context, *joinpb.InviteRequest) (*joinpb.InviteResponse, error) {
	return &joinpb.InviteResponse{Invitation: "x"}, nil
}

func (obliging) Describe(context.Context, *joinpb.DescribeRequest) (*joinpb.DescribeResponse, error) {
	return &joinpb.DescribeResponse{}, nil
}

func (obliging) Disconnect(_ *joinpb.DisconnectRequest, stream grpc.ServerStreamingServer[joinpb.Step]) error {
	return stream.Send(&joinpb.Step{Text: "done"})
}

func (obliging) Join(stream grpc.BidiStreamingServer[joinpb.JoinRequest, joinpb.JoinResponse]) error {
	return stream.Send(&joinpb.JoinResponse{})
}

// TestKeptBeforeAnswered: a call that changes what is kept is answered when it is, and
// another one at once.
func TestKeptBeforeAnswered(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	var waits atomic.Int32
	server := grpc.NewServer()
	registrar := acknowledging{ServiceRegistrar: server, flush: func(context.Context) error {
		waits.Add(1)
		if broken.Load() {
			return errors.New("the API server is away")
		}
		return nil
	}}
	joinpb.RegisterMembershipServer(registrar, obliging{})
	joinpb.RegisterJoinServer(registrar, obliging{})
	listener := bufconn.Listen(1 << 16)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := joinpb.NewMembershipClient(conn)
	calls := map[string]func() (messages int, err error){
		"describe": func() (int, error) {
			_, err := client.Describe(ctx, &joinpb.DescribeRequest{})
			return 0, err
		},
		"invite": func() (int, error) {
			_, err := client.Invite(ctx, &joinpb.InviteRequest{})
			return 0, err
		},
		"disconnect": func() (int, error) { return received(client.Disconnect(ctx, &joinpb.DisconnectRequest{})) },
		"join":       func() (int, error) { return received(joinpb.NewJoinClient(conn).Join(ctx)) },
	}
	for _, tc := range []struct {
		call            string
		broken          bool
		messages, waits int
	}{
		{"describe", true, 0, 0},
		{"invite", false, 0, 1},
		{"invite", true, 0, 1},
		{"disconnect", false, 1, 1},
		{"disconnect", true, 1, 1},
		{"join", false, 1, 2},
		{"join", true, 0, 1},
	} {
		broken.Store(tc.broken)
		waits.Store(0)
		messages, err := calls[tc.call]()
		if messages != tc.messages || int(waits.Load()) != tc.waits {
			t.Errorf("%s: %d messages and %d waits, want %d and %d", tc.call, messages, waits.Load(), tc.messages, tc.waits)
		}
		if fails := tc.broken && tc.waits > 0; fails != (grpcstatus.Code(err) == codes.Unavailable) || !fails && err != nil ||
			fails && !strings.Contains(err.Error(), "is not kept in the Kubernetes API yet and would be lost with this pod; do it again when `causeway status` says that it can be: the API server is away") {
			t.Errorf("%s, broken %v: %v", tc.call, tc.broken, err)
		}
	}
}

// received counts the messages of a stream until its end.
func received[M any](stream interface{ Recv() (*M, error) }, err error) (n int, failed error) {
	for ; err == nil; n++ {
		_, err = stream.Recv()
	}
	if err.Error() == "EOF" {
		err = nil
	}
	return n - 1, err
}

// TestKeepers: what waits is a call that there is, and what changes nothing is known.
func TestKeepers(t *testing.T) {
	t.Parallel()
	reads := []string{"Authority", "Describe", "Reach", "Fits", "Trust", "Status", "List"}
	left := keepers()
	for _, desc := range []grpc.ServiceDesc{
		joinpb.Join_ServiceDesc, joinpb.Membership_ServiceDesc, rotationpb.Holder_ServiceDesc, rotationpb.Rotation_ServiceDesc,
		strangerpb.Enrolment_ServiceDesc, strangerpb.Tokens_ServiceDesc,
	} {
		var names []string
		for _, m := range desc.Methods {
			names = append(names, m.MethodName)
		}
		for _, s := range desc.Streams {
			names = append(names, s.StreamName)
		}
		for _, name := range names {
			full := "/" + desc.ServiceName + "/" + name
			if _, waits := left[full]; waits == slices.Contains(reads, name) {
				t.Errorf("%s waits: %v", full, waits)
			}
			delete(left, full)
		}
	}
	if len(left) > 0 {
		t.Errorf("no such calls: %q", slices.Sorted(maps.Keys(left)))
	}
}
