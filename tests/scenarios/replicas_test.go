package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// takeover is how long a cluster may be without a writer: the 8 s of a lease and
// half a second, and more on a machine that has no time. Without a lease to wait for
// it is resigned.
const (
	takeover = 30 * time.Second
	resigned = 6 * time.Second
)

// secondNode is where the other replica of east runs, and its etcd.
const secondNode = `
apiVersion: v1
kind: Node
metadata: {name: e2}
spec: {podCIDRs: [10.1.1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.77.0.12}]}
`

// replicas are two API servers of a cluster that share an etcd.
type replicas struct {
	*world
	t      *testing.T
	east   *lab.Cluster
	west   *lab.Cluster
	first  *lab.Process
	second *lab.Process
	store  *lab.Process // their etcd
	loads  []*lab.Load
}

// TestReplicas: the replica that writes is killed, frozen, and ended, under load.
// No request fails, another one writes in time, and the one that was frozen
// writes nothing when it wakes.
func TestReplicas(t *testing.T) {
	labtest.RequireRoot(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	r := newReplicas(ctx, t)

	check(t, r.first.Kill())
	r.takesOver(ctx, r.second, takeover)
	r.publishes(ctx, "after-kill")
	check(t, r.first.Again(ctx))
	r.standsBy(ctx, r.first)

	before := r.written(ctx, r.second)
	check(t, r.second.Pause(ctx))
	r.takesOver(ctx, r.first, takeover)
	r.publishes(ctx, "after-pause")
	check(t, r.second.Resume())
	r.standsBy(ctx, r.second)
	r.publishes(ctx, "after-resume")
	if after := r.written(ctx, r.second); after != before {
		t.Errorf("the replica that was frozen had written %s keys, and has %s", before, after)
	}

	check(t, r.first.Stop(ctx))
	r.takesOver(ctx, r.second, resigned) // nobody had to wait for a lease
	r.publishes(ctx, "after-stop")
	r.agentsAreWith(ctx, r.second)
	for _, load := range r.loads {
		report, err := load.Stop(ctx)
		check(t, err, harm(report))
		t.Logf("%d new connections, longest gap %.0f ms", report.New.OK, report.New.MaxGapMillis)
	}
}

// newClusters returns east, with a second node, and west, of which nothing runs.
func newClusters(t *testing.T) *replicas {
	t.Helper()
	manifests := t.TempDir()
	text, err := os.ReadFile("testdata/clusters/east.yaml")
	check(t, err, os.WriteFile(filepath.Join(manifests, "east.yaml"), text, 0o644),
		os.WriteFile(filepath.Join(manifests, "second.yaml"), []byte(secondNode), 0o644))
	r := &replicas{world: newWorld(t, t.TempDir()), t: t}
	r.east = labtest.AddCluster(t, r.lab, "east", 1, manifests)
	r.west = labtest.AddCluster(t, r.lab, "west", 2, "testdata/clusters/west.yaml")
	return r
}

func newReplicas(ctx context.Context, t *testing.T) *replicas {
	t.Helper()
	r := newClusters(t)
	check(t, refuseServices(r.east), refuseServices(r.west), r.east.Connect(r.west))
	e1, err := r.east.Node("e1")
	check(t, err)
	e2, err := r.east.Node("e2")
	check(t, err)

	etcd := r.startEtcd(ctx, e2)
	r.first, err = r.east.StartAPIServer(ctx, etcd...)
	check(t, err, r.east.AwaitReady(ctx))
	r.second = r.startSecond(ctx, e2, etcd)
	r.readBoth()
	for _, n := range []*lab.Node{e1, e2} {
		_, err := n.StartAgent(ctx, "--api-server", "10.77.0.11:8474,10.77.0.12:8474")
		check(t, err)
	}
	check(t, r.west.Up(ctx), r.east.AwaitReady(ctx))
	r.isWriter(ctx, r.first)
	for _, pod := range []string{"east/client", "west/client"} {
		client, err := r.pod(pod)
		check(t, err)
		load, err := client.StartLoad(ctx, workload.LoadConfig{Target: web, Protocol: workload.HTTP, Rate: 200, Long: 10})
		check(t, err)
		r.loads = append(r.loads, load)
	}
	return r
}

// startEtcd runs an etcd on a node and returns the flags that lead there. Its
// authority is none of the mesh's.
func (r *replicas) startEtcd(ctx context.Context, n *lab.Node) (flags []string) {
	r.t.Helper()
	authority, err := pki.OpenAuthority(filepath.Join(r.work, "etcd-pki"), "etcd")
	check(r.t, err)
	address := netip.AddrPortFrom(n.IPs[0], 23790)
	issue := func(request pki.Request) (cert, key string) {
		request.TTL = time.Hour
		pair, err := authority.Issue(request)
		check(r.t, err)
		cert = filepath.Join(r.work, string(request.Role)+".crt")
		key = filepath.Join(r.work, string(request.Role)+".key")
		check(r.t, pair.Save(cert, key))
		return cert, key
	}
	serverCert, serverKey := issue(pki.Request{Role: pki.RoleServer, IPs: []netip.Addr{address.Addr()}})
	clientCert, clientKey := issue(pki.Request{Role: pki.RolePeer, Name: "east"})
	r.store, err = n.Start(ctx, lab.Command{Name: "etcd", Path: filepath.Join(labtest.Binaries(r.t), "etcd"), Args: []string{
		"--data-dir", filepath.Join(r.work, "etcd"), "--listen", address.String(),
		"--ca-file", authority.CertFile(), "--cert-file", serverCert, "--key-file", serverKey,
	}})
	check(r.t, err)
	return []string{
		"--etcd-endpoints", "https://" + address.String(),
		"--etcd-ca-file", authority.CertFile(), "--etcd-cert-file", clientCert, "--etcd-key-file", clientKey,
	}
}

// startSecond starts another API server of east, with the same authority and a
// data directory of its own.
func (r *replicas) startSecond(ctx context.Context, n *lab.Node, etcd []string) *lab.Process {
	r.t.Helper()
	dir := filepath.Join(r.work, "second")
	check(r.t, os.CopyFS(filepath.Join(dir, "pki"), os.DirFS(filepath.Join(r.east.DataDir(), "pki"))))
	files, err := filepath.Glob(filepath.Join(dir, "pki", "*"))
	check(r.t, err)
	for _, file := range files { // keys are nobody else's to read
		check(r.t, os.Chmod(file, 0o600))
	}
	p, err := n.Start(ctx, lab.Command{
		Name: "clustermesh-apiserver", Path: filepath.Join(labtest.Binaries(r.t), "clustermesh-apiserver"),
		Args: append([]string{
			"--cluster-name", "east", "--cluster-id", "1", "--data-dir", dir, "--manifests-dir", r.east.ManifestsDir(),
			"--peers-dir", r.east.PeersDir(), "--listen", netip.AddrPortFrom(n.IPs[0], 8474).String(),
			"--listen-http", "127.0.0.1:9474", "--log-format", "text",
		}, etcd...),
	})
	check(r.t, err, p.AwaitHTTP(ctx, "http://127.0.0.1:9474/readyz"))
	return p
}

// readBoth makes west read east at either replica.
func (r *replicas) readBoth() {
	r.t.Helper()
	files, err := r.issue(r.east, pki.RolePeer, "west", filepath.Join(r.work, "west-at-east"), time.Hour)
	check(r.t, err, r.west.WritePeer("east", fmt.Appendf(nil,
		"endpoints: [\"https://10.77.0.11:8474\", \"https://10.77.0.12:8474\"]\ntrusted-ca-file: %s\ncert-file: %s\nkey-file: %s\n",
		files.CAFile, files.CertFile, files.KeyFile)))
}

// agentsAreWith waits until all agents of east have gone over to a replica.
func (r *replicas) agentsAreWith(ctx context.Context, p *lab.Process) {
	r.t.Helper()
	check(r.t, r.shows(ctx, p, "causeway_feed_subscribers 2"))
}

const writerMetric = "causeway_kvstore_writer"

func (r *replicas) isWriter(ctx context.Context, p *lab.Process) {
	r.t.Helper()
	check(r.t, r.shows(ctx, p, writerMetric+" 1"))
}

// takesOver waits until a replica writes, which must be in time.
func (r *replicas) takesOver(ctx context.Context, p *lab.Process, within time.Duration) {
	r.t.Helper()
	begin := time.Now()
	r.isWriter(ctx, p)
	if took := time.Since(begin); took > within {
		r.t.Errorf("%s writes after %s", p.Name(), took)
	} else {
		r.t.Logf("%s writes after %s", p.Name(), took)
	}
}

// standsBy waits until a replica knows that the other one writes.
func (r *replicas) standsBy(ctx context.Context, p *lab.Process) {
	r.t.Helper()
	check(r.t, r.shows(ctx, p, writerMetric+" 0"))
}

func (r *replicas) shows(ctx context.Context, p *lab.Process, line string) error {
	return eventually(ctx, func() error {
		text, err := p.Metrics(ctx)
		if err == nil && !regexp.MustCompile("(?m)^"+regexp.QuoteMeta(line)+"$").Match(text) {
			err = fmt.Errorf("%s does not show %q", p.Name(), line)
		}
		return err
	})
}

// publishes waits until a new service of east is known in west.
func (r *replicas) publishes(ctx context.Context, name string) {
	r.t.Helper()
	check(r.t, r.east.WriteManifest(name+".yaml", fmt.Appendf(nil, `
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: shop, annotations: {causeway.io/global: "true"}}
spec: {clusterIP: 10.96.1.%d, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-1, namespace: shop, labels: {kubernetes.io/service-name: %s}}
addressType: IPv4
endpoints: [{addresses: [10.1.0.11], conditions: {ready: true}}]
ports: [{port: 8080}]
`, name, len(name), name, name)))
	check(r.t, eventually(ctx, func() error {
		out, err := r.west.Causeway(ctx, "services")
		if err == nil && !strings.Contains(string(out), "shop/"+name+":") {
			err = fmt.Errorf("west does not know shop/%s:\n%s", name, out)
		}
		return err
	}))
}

// written is how many keys a replica has written, by what it says itself.
func (r *replicas) written(ctx context.Context, p *lab.Process) string {
	r.t.Helper()
	text, err := p.Metrics(ctx)
	check(r.t, err)
	found := regexp.MustCompile(`(?m)^causeway_kvstore_(written|deleted)_keys_total\{writer="state"\} \S+$`).FindAll(text, -1)
	if len(found) != 2 {
		r.t.Fatalf("%s does not count what it writes", p.Name())
	}
	return fmt.Sprintf("%s", found)
}
