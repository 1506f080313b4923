package admin

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/observe"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/probe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type nothing struct{}

func (nothing) Apply(merge.Delta) {}

// door is an API server as others see it.
type door struct {
	t         *testing.T
	authority *pki.Authority
	target    string
	drops     *observe.Server
	paths     *probe.Server
}

func newDoor(t *testing.T) *door {
	t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(t.TempDir(), "pki"), "east")
	if err != nil {
		t.Fatal(err)
	}
	tls, err := authority.ServerConfig(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	etcd, err := grpc.NewClient("passthrough:///127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	engine := merge.NewEngine("east", nothing{})
	engine.Apply("east", merge.Update{Nodes: map[string]*node.Node{"n1": {ClusterID: 1}, "n2": {ClusterID: 1}}})
	engine.Apply("west", merge.Update{
		Nodes: map[string]*node.Node{"w1": {ClusterID: 2, Addresses: []node.Address{{Type: node.InternalIP, IP: netip.MustParseAddr("192.0.2.1")}}}},
		Identities: map[identity.Number]*identity.Identity{
			131328: {Labels: "k8s:app=web;"}, 131329: {Labels: "k8s:app=db;"},
		},
		Addresses: map[netip.Prefix]*endpoint.Address{netip.MustParsePrefix("10.2.0.1/32"): {
			HostIP: netip.MustParseAddr("192.0.2.1"), Identity: 131329, Namespace: "shop", Pod: "db-0",
		}},
	})
	quiet := slog.New(slog.DiscardHandler)
	d := &door{t: t, authority: authority, drops: observe.NewServer(observe.ServerConfig{Read: observe.BookOf(engine), Logger: quiet, Registerer: prometheus.NewRegistry()})}
	d.paths = probe.NewServer(probe.ServerConfig{Registerer: prometheus.NewRegistry()})
	server := New(Config{
		Cluster: cluster.Config{Name: "east"}, Engine: engine, Observe: d.drops, Probe: d.paths,
		Agents: func() []feed.AgentStatus { return []feed.AgentStatus{{Node: "n1", Connected: true}} },
	})
	g := gateway.New(gateway.Config{
		Cluster: "east", Listen: "127.0.0.1:0", TLS: tls, Etcd: etcd,
		Register: func(r grpc.ServiceRegistrar) {
			server.Register(r)
			d.drops.Register(r)
			d.paths.Register(r)
		},
		Logger: quiet, Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = etcd.Close()
	})
	<-g.Listening()
	d.target = g.Addr().String()
	return d
}

func (d *door) dial(role pki.Role, name string) *grpc.ClientConn {
	d.t.Helper()
	pair, err := d.authority.Issue(pki.Request{Role: role, Name: name, TTL: time.Hour})
	if err != nil {
		d.t.Fatal(err)
	}
	file := pki.Admin{ClusterName: "east", CA: string(d.authority.CertPEM()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM)}
	tls, err := file.ClientConfig()
	if err != nil {
		d.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+d.target, grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// agent runs an agent and returns what makes it drop a packet.
func (d *door) agent(name string) (drop func(observe.Event)) {
	d.t.Helper()
	a := observe.NewAgent(observe.AgentConfig{Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	conn := d.dial(pki.RoleAgent, name)
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan observe.Event)
	var group sync.WaitGroup
	group.Go(func() { a.Serve(ctx, conn) })
	group.Go(func() {
		_ = a.Run(ctx, func(ctx context.Context, note func(observe.Event)) error {
			for {
				select {
				case e := <-events:
					note(e)
				case <-ctx.Done():
					return nil
				}
			}
		})
	})
	d.t.Cleanup(func() {
		cancel()
		group.Wait()
	})
	return func(e observe.Event) { events <- e }
}

// seen waits until that many nodes can be observed.
func (d *door) seen(nodes int) {
	d.t.Helper()
	deadline := time.After(time.Minute)
	for {
		l, err := d.drops.Listen(observe.Filter{}, 0, false)
		if err != nil {
			d.t.Fatal(err)
		}
		l.Close()
		if len(l.Nodes()) == nodes {
			return
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			d.t.Fatalf("the nodes seen are %q", l.Nodes())
		}
	}
}

func TestObserve(t *testing.T) {
	d := newDoor(t)
	drop := d.agent("n1")
	d.seen(1)
	at := time.Unix(1700000000, 0)
	drop(observe.Event{
		Time: at, Direction: observe.FromMesh, Reason: "identity",
		Source: netip.MustParseAddrPort("10.2.0.1:4711"), Destination: netip.MustParseAddrPort("10.1.0.1:80"), Protocol: 6,
		Tunnel: netip.MustParseAddr("192.0.2.1"), ClusterID: 2, Identity: 131328, Known: 131329, Length: 74,
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := adminpb.NewAdminClient(d.dial(pki.RoleAdmin, "admin")).Observe(ctx, &adminpb.ObserveRequest{
		Last: 5, Follow: true, Reasons: []string{"identity", "malformed"}, From: "shop/db-0",
	})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want *adminpb.ObserveResponse) {
		t.Helper()
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	expect(&adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Observed{Observed: &adminpb.Observed{Nodes: []string{"n1"}, Others: []string{"n2"}}}})
	expect(&adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Drop{Drop: &adminpb.Drop{
		Time: timestamppb.New(at), Node: "n1", Direction: "from_mesh", Reason: "identity",
		Source:      &adminpb.Party{Address: "10.2.0.1", Port: 4711, Cluster: "west", Node: "w1", Namespace: "shop", Pod: "db-0"},
		Destination: &adminpb.Party{Address: "10.1.0.1", Port: 80},
		Protocol:    6, Tunnel: "192.0.2.1", TunnelNode: "w1", ClusterId: 2, Cluster: "west",
		Identity: 131328, IdentityLabels: []string{"k8s:app=web"}, KnownIdentity: 131329, KnownLabels: []string{"k8s:app=db"}, Length: 74,
	}}})
	d.agent("n2")
	expect(&adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Change{Change: &adminpb.NodeChange{Node: "n2", State: "back"}}})
	d.seen(2)
	drop(observe.Event{Time: at, Direction: observe.FromMesh, Reason: "malformed"}) // of nobody known
	drop(observe.Event{Time: at, Direction: observe.ToMesh, Reason: "malformed", Source: netip.MustParseAddrPort("10.2.0.1:0")})
	expect(&adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Drop{Drop: &adminpb.Drop{
		Time: timestamppb.New(at), Node: "n1", Direction: "to_mesh", Reason: "malformed",
		Source: &adminpb.Party{Address: "10.2.0.1", Cluster: "west", Node: "w1", Namespace: "shop", Pod: "db-0"},
	}}})
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Errorf("at the end: %v", err)
	}
}

// Without follow it ends by itself; what is wrong, and too many, are said.
func TestObserveEnds(t *testing.T) {
	d := newDoor(t)
	client := adminpb.NewAdminClient(d.dial(pki.RoleAdmin, "admin"))
	ask := func(r *adminpb.ObserveRequest) error {
		stream, err := client.Observe(t.Context(), r)
		for err == nil {
			_, err = stream.Recv()
		}
		return err
	}
	if err := ask(&adminpb.ObserveRequest{Last: 5}); err.Error() != "EOF" {
		t.Errorf("the end: %v", err)
	}
	if err := ask(&adminpb.ObserveRequest{From: "web"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a filter that is none: %v", err)
	}
	for {
		if _, err := d.drops.Listen(observe.Filter{}, 0, true); err != nil {
			break
		}
	}
	if err := ask(&adminpb.ObserveRequest{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
}

func TestWhoMayObserve(t *testing.T) {
	d := newDoor(t)
	for _, role := range []pki.Role{pki.RolePeer, pki.RoleAgent} {
		stream, err := adminpb.NewAdminClient(d.dial(role, "n1")).Observe(t.Context(), &adminpb.ObserveRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: %v", role, err)
		}
	}
}
