package faults

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

const (
	shop = "shop"
	web  = "10.96.0.10:80" // the service of all clusters
	// own is the first pod behind it in east, asked without the service.
	own = "10.1.0.11:8080"

	// patience is how long a test waits for what must come true.
	patience = 60 * time.Second
	step     = 20 * time.Millisecond

	// longestGap is how long clients may be without an answer.
	longestGap = time.Second
)

// world is a mesh of clusters that read each other, one node each.
type world struct {
	t                 *testing.T
	east, west, north *lab.Cluster
}

// newWorld makes clusters, in this order: east, west, north. None is started.
func newWorld(t *testing.T, names ...string) *world {
	t.Helper()
	w := &world{t: t}
	l := labtest.New(t)
	for i, name := range names {
		c := labtest.AddCluster(t, l, name, i+1, "../scenarios/testdata/clusters/"+name+".yaml")
		*[]**lab.Cluster{&w.east, &w.west, &w.north}[i] = c
	}
	w.check(l.ConnectAll())
	return w
}

func (w *world) clusters() (list []*lab.Cluster) {
	for _, c := range []*lab.Cluster{w.east, w.west, w.north} {
		if c != nil {
			list = append(list, c)
		}
	}
	return list
}

func (w *world) check(errs ...error) {
	w.t.Helper()
	if err := errors.Join(errs...); err != nil {
		w.t.Fatal(err)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks until got returns nil.
func (w *world) eventually(what string, got func(context.Context) error) {
	w.t.Helper()
	ctx := within(w.t)
	ticker := time.NewTicker(step)
	defer ticker.Stop()
	for {
		err := got(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			w.t.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}

func (w *world) ready(clusters ...*lab.Cluster) {
	w.t.Helper()
	for _, c := range clusters {
		w.check(c.AwaitReady(within(w.t)))
	}
}

// status waits until the output of causeway status matches all patterns.
func (w *world) status(c *lab.Cluster, patterns ...string) {
	w.t.Helper()
	w.eventually("status of "+c.Name, func(ctx context.Context) error {
		out, err := c.Causeway(ctx, "status")
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 && len(out) > 0 {
			err = nil // something is not ready, and the output says what
		}
		for _, p := range patterns {
			if !regexp.MustCompile("(?m)" + p).Match(out) {
				err = errors.Join(err, fmt.Errorf("no line matches %q in:\n%s", p, out))
			}
		}
		return err
	})
}

// metric returns the sum of a metric's values, by a pattern of name and labels.
func (w *world) metric(p *lab.Process, pattern string) float64 {
	w.t.Helper()
	text, err := p.Metrics(within(w.t))
	w.check(err)
	sum := 0.0
	for _, found := range regexp.MustCompile(`(?m)^`+pattern+` (\S+)$`).FindAllSubmatch(text, -1) {
		value, err := strconv.ParseFloat(string(found[1]), 64)
		w.check(err)
		sum += value
	}
	return sum
}

// answers waits until requests from a cluster's client are answered by exactly
// the pods of these clusters, two each.
func (w *world) answers(from *lab.Cluster, clusters ...*lab.Cluster) {
	w.t.Helper()
	want := map[string]bool{}
	for _, c := range clusters {
		for _, pod := range []string{"web-1", "web-2"} {
			want[workload.Identity{Cluster: c.Name, Namespace: shop, Pod: pod}.String()] = true
		}
	}
	client, err := from.Pod(shop, "client")
	w.check(err)
	w.eventually("answers", func(ctx context.Context) error {
		results, err := client.Get(ctx, workload.HTTP, web, 10*len(want)+10)
		if err != nil {
			return err
		}
		got, failures := lab.Count(results)
		for pod := range got {
			if !want[pod] {
				return fmt.Errorf("%s answers", pod)
			}
		}
		if len(got) < len(want) || len(failures) > 0 {
			return fmt.Errorf("answers of %v, failures %v, want %v", got, failures, want)
		}
		return nil
	})
}

// load is what clients in east do while something fails, and another one that
// asks a pod directly: it shows what the machine itself costs.
type load struct {
	w               *world
	service, direct *lab.Load
}

func (w *world) load() *load {
	w.t.Helper()
	client, err := w.east.Pod(shop, "client")
	w.check(err)
	l := &load{w: w}
	l.service, err = client.StartLoad(within(w.t), workload.LoadConfig{Target: web, Protocol: workload.HTTP, Rate: 200, Long: 50})
	w.check(err)
	l.direct, err = client.StartLoad(within(w.t), workload.LoadConfig{Target: own, Protocol: workload.HTTP, Rate: 20})
	w.check(err)
	_, err = l.service.Await(within(w.t), func(r workload.Report) bool { return r.New.OK > 0 && r.Long.OK >= 50 })
	w.check(err)
	return l
}

// served waits until so many more new connections were answered.
func (l *load) served(count int) {
	l.w.t.Helper()
	before := l.service.Report().New.OK
	_, err := l.service.Await(within(l.w.t), func(r workload.Report) bool { return r.New.OK >= before+count })
	l.w.check(err)
}

// unharmed ends the load: nothing failed, and nobody waited for long.
func (l *load) unharmed() {
	t := l.w.t
	t.Helper()
	l.served(100)
	report, err := l.service.Stop(within(t))
	l.w.check(err)
	direct, err := l.direct.Stop(within(t))
	l.w.check(err)
	t.Logf("%d new connections, longest gap %.0f ms; %d exchanges on long ones, %.0f ms; directly %.0f ms",
		report.New.OK, report.New.MaxGapMillis, report.Long.OK, report.Long.MaxGapMillis, direct.New.MaxGapMillis)
	if report.New.Failed+report.Long.Failed > 0 {
		t.Errorf("requests failed: new connections %v, long ones %v", report.New.Errors, report.Long.Errors)
	}
	most := float64(longestGap.Milliseconds()) + direct.New.MaxGapMillis
	if report.New.MaxGapMillis > most || report.Long.MaxGapMillis > most {
		t.Errorf("clients waited for %.0f and %.0f ms", report.New.MaxGapMillis, report.Long.MaxGapMillis)
	}
}

// etcd is a client of a cluster's own etcd, until the test ends.
func (w *world) etcd(c *lab.Cluster) *clientv3.Client {
	w.t.Helper()
	client, err := kvstore.Dial(kvstore.ClientConfig{
		Endpoints: []string{"unix://" + filepath.Join(c.DataDir(), "etcd", "etcd.sock")}, Logger: labtest.Logger(w.t),
	})
	w.check(err)
	w.t.Cleanup(func() { _ = client.Close() })
	return client.Etcd()
}

// keys returns what is under a prefix of a cluster's etcd.
func (w *world) keys(c *lab.Cluster, prefix string) map[string]string {
	w.t.Helper()
	resp, err := w.etcd(c).Get(within(w.t), prefix, clientv3.WithPrefix())
	w.check(err)
	out := map[string]string{}
	for _, kv := range resp.Kvs {
		out[string(kv.Key)] = string(kv.Value)
	}
	return out
}

// service writes a service into a cluster's manifests, with many endpoints that
// are nobody's.
func (w *world) service(c *lab.Cluster, n int) (name string) {
	w.t.Helper()
	name = fmt.Sprint("extra-", n)
	var endpoints strings.Builder
	for i := range 250 {
		fmt.Fprintf(&endpoints, "- {addresses: [10.%d.1.%d], conditions: {ready: true}}\n", c.ID, i+1)
	}
	w.check(c.WriteManifest(name+".yaml", fmt.Appendf(nil, `
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: shop, annotations: {causeway.io/global: "true"}}
spec: {clusterIP: 10.96.1.%[2]d, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-1, namespace: shop, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
%[3]s`, name, n, endpoints.String())))
	return name
}

// knows waits until a cluster has, or has not, a service of another one.
func (w *world) knows(c *lab.Cluster, name string, want bool) {
	w.t.Helper()
	w.eventually("services of "+c.Name, func(ctx context.Context) error {
		out, err := c.Causeway(ctx, "services")
		if err == nil && regexp.MustCompile(`shop/`+name+`\b`).Match(out) != want {
			err = fmt.Errorf("shop/%s is known: %v; want %v\n%s", name, !want, want, out)
		}
		return err
	})
}
