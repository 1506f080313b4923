package gateway

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

func peerOf(name string) pki.Subject {
	return pki.Subject{Cluster: "east", Role: pki.RolePeer, Name: name}
}

// Who is excluded is cut off with all that is open, and told why from then on;
// nobody else notices, and a certificate that is valid from later is good.
func TestExclude(t *testing.T) {
	b := newBed(t)
	b.put(wire.HeartbeatKey, "now")
	open := func(name string) pb.Watch_WatchClient {
		watch, err := pb.NewWatchClient(b.dial(pki.RolePeer, name)).Watch(b.ctx())
		if err != nil {
			t.Fatal(err)
		}
		create := &pb.WatchCreateRequest{Key: []byte(wire.HeartbeatKey)}
		if err := watch.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		return watch
	}
	west, north := open("west"), open("north")
	old := b.dialTLS(b.clientTLS(pki.RolePeer, "west", time.Hour))
	agent := b.dial(pki.RoleAgent, "west")

	out := time.Now().Truncate(time.Second).Add(time.Second)
	b.gateway.exclusions.Exclude(peerOf("west"), out)
	b.put(wire.HeartbeatKey, "later")
	if event, err := west.Recv(); err == nil {
		t.Errorf("an open watch of an excluded peer got %v", event)
	}
	if event, err := north.Recv(); err != nil || len(event.Events) != 1 {
		t.Errorf("another peer's watch: %v, %v", event, err)
	}
	_, err := pb.NewKVClient(old).Range(b.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)})
	if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "needs a new invitation") {
		t.Errorf("an excluded peer reads: %v", err)
	}
	// Other roles are other subjects, of whatever name.
	if err := agent.Invoke(b.ctx(), "/causeway.feed.v1.Feed/Who", new(emptypb.Empty), new(wrapperspb.StringValue)); err != nil {
		t.Errorf("the agent of the same name: %v", err)
	}
	if b.refused(reasonExcluded) == 0 {
		t.Error("the refusal was not counted")
	}

	b.gateway.exclusions.Exclude(peerOf("west"), out.Add(-time.Hour)) // earlier: changes nothing
	later := func(from time.Time) codes.Code {
		t.Helper()
		pair, err := b.authority.Issue(pki.Request{Role: pki.RolePeer, Name: "west", TTL: time.Hour, NotBefore: from})
		if err != nil {
			t.Fatal(err)
		}
		config, err := pki.Admin{ClusterName: "east", CA: string(b.authority.CertPEM()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM)}.ClientConfig()
		if err != nil {
			t.Fatal(err)
		}
		_, err = pb.NewKVClient(b.dialTLS(config)).Range(b.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)})
		return status.Code(err)
	}
	b.eventually("the second after the exclusion", func() bool { return time.Now().After(out) })
	if got := later(out.Add(-time.Second)); got != codes.Unauthenticated {
		t.Errorf("valid from before: %s", got)
	}
	if got := later(out); got != codes.OK {
		t.Errorf("valid from then on: %s", got)
	}
}

// A connection whose certificate was taken back goes, so that its holder comes
// again with what it has then, and takes no place meanwhile.
func TestExcludedConnectionGoes(t *testing.T) {
	b := newBed(t)
	b.gateway.exclusions.Exclude(peerOf("west"), time.Now().Add(time.Hour))
	client := b.kv(pki.RolePeer, "west")
	if _, err := client.Range(b.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)}); status.Code(err) != codes.Unauthenticated {
		t.Fatal(err)
	}
	b.eventually("no connection is left", func() bool {
		return b.value("causeway_gateway_connections", string(pki.RolePeer)) == 0
	})
	b.eventually("none is remembered", func() bool {
		e := b.gateway.exclusions
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.open) == 0
	})
}

// A time that was given by a clock that was ahead can be made an earlier one; for who is
// not excluded that changes nothing.
func TestReadmit(t *testing.T) {
	now := time.Now()
	e := NewExclusions(slog.New(slog.DiscardHandler))
	e.Exclude(peerOf("west"), now.Add(time.Hour))
	e.Readmit(peerOf("west"), now)
	e.Readmit(peerOf("north"), now)
	for name, want := range map[string]bool{"west": true, "north": false} {
		since, out := e.since(&connection{subject: peerOf(name), from: now.Add(-time.Minute)})
		if out != want || want && !since.Equal(now) {
			t.Errorf("%s: out %v since %s", name, out, since)
		}
		if _, out := e.since(&connection{subject: peerOf(name), from: now.Add(time.Minute)}); out {
			t.Errorf("%s: a later certificate is refused", name)
		}
	}
}
