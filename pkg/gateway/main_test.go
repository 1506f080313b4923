package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal"
)

// patience is how long a test waits for something that must happen.
const patience = 60 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bed is a gateway with an etcd behind it and an authority.
type bed struct {
	t         *testing.T
	authority *pki.Authority
	dir       string // of etcd
	etcd      *kvstore.Client
	stopEtcd  func()
	registry  *prometheus.Registry
	gateway   *Gateway
	stop      func()
	// register is what the next gateway offers; nil: see config.
	register func(grpc.ServiceRegistrar)
	// hostiles are the connections of an attack.
	hostiles []net.Conn
}

func newBed(t *testing.T) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "gateway") // short: a socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	b := &bed{t: t, dir: filepath.Join(dir, "etcd"), registry: prometheus.NewRegistry()}
	if b.authority, err = pki.OpenAuthority(filepath.Join(dir, "pki"), "east"); err != nil {
		t.Fatal(err)
	}
	b.startEtcd()
	t.Cleanup(func() { b.stopEtcd() })
	b.startGateway()
	t.Cleanup(func() { b.stop() })
	return b
}

// startEtcd starts etcd over what is in its directory. The first client is the
// gateway's for all of the test.
func (b *bed) startEtcd() {
	b.t.Helper()
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: b.dir, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	b.stopEtcd = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
		b.stopEtcd = func() {}
	}
	dialled, stop := context.WithTimeout(ctx, patience)
	defer stop()
	client, err := server.Dial(dialled)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = client.Close() })
	if b.etcd == nil {
		b.etcd = client
	}
}

func (b *bed) config() Config {
	b.t.Helper()
	server, err := b.authority.ServerConfig(nil, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	config := Config{
		Cluster: "east", Listen: "127.0.0.1:0", TLS: server,
		Etcd: b.etcd.Etcd().ActiveConnection(),
		Register: func(r grpc.ServiceRegistrar) {
			r.RegisterService(whoService("causeway.feed.v1.Feed"), nil)
			r.RegisterService(whoService("causeway.observe.v1.Observe"), nil)
			r.RegisterService(whoService("causeway.probe.v1.Probe"), nil)
			r.RegisterService(whoService("causeway.admin.v1.Admin"), nil)
			renewal.NewServer(renewal.ServerConfig{
				Authority: b.authority, AgentTTL: time.Hour, PeerTTL: time.Hour,
				Certificate: CertificateOf, Top: TopOf, Root: RootOf, Extend: Extend, Logger: slog.New(slog.DiscardHandler),
			}).Register(r)
		},
		Logger: slog.New(slog.DiscardHandler), Registerer: b.registry,
	}
	if b.register != nil {
		config.Register = b.register
	}
	return config
}

func (b *bed) startGateway() {
	b.t.Helper()
	config := b.config()
	if b.gateway != nil { // the same port again, and metrics of its own
		config.Listen = b.gateway.Addr().String()
		b.registry = prometheus.NewRegistry()
		config.Registerer = b.registry
	}
	b.gateway = New(config)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.gateway.Run(ctx) }()
	select {
	case <-b.gateway.Listening():
	case err := <-done:
		b.t.Fatal(err)
	}
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
		b.stop = func() {}
	}
}

func (b *bed) restartGateway() {
	b.t.Helper()
	b.stop()
	b.startGateway()
}

// clientTLS returns the TLS configuration of a client of role, none if "".
func (b *bed) clientTLS(role pki.Role, name string, ttl time.Duration) *tls.Config {
	b.t.Helper()
	if role == "" {
		config := b.clientTLS(pki.RoleAdmin, "admin", ttl)
		config.GetClientCertificate = nil
		return config
	}
	pair, err := b.authority.Issue(pki.Request{Role: role, Name: name, TTL: ttl})
	if err != nil {
		b.t.Fatal(err)
	}
	admin := pki.Admin{
		ClusterName: "east", CA: string(b.authority.CertPEM()),
		Cert: string(pair.CertPEM), Key: string(pair.KeyPEM),
	}
	config, err := admin.ClientConfig()
	if err != nil {
		b.t.Fatal(err)
	}
	return config
}

// dial returns a connection of role to the gateway.
func (b *bed) dial(role pki.Role, name string) *grpc.ClientConn {
	b.t.Helper()
	return b.dialTLS(b.clientTLS(role, name, time.Hour))
}

func (b *bed) dialTLS(config *tls.Config) *grpc.ClientConn {
	b.t.Helper()
	conn, err := grpc.NewClient(b.gateway.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (b *bed) put(key, value string) {
	b.t.Helper()
	if err := b.etcd.Put(b.ctx(), key, []byte(value)); err != nil {
		b.t.Fatal(err)
	}
}

// putAll writes many keys, in transactions.
func (b *bed) putAll(keys []string, value string) {
	b.t.Helper()
	kv := pb.NewKVClient(b.etcd.Etcd().ActiveConnection())
	for batch := range slices.Chunk(keys, 128) {
		txn := new(pb.TxnRequest)
		for _, key := range batch {
			put := &pb.PutRequest{Key: []byte(key), Value: []byte(value)}
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		if _, err := kv.Txn(b.ctx(), txn); err != nil {
			b.t.Fatal(err)
		}
	}
}

// ctx bounds one step of a test.
func (b *bed) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

// refused returns how often the gateway refused for a reason.
func (b *bed) refused(why reason) float64 {
	return b.value("causeway_gateway_refusals_total", string(why))
}

// value returns the metric of one label value.
func (b *bed) value(metric, label string) float64 {
	b.t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == metric && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	b.t.Fatalf("no metric %s of %q", metric, label)
	return 0
}

// eventually waits for a condition that nothing announces.
func (b *bed) eventually(what string, condition func() bool) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			b.t.Fatalf("still not: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// whoService is a service with a call that says who calls, and a stream that
// waits for its end.
func whoService(name string) *grpc.ServiceDesc {
	who := func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		request := new(emptypb.Empty)
		if err := decode(request); err != nil {
			return nil, err
		}
		return intercept(ctx, request, &grpc.UnaryServerInfo{FullMethod: "/" + name + "/Who"},
			func(ctx context.Context, _ any) (any, error) {
				subject, ok := pki.SubjectFromContext(ctx)
				return wrapperspb.String(fmt.Sprintf("%s %t", subject, ok)), nil
			})
	}
	wait := func(_ any, stream grpc.ServerStream) error {
		<-stream.Context().Done()
		return status.FromContextError(stream.Context().Err()).Err()
	}
	return &grpc.ServiceDesc{
		ServiceName: name,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Who", Handler: who}},
		Streams:     []grpc.StreamDesc{{StreamName: "Wait", Handler: wait, ServerStreams: true}},
	}
}

func (b *bed) kv(role pki.Role, name string) pb.KVClient { return pb.NewKVClient(b.dial(role, name)) }
