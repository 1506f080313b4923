package token

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// planes is the control plane that reviews tokens of service accounts.
var planes kubelab.Shared

func TestMain(m *testing.M) { goleak.VerifyTestMain(planes.Around(m)) }

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// run runs fn until the test ends.
func run(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		<-done
	}))
}

// site is a cluster with two replicas: an etcd, an authority, two gateways.
type site struct {
	t         *testing.T
	name      string
	etcd      *kvstore.Client
	authority *pki.Authority
	replicas  []*Server
	doors     []*gateway.Gateway
}

func newSite(t *testing.T, name string) *site {
	t.Helper()
	return newSiteOf(t, name, "", nil)
}

// newSiteOf is one whose agents are pods of a service account.
func newSiteOf(t *testing.T, name, account string, reviewer Reviewer) *site {
	t.Helper()
	s := &site{t: t, name: name}
	quiet := slog.New(slog.DiscardHandler)
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: filepath.Join(t.TempDir(), "etcd"), Logger: quiet})
	run(t, server.Run)
	var err error
	s.etcd, err = server.Dial(t.Context())
	check(t, err)
	t.Cleanup(func() { _ = s.etcd.Close() })
	s.authority, err = pki.OpenAuthority(t.TempDir(), name)
	check(t, err)
	for range 2 {
		tls, err := s.authority.ServerConfig(nil, nil)
		check(t, err)
		var door *gateway.Gateway
		tokens := New(Config{
			Cluster: name, Authority: s.authority, TTL: time.Hour, Etcd: s.etcd,
			Addresses: func() []string { return []string{door.Addr().String()} },
			Account:   account, Reviewer: reviewer,
			Logger: quiet, Registerer: prometheus.NewRegistry(),
		})
		door = gateway.New(gateway.Config{
			Cluster: name, Listen: "127.0.0.1:0", TLS: tls, Etcd: s.etcd.Etcd().ActiveConnection(), Register: tokens.Register,
			Logger: quiet, Registerer: prometheus.NewRegistry(),
		})
		run(t, door.Run)
		<-door.Listening()
		s.replicas, s.doors = append(s.replicas, tokens), append(s.doors, door)
	}
	return s
}

// operator calls the first replica as the command line does.
func (s *site) operator() strangerpb.TokensClient {
	s.t.Helper()
	pair, err := s.authority.Issue(pki.Request{Role: pki.RoleAdmin, Name: "admin", TTL: time.Hour})
	check(s.t, err)
	config, err := pki.Admin{ClusterName: s.name, CA: string(s.authority.CertPEM()), Cert: string(pair.CertPEM), Key: string(pair.KeyPEM)}.ClientConfig()
	check(s.t, err)
	conn, err := grpc.NewClient(s.doors[0].Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	check(s.t, err)
	s.t.Cleanup(func() { _ = conn.Close() })
	return strangerpb.NewTokensClient(conn)
}

// token returns a new one.
func (s *site) token(node string, ttl time.Duration) stranger.Pass {
	s.t.Helper()
	answer, err := s.operator().Make(within(s.t), &strangerpb.MakeRequest{Node: node, Ttl: durationpb.New(ttl)})
	check(s.t, err)
	pass, err := stranger.ParseToken(answer.Token)
	check(s.t, err)
	return pass
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// newFiles are those of an agent that has nothing yet.
func newFiles(t *testing.T) pki.ClientFiles {
	dir := t.TempDir()
	return pki.ClientFiles{CAFile: filepath.Join(dir, "ca.crt"), CertFile: filepath.Join(dir, "agent.crt"), KeyFile: filepath.Join(dir, "agent.key")}
}

// at makes the pass name one replica.
func (s *site) at(p stranger.Pass, replica int) stranger.Pass {
	p.Addresses = []string{s.doors[replica].Addr().String()}
	return p
}

// value is what a counter has counted.
func value(t *testing.T, counter prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	check(t, counter.Write(&m))
	return m.GetCounter().GetValue()
}
