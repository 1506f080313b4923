package main

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpctls "google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// patience is how long a test waits for what has to come.
const patience = 60 * time.Second

const shopKey = "cilium/state/services/v1/east/shop/web"

// journal is what an API server logs.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(line []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(line)
}

func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), text)
}

func (j *journal) logger() *slog.Logger { return slog.New(slog.NewTextHandler(j, nil)) }

// running is an API server that runs until the test ends or stop is called.
type running struct {
	journal
	t      *testing.T
	config *config
	stop   func()
}

func startRun(t *testing.T, c *config) *running {
	t.Helper()
	r := &running{t: t, config: c}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, c, r.logger()) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// untilWritten waits until all is in etcd that has to be, and what has not is gone.
func (r *running) untilWritten() {
	r.t.Helper()
	r.until("published", func(*adminpb.StatusResponse) bool { return r.has("published the whole source") })
}

// until asks the API server for its status until it is as wanted.
func (r *running) until(what string, wanted func(*adminpb.StatusResponse) bool) {
	r.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last *adminpb.StatusResponse
	for {
		answer, err := askStatus(r.t.Context(), filepath.Join(r.config.dataDir, "admin.yaml"))
		if err == nil && wanted(answer) {
			return
		}
		if err == nil {
			last = answer
		}
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%s: still not so: %v (%v)", what, last, err)
		}
	}
}

func askStatus(ctx context.Context, file string) (*adminpb.StatusResponse, error) {
	admin, err := pki.ReadAdmin(file)
	if err != nil {
		return nil, err
	}
	tls, err := admin.ClientConfig()
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+admin.Endpoint, grpc.WithTransportCredentials(grpctls.NewTLS(tls)))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return adminpb.NewAdminClient(conn).Status(ctx, &adminpb.StatusRequest{})
}

// published returns whether a key is in the etcd of an API server that has ended.
func published(t *testing.T, c *config, key string) bool {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: filepath.Join(c.dataDir, "etcd"), Logger: new(journal).logger()})
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("etcd: %v", err)
		}
	}()
	client, err := server.Dial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	_, found, err := client.Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestKubernetesSource takes an API server from a Kubernetes API to what peers
// read, and starts it again while that API is away: what was published stays, and
// goes only when the Kubernetes API says so.
func TestKubernetesSource(t *testing.T) {
	plane := kubelab.Start(t, kubelab.Config{})
	err := plane.Apply(t.Context(), `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {causeway.io/global: "true"}}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.200.0.5], conditions: {ready: true}}]
`)
	if err != nil {
		t.Fatal(err)
	}
	c := parse(t, "--data-dir="+t.TempDir(), "--manifests-dir=", "--kubeconfig="+plane.Kubeconfig(), "--listen=127.0.0.1:0", "--listen-http=",
		"--gateway-service=mesh/gateway")
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	r := startRun(t, c)
	r.until("the Service and its slice", func(s *adminpb.StatusResponse) bool {
		n := s.GetCluster().GetCounts()
		return s.GetSource().GetListed() && s.GetSource().GetKubernetes() == plane.URL() && n.GetServices() >= 1 && n.GetEndpointSlices() == 1
	})
	r.untilWritten()
	r.checkReach(plane)
	r.stop()
	if !published(t, c, shopKey) {
		t.Fatalf("%s is not published", shopKey)
	}

	plane.KillAPIServer()
	r = startRun(t, c)
	r.until("a problem of the Kubernetes API", func(s *adminpb.StatusResponse) bool {
		problems := s.GetSource().GetProblems()
		return !s.GetReady() && !s.GetSource().GetListed() && len(problems) > 0 &&
			strings.Contains(problems[0].GetMessage(), "nothing is published or withdrawn before all kinds have been read")
	})
	r.stop()
	if !published(t, c, shopKey) {
		t.Fatalf("%s was withdrawn while the Kubernetes API was away", shopKey)
	}

	if err := plane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.Kubectl(t.Context(), "", "delete", "service,endpointslice", "-n", "shop", "--all"); err != nil {
		t.Fatal(err)
	}
	r = startRun(t, c)
	r.untilWritten()
	r.stop()
	if published(t, c, shopKey) {
		t.Errorf("%s is still published", shopKey)
	}
}
