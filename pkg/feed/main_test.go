package feed

import (
	"context"
	"crypto/tls"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/stats"

	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/service"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	quiet  = slog.New(slog.DiscardHandler)
	byAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

	byPrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
)

const patience = 60 * time.Second

// eventually waits until ok, which it asks again and again.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func view(name string, clusters ...string) *service.View {
	return &service.View{
		Name: service.Name{Namespace: "shop", Name: name},
		Frontends: []service.Frontend{{
			IP:    netip.MustParseAddr("10.96.0.7"),
			Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80}},
		}},
		Groups: []service.Group{{Clusters: clusters, Tier: 1, Weight: 3}},
	}
}

func slice(name string, part int, ips ...string) *service.BackendSlice {
	s := &service.BackendSlice{
		BackendSliceKey: service.BackendSliceKey{
			Service: service.Name{Namespace: "shop", Name: name}, Cluster: "west", Slice: name + "-1", Part: part,
		},
		Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 8080}},
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, service.BackendEndpoint{IP: netip.MustParseAddr(ip), Node: "n", Pod: "p-" + ip})
	}
	return s
}

func viewsOf(vs ...*service.View) service.Delta {
	d := service.Delta{Views: map[service.Name]*service.View{}}
	for _, v := range vs {
		d.Views[v.Name] = v
	}
	return d
}

func slicesOf(ss ...*service.BackendSlice) service.Delta {
	d := service.Delta{Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
	for _, s := range ss {
		d.Slices[s.BackendSliceKey] = s
	}
	return d
}

func apply(s *Server, d service.Delta) { s.Apply(merge.Delta{Services: d}) }

// sink is an agent's end. It holds the state that the batches make, and how
// many there were.
type sink struct {
	mu        sync.Mutex
	state     service.Delta
	last      Revision
	snapshots int
	batches   int
	changed   int // views and slices given after the first batch
	// refuse is returned once by the next Apply; gate, when not nil, is waited
	// for by each.
	refuse error
	gate   chan struct{}
}

func newSink() *sink { return &sink{state: service.Delta{}} }

func (s *sink) Apply(ctx context.Context, b Batch) error {
	s.mu.Lock()
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.refuse; err != nil {
		s.refuse = nil
		return err
	}
	s.batches++
	if b.Snapshot {
		s.snapshots++
		s.changed = 0
		s.state = service.Delta{Views: map[service.Name]*service.View{}, Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
	}
	if !b.Snapshot {
		s.changed += len(b.Delta.Views) + len(b.Delta.Slices)
	}
	put(s.state.Views, b.Delta.Views)
	put(s.state.Slices, b.Delta.Slices)
	s.last = b.Revision
	return nil
}

func put[K comparable, V any](have, changes map[K]*V) {
	maps.Copy(have, changes)
	maps.DeleteFunc(have, func(_ K, v *V) bool { return v == nil })
}

func (s *sink) hold() (release func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	s.gate = gate
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		s.gate = nil
		s.mu.Unlock()
		close(gate)
	})
}

func (s *sink) counts() (batches, snapshots int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches, s.snapshots
}

func (s *sink) given() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *sink) at(r Revision) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last == r
}

// expect waits for the server's newest revision and compares the states.
func (s *sink) expect(t *testing.T, server *Server, want ...service.Delta) {
	t.Helper()
	eventually(t, "the newest revision arrives", func() bool { return s.at(server.Revision()) })
	all := service.Delta{Views: map[service.Name]*service.View{}, Slices: map[service.BackendSliceKey]*service.BackendSlice{}}
	for _, d := range want {
		put(all.Views, d.Views)
		put(all.Slices, d.Slices)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if diff := cmp.Diff(all, s.state, byAddr); diff != "" {
		t.Errorf("state at the agent (-want +got):\n%s", diff)
	}
}

// mesh is one cluster's authority with a place for a gateway.
type mesh struct {
	t         *testing.T
	authority *pki.Authority
	dir       string
	traffic   traffic
}

// traffic counts the bytes of messages, both ways, as they are on the wire, and
// those that were received.
type traffic struct{ sent, received, messages atomic.Int64 }

func (*traffic) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*traffic) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*traffic) HandleConn(context.Context, stats.ConnStats)                       {}

func (c *traffic) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch s := s.(type) {
	case *stats.OutPayload:
		c.sent.Add(int64(s.WireLength))
	case *stats.InPayload:
		c.received.Add(int64(s.WireLength))
		c.messages.Add(1)
	}
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(t.TempDir(), "pki"), "east")
	if err != nil {
		t.Fatal(err)
	}
	return &mesh{t: t, authority: authority, dir: t.TempDir()}
}

func newServer() *Server {
	return NewServer(ServerConfig{Logger: quiet, Registerer: prometheus.NewRegistry()})
}

// serve offers s on address by TLS, as a gateway does, until stop or the end
// of the test, and returns where.
func (m *mesh) serve(s *Server, address string) (target string, stop func()) {
	m.t.Helper()
	config, err := m.authority.ServerConfig(nil, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		m.t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)), grpc.StreamInterceptor(withSubject), grpc.StatsHandler(&m.traffic))
	s.Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	stop = sync.OnceFunc(func() {
		server.Stop()
		if err := <-done; err != nil {
			m.t.Errorf("serve: %v", err)
		}
	})
	m.t.Cleanup(stop)
	return listener.Addr().String(), stop
}

func withSubject(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	p, _ := peer.FromContext(stream.Context())
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	if len(info.State.PeerCertificates) == 0 {
		return handler(srv, stream)
	}
	subject, err := pki.SubjectOf(info.State.PeerCertificates[0])
	if err != nil {
		return err
	}
	return handler(srv, subjectStream{stream, pki.ContextWithSubject(stream.Context(), subject)})
}

type subjectStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s subjectStream) Context() context.Context { return s.ctx }

// tls returns the client side for a certificate of that role and name.
func (m *mesh) tls(role pki.Role, name string) *tls.Config {
	m.t.Helper()
	pair, err := m.authority.Issue(pki.Request{Role: role, Name: name, TTL: time.Hour})
	if err != nil {
		m.t.Fatal(err)
	}
	files := pki.ClientFiles{
		CAFile:   m.authority.CertFile(),
		CertFile: filepath.Join(m.dir, string(role)+name+".crt"),
		KeyFile:  filepath.Join(m.dir, string(role)+name+".key"),
	}
	if err := pair.Save(files.CertFile, files.KeyFile); err != nil {
		m.t.Fatal(err)
	}
	config, err := pki.ClientConfig(files, pki.MeshNames("east")...)
	if err != nil {
		m.t.Fatal(err)
	}
	return config
}

// agent runs a client for a node until stop or the end of the test.
func (m *mesh) agent(target, node string, s Sink, state ...*State) (client *Client, stop func()) {
	m.t.Helper()
	client = NewClient(ClientConfig{
		Target: target, TLS: m.tls(pki.RoleAgent, node), Node: node, Version: "v1", State: append(state, nil)[0],
		Sink: s, Logger: quiet, Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("run: %v", err)
		}
	})
	m.t.Cleanup(stop)
	return client, stop
}

// heap returns the bytes in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// value is that of a counter or gauge.
func value(m prometheus.Metric) float64 {
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		return math.NaN()
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}
