package observe

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for something that must happen.
const patience = 60 * time.Second

type nothing struct{}

func (nothing) Apply(merge.Delta) {}

// newEngine knows two clusters, east, the own one, and west, with two nodes each
// and a pod on each first.
func newEngine() *merge.Engine {
	e := merge.NewEngine("east", nothing{})
	for id, name := range map[cluster.ID]string{1: "east", 2: "west"} {
		number := identity.Number(id)<<16 + 256
		u := merge.Update{
			Nodes:      map[string]*node.Node{},
			Identities: map[identity.Number]*identity.Identity{number: {Labels: identity.Labels("k8s:app=" + name + "-app;")}},
			Addresses: map[netip.Prefix]*endpoint.Address{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.1/32", id)): {
				HostIP: netip.MustParseAddr(fmt.Sprintf("192.0.%d.1", id)), Identity: number, Namespace: "shop", Pod: name + "-0",
			}},
		}
		for i := 1; i <= 2; i++ {
			u.Nodes[fmt.Sprintf("n%d", i)] = &node.Node{ClusterID: id, Addresses: []node.Address{
				{Type: node.InternalIP, IP: netip.MustParseAddr(fmt.Sprintf("192.0.%d.%d", id, i))},
			}}
		}
		e.Apply(name, u)
	}
	return e
}

// bed is an API server: a gateway with nothing but a Server behind it.
type bed struct {
	t         *testing.T
	authority *pki.Authority
	server    *Server
	target    string
	stop      func()
}

func newBed(t *testing.T) *bed {
	t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(t.TempDir(), "pki"), "east")
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, authority: authority, target: "127.0.0.1:0"}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// start runs an API server that has seen no agent, at the same address again.
func (b *bed) start() {
	b.t.Helper()
	config, err := b.authority.ServerConfig(nil, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	etcd, err := grpc.NewClient("passthrough:///127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.t.Fatal(err)
	}
	b.server = NewServer(ServerConfig{Read: BookOf(newEngine()), Logger: logger(b.t), Registerer: prometheus.NewRegistry()})
	door := gateway.New(gateway.Config{
		Cluster: "east", Listen: b.target, TLS: config, Etcd: etcd,
		Register: func(r grpc.ServiceRegistrar) { b.server.Register(r) },
		Logger:   logger(b.t), Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- door.Run(ctx) }()
	select {
	case <-door.Listening():
	case err := <-done:
		b.t.Fatal(err)
	}
	b.target = door.Addr().String()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
		_ = etcd.Close()
	})
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// dial connects with a certificate of that role and name.
func (b *bed) dial(role pki.Role, name string) *grpc.ClientConn {
	b.t.Helper()
	pair, err := b.authority.Issue(pki.Request{Role: role, Name: name, TTL: time.Hour})
	if err != nil {
		b.t.Fatal(err)
	}
	admin := pki.Admin{ClusterName: "east", CA: string(b.authority.CertPEM()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM)}
	config, err := admin.ClientConfig()
	if err != nil {
		b.t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+b.target, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// source is where a test drops packets.
type source struct {
	*Agent
	events chan Event
	noted  chan struct{} // one for each event that the agent has
	stop   func()
}

func newSource(t *testing.T) *source {
	return &source{
		Agent:  NewAgent(AgentConfig{Logger: logger(t), Registerer: prometheus.NewRegistry()}),
		events: make(chan Event), noted: make(chan struct{}),
	}
}

// give is the Source of the agent.
func (s *source) give(ctx context.Context, note func(Event)) error {
	for {
		select {
		case e := <-s.events:
			note(e)
			s.noted <- struct{}{}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// agent runs one for a node until the end of the test, or stop.
func (b *bed) agent(name string) *source {
	b.t.Helper()
	s := newSource(b.t)
	conn := b.dial(pki.RoleAgent, name)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { s.Serve(ctx, conn) })
	group.Go(func() {
		_ = s.Run(ctx, s.give)
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		group.Wait()
	})
	b.t.Cleanup(s.stop)
	b.eventually(name+" is there", func() bool { return b.has(name) })
	return s
}

func (b *bed) has(name string) bool {
	b.server.mu.Lock()
	defer b.server.mu.Unlock()
	return b.server.agents[name] != nil
}

// drop makes the node drop a packet to each of the ports, and returns when its
// agent knows of them.
func (s *source) drop(ports ...uint16) {
	for _, p := range ports {
		s.events <- dropped(p)
		<-s.noted
	}
}

func dropped(port uint16) Event {
	return Event{
		Time: time.Unix(1700000000, int64(port)), Direction: FromMesh, Reason: "identity",
		Source: netip.MustParseAddrPort("10.2.0.1:4711"), Destination: netip.AddrPortFrom(netip.MustParseAddr("10.1.0.1"), port),
		Protocol: 6, Tunnel: netip.MustParseAddr("192.0.2.1"), ClusterID: 2, Identity: 131328, Known: 131329, Length: 74,
	}
}

// wanted waits until the agent knows how many filters there are.
func (b *bed) wanted(s *source, filters int) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("the agent has %d filters", filters), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.filters) == filters
	})
}

func (b *bed) listen(f Filter, last int, follow bool) *Listener {
	b.t.Helper()
	l, err := b.server.Listen(f, last, follow)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(l.Close)
	return l
}

// heard is what a listener was told, in order, as text.
func (b *bed) heard(l *Listener, want int) []string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	defer cancel()
	var out []string
	for len(out) < want {
		items, err := l.Next(ctx)
		if err != nil {
			b.t.Fatalf("after %q: %v", out, err)
		}
		for _, i := range items {
			out = append(out, i.text())
		}
	}
	return out
}

func (i Item) text() string {
	switch {
	case i.Lost != nil:
		return fmt.Sprintf("%s lost %d", i.Lost.Node, i.Lost.Events)
	case i.Change != nil:
		return fmt.Sprintf("%s %s", i.Change.Node, i.Change.State)
	default:
		return fmt.Sprintf("%s %d", i.Seen.Node, i.Seen.Destination.Port())
	}
}

func (b *bed) eventually(what string, ok func() bool) {
	b.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			b.t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// value is that of a counter or gauge.
func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		t.Fatal(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}
