package scenarios

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestResume: an API server that restarts sends 200 agents next to nothing when
// nothing changed, and the maps of a real one are not written.
func TestResume(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	w := newWorld(t, t.TempDir())
	east := labtest.AddCluster(t, w.lab, "east", 1, "testdata/clusters/east.yaml")
	check(t, east.WriteManifest("many.yaml", manyServices(200, 20)))
	check(t, east.Up(ctx))

	const count = 200
	r := newRelay(ctx, t, east)
	agents := make([]*counted, count)
	group, running := errgroup.WithContext(ctx)
	defer func() { cancel(); _ = group.Wait() }()
	for i := range agents {
		agents[i] = &counted{}
		client := agents[i].client(t, w, east, r.address(), fmt.Sprint("far-", i))
		group.Go(func() error { return client.Run(running) })
	}
	check(t, await(ctx, agents, 1))
	whole := r.taken() / count
	who, err := east.Causeway(ctx, "status", "--addresses", "--label", "app=web", "--pod", "web-1")
	check(t, err)
	if !regexp.MustCompile(`10\.1\.0\.11 +east +e1 +shop/web-1 +\d+ +app=web`).Match(who) || strings.Contains(string(who), "web-2") {
		t.Errorf("who is who:\n%s", who)
	}
	agent := east.Nodes()[0]
	before := dumpMaps(ctx, t, agent)

	check(t, east.APIServer().Kill())
	check(t, east.APIServer().Again(ctx))
	check(t, east.AwaitReady(ctx))
	check(t, await(ctx, agents, 2))
	check(t, eventually(ctx, func() error { return w.current(ctx, east, "e1") }))

	sent := metricOf(ctx, t, east.APIServer(), "causeway_feed_sent_bytes_total")
	t.Logf("%d bytes for an agent at first, %.0f bytes of resources for all %d after the restart", whole, sent, count+1)
	if sent*100 >= float64(whole)*count {
		t.Errorf("%.0f bytes of resources sent after the restart, %d for an agent at first", sent, whole)
	}
	if n := metricOf(ctx, t, east.APIServer(), "causeway_feed_snapshots_total"); n != 0 {
		t.Errorf("%.0f whole states sent after the restart", n)
	}
	for i, a := range agents {
		if n := a.changed.Load(); n != 0 {
			t.Errorf("agent %d was given %d views and slices again", i, n)
		}
	}
	if after := dumpMaps(ctx, t, agent); after != before {
		t.Errorf("the maps were written:\n%s\nbefore:\n%s", after, before)
	}
}

// current waits until the agent of a node has the newest state.
func (w *world) current(ctx context.Context, c *lab.Cluster, node string) error {
	out, err := c.Causeway(ctx, "status")
	if !regexp.MustCompile(node + ` +current`).Match(out) {
		return fmt.Errorf("agent of %s is not current: %w\n%s", node, err, out)
	}
	return nil
}

// dumpMaps is what is in a node's maps, with the generations of services, which
// every write raises.
func dumpMaps(ctx context.Context, t *testing.T, n *lab.Node) string {
	t.Helper()
	out, err := n.Run(ctx, filepath.Join(labtest.Binaries(t), "causeway"),
		"bpf", "dump", "--output", "json", "--bpffs-dir", n.BPFFS(), "--state-dir", n.StateDir())
	check(t, err)
	if !strings.Contains(string(out), `"generation"`) || !strings.Contains(string(out), `"pod": "web-1"`) {
		t.Fatalf("dump without services or who is who:\n%s", out)
	}
	return string(out)
}

func metricOf(ctx context.Context, t *testing.T, p *lab.Process, name string) float64 {
	t.Helper()
	text, err := p.Metrics(ctx)
	check(t, err)
	found := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if found == nil {
		t.Fatalf("no metric %s in\n%s", name, text)
	}
	value, err := strconv.ParseFloat(string(found[1]), 64)
	check(t, err)
	return value
}

// manyServices are services without pods, each with a slice of endpoints.
func manyServices(services, endpoints int) []byte {
	var b strings.Builder
	for i := range services {
		fmt.Fprintf(&b, `---
apiVersion: v1
kind: Service
metadata: {name: many-%[1]d, namespace: shop, annotations: {causeway.io/global: "true"}}
spec: {clusterIP: 10.97.%[2]d.%[3]d, clusterIPs: [10.97.%[2]d.%[3]d], ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: many-%[1]d-x, namespace: shop, labels: {kubernetes.io/service-name: many-%[1]d}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
`, i, i/200, 1+i%200)
		for j := range endpoints {
			fmt.Fprintf(&b, "- {addresses: [10.9.%d.%d], conditions: {ready: true}}\n", i, j+1)
		}
	}
	return []byte(b.String())
}

// counted is an agent that puts nothing in effect.
type counted struct {
	mu      sync.Mutex
	epochs  map[string]bool
	report  func(feed.Applied)
	changed atomic.Int64 // views and slices after the first state
}

// Apply implements feed.Sink.
func (c *counted) Apply(_ context.Context, b feed.Batch) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epochs == nil {
		c.epochs = map[string]bool{}
	}
	if base, ok := complete(b.Revision); ok {
		c.epochs[base] = true
	}
	if !b.Snapshot {
		c.changed.Add(int64(len(b.Delta.Views) + len(b.Delta.Slices)))
	}
	c.report(feed.Applied{Revision: b.Revision})
	return nil
}

// complete reports whether an agent at r has been given all kinds, and names the API
// server that gave them.
func complete(r feed.Revision) (server string, ok bool) {
	server, text, _ := strings.Cut(r.Epoch, ".")
	given, err := strconv.ParseUint(text, 16, 64)
	for _, kind := range []feed.Kind{feed.View, feed.Slice, feed.Node, feed.Identity, feed.Address, feed.Peer, feed.Range} {
		if given&(1<<kind) == 0 {
			return server, false
		}
	}
	return server, err == nil
}

func (c *counted) servers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.epochs)
}

func (c *counted) client(t *testing.T, w *world, cluster *lab.Cluster, target, node string) *feed.Client {
	t.Helper()
	files, err := w.issue(cluster, pki.RoleAgent, node, filepath.Join(w.work, node), time.Hour)
	check(t, err)
	tls, err := pki.ClientConfig(files, pki.MeshNames(cluster.Name)...)
	check(t, err)
	client := feed.NewClient(feed.ClientConfig{
		Target: target, TLS: tls, Node: node, Version: "test", Sink: c,
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	c.report = client.Report
	return client
}

// await waits until all agents had the whole state of so many API servers.
func await(ctx context.Context, agents []*counted, servers int) error {
	return eventually(ctx, func() error {
		for i, a := range agents {
			if n := a.servers(); n < servers {
				return fmt.Errorf("agent %d had the state of %d API servers, want %d", i, n, servers)
			}
		}
		return nil
	})
}

// relay passes connections of this process on to a gateway in the lab, and
// counts what comes from there.
type relay struct {
	listener net.Listener
	bytes    atomic.Int64
}

func newRelay(ctx context.Context, t *testing.T, c *lab.Cluster) *relay {
	t.Helper()
	gateway, err := c.Gateway()
	check(t, err)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	check(t, err)
	r := &relay{listener: listener}
	home, err := c.Home()
	check(t, err)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				out, err := home.Dial(ctx, "tcp", gateway.String())
				if err != nil {
					in.Close()
					return
				}
				r.pass(in, out)
			})
		}
	})
	t.Cleanup(func() { listener.Close(); group.Wait() })
	return r
}

func (r *relay) address() string { return r.listener.Addr().String() }
func (r *relay) taken() int64    { return r.bytes.Load() }

// pass carries both ways until either side ends.
func (r *relay) pass(in, out net.Conn) {
	var group sync.WaitGroup
	carry := func(to, from net.Conn, count bool) {
		defer to.Close()
		defer from.Close()
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if count {
				r.bytes.Add(int64(n))
			}
			if _, wrong := to.Write(buf[:n]); err != nil || wrong != nil {
				return
			}
		}
	}
	group.Go(func() { carry(out, in, false) })
	group.Go(func() { carry(in, out, true) })
	group.Wait()
}
