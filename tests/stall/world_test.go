package stall

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// The size of what changes. A cluster's part is in several files, written one
// after the other: a source takes up a file only when it has not changed for a
// moment. All slices and pods of a file differ from those of its version before,
// which makes some 400 changes a second in each cluster.
const (
	files     = 8
	services  = 40
	endpoints = 60 // of a service, in each cluster
	pods      = 200
	step      = 80 * time.Millisecond // between two files
)

// versions are those of a cluster's files.
type versions [files]int

type object = map[string]any

// part is a file of what one cluster has at a version: services that all have,
// and its own endpoints and pods behind them.
func part(cluster, file, version int) []byte {
	var items []any
	for i := file; i < services; i += files {
		name := fmt.Sprint("svc-", i)
		items = append(items, object{
			"apiVersion": "v1", "kind": "Service",
			"metadata": object{"name": name, "namespace": "shop", "annotations": object{"causeway.io/global": "true"}},
			"spec":     object{"clusterIP": fmt.Sprintf("10.96.1.%d", i), "ports": []any{object{"name": "http", "port": 80}}},
		})
		var list []any
		for j := range endpoints {
			list = append(list, object{
				"addresses": []any{backend(cluster, i, j).String()}, "conditions": object{"ready": ready(version, j)},
				"nodeName": "n1", "targetRef": object{"kind": "Pod", "namespace": "shop", "name": fmt.Sprintf("%s-6c8f9d7b5d-%d", name, j)},
			})
		}
		items = append(items, object{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
			"metadata": object{"name": name + "-1", "namespace": "shop", "labels": object{"kubernetes.io/service-name": name}},
			"ports":    []any{object{"name": "http", "port": 8080, "protocol": "TCP"}}, "endpoints": list,
		})
	}
	for i := file; i < pods; i += files {
		ip := backend(cluster, i/endpoints, i%endpoints).String()
		items = append(items, object{
			"apiVersion": "v1", "kind": "Pod",
			"metadata": object{
				"name": fmt.Sprint("pod-", i), "namespace": "shop",
				"labels": object{"app": fmt.Sprint(i % 20), "revision": fmt.Sprint(version % 10)},
			},
			"spec":   object{"nodeName": "n1"},
			"status": object{"phase": "Running", "podIP": ip, "podIPs": []any{object{"ip": ip}}},
		})
	}
	text, err := json.Marshal(object{"apiVersion": "v1", "kind": "List", "items": items})
	if err != nil {
		panic(err)
	}
	return text
}

func backend(cluster, service, endpoint int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(cluster), byte(100 + service), byte(1 + endpoint)})
}

func ready(version, endpoint int) bool { return (version+endpoint)%3 > 0 }

// node is a Node of a cluster.
func node(name, ip string, pods string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Node\nmetadata: {name: %s}\nspec: {podCIDRs: [%s]}\n"+
		"status: {addresses: [{type: InternalIP, address: %s}]}\n---\n", name, pods, ip)
}

// world is two clusters: east, with three agents, of which each can be held up
// in another way, and west, its peer, which only publishes.
type world struct {
	t          *testing.T
	east, west *lab.Cluster
	etcd       map[*lab.Cluster]*disk
	proxy      *lab.Process
	memory     *memory

	mu       sync.Mutex
	versions map[*lab.Cluster]*versions
}

func newWorld(t *testing.T) *world {
	t.Helper()
	labtest.RequireRoot(t)
	l := newLab(t)
	w := &world{t: t, etcd: map[*lab.Cluster]*disk{}, versions: map[*lab.Cluster]*versions{}}
	w.east = w.cluster(l, "east", 1, node("e1", "10.77.0.11", "10.1.0.0/24")+node("e2", "10.77.0.12", "10.1.1.0/24")+node("e3", "10.77.0.13", "10.1.2.0/24"))
	w.west = w.cluster(l, "west", 2, node("w1", "10.77.0.21", "10.2.0.0/24"))
	if err := w.east.Connect(w.west); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for _, c := range l.Clusters() {
		if _, err := c.StartAPIServer(ctx, "--pprof"); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := w.east.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	const through = "127.0.0.1:7474"
	w.proxy, err = w.agent("e2").Start(ctx, lab.Command{
		Name: "proxy", Path: self, Args: []string{through, gateway.String()}, Env: []string{roleVariable + "=proxy"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, extra := range map[string][]string{"e1": nil, "e2": {"--api-server", through}, "e3": nil} {
		if _, err := w.agent(name).StartAgent(ctx, append(extra, "--pprof")...); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range l.Clusters() {
		if err := c.AwaitReady(ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.memory = watchMemory(t, w.daemons)
	return w
}

// newLab is a lab whose agents are run by gate.
func newLab(t *testing.T) *lab.Lab {
	t.Helper()
	real, programs := labtest.Binaries(t), t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"clustermesh-apiserver": filepath.Join(real, "clustermesh-apiserver"), "node-agent": self,
	} {
		if err := os.Symlink(path, filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv(agentVariable, filepath.Join(real, "node-agent"))
	l, err := lab.New(t.Context(), lab.Config{Binaries: programs, Log: labtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, p := range l.Processes() {
				t.Logf("%s:\n%s", p.Name(), p.Tail())
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// cluster makes a cluster whose etcd is on a disk of its own.
func (w *world) cluster(l *lab.Lab, name string, id int, nodes string) *lab.Cluster {
	w.t.Helper()
	dir := w.t.TempDir()
	content := map[string][]byte{"nodes.yaml": []byte(nodes)}
	for i := range files {
		content[fileName(i)] = part(id, i, 0)
	}
	for file, text := range content {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	c := labtest.AddCluster(w.t, l, name, id, dir)
	w.versions[c] = &versions{}
	w.etcd[c] = newDisk(w.t, filepath.Join(c.DataDir(), "etcd"))
	return c
}

func (w *world) agent(name string) *lab.Node {
	w.t.Helper()
	n, err := w.east.Node(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// daemon is one of our processes.
type daemon struct {
	pid    int
	node   *lab.Node
	status string // address of its status server
}

// daemons are those of which the memory counts, by name.
func (w *world) daemons() map[string]daemon {
	out := map[string]daemon{}
	for _, c := range []*lab.Cluster{w.east, w.west} {
		out["API server of "+c.Name] = daemon{c.APIServer().PID(), c.Nodes()[0], "127.0.0.1:9474"}
	}
	for _, n := range w.east.Nodes() {
		if pid := childOf(n.Agent().PID()); pid > 0 {
			out["agent of "+n.Name] = daemon{pid, n, "127.0.0.1:9475"}
		}
	}
	return out
}

// changes is how many changes of the peer east has received.
func (w *world) changes() int {
	w.t.Helper()
	text, err := w.east.APIServer().Metrics(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, `causeway_peer_changes_total{cluster="west"} `); ok {
			n, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				w.t.Fatal(err)
			}
			return int(n)
		}
	}
	return 0
}

func fileName(i int) string { return fmt.Sprintf("churn-%d.json", i) }

// publish gives a cluster the next version of one of its files.
func (w *world) publish(c *lab.Cluster, file int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.versions[c][file]++
	if err := c.WriteManifest(fileName(file), part(c.ID, file, w.versions[c][file])); err != nil {
		w.t.Error(err)
	}
}

// churn publishes version after version in both clusters until the returned func
// is called.
func (w *world) churn() (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(step)
		defer ticker.Stop()
		for file := 0; ; file = (file + 1) % files {
			select {
			case <-end:
				return
			case <-ticker.C:
				w.publish(w.east, file)
				w.publish(w.west, file)
			}
		}
	}()
	return func() {
		close(end)
		<-done
	}
}

// expected is what the maps hold of the present versions: frontend to backends.
func (w *world) expected() map[string][]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string][]string{}
	for i := range services {
		var list []string
		for c, of := range w.versions {
			for j := range endpoints {
				if ready(of[i%files], j) {
					list = append(list, backend(c.ID, i, j).String()+":8080")
				}
			}
		}
		slices.Sort(list)
		out[fmt.Sprintf("10.96.1.%d:80/tcp", i)] = list
	}
	return out
}

// inMaps is what the maps of an agent hold.
func inMaps(n *lab.Node) (map[string][]string, error) {
	dump, err := datapath.ReadDump(n.BPFFS())
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, s := range dump.Services {
		var list []string
		for _, g := range s.Groups {
			for _, b := range g.Backends {
				list = append(list, b.Addr.String())
			}
		}
		slices.Sort(list)
		out[s.String()] = list
	}
	return out, nil
}

// awaitMaps waits until the maps of agents are what they should be, and fails the
// test when they are not within a time. It returns how long it took.
func (w *world) awaitMaps(within time.Duration, agents ...string) time.Duration {
	w.t.Helper()
	return w.await(within, func(all map[string][]string) map[string][]string { return all }, agents...)
}

// await does so for a part of what should be in the maps.
func (w *world) await(within time.Duration, part func(map[string][]string) map[string][]string, agents ...string) time.Duration {
	w.t.Helper()
	want := part(w.expected())
	begun := time.Now()
	for _, name := range agents {
		for {
			looked := time.Since(begun)
			got, err := inMaps(w.agent(name))
			if err == nil && maps.EqualFunc(part(got), want, slices.Equal) {
				break
			}
			if looked > within {
				diff := cmp.Diff(want, part(got))
				w.t.Fatalf("maps of %s are not right after %s: %v (-want +got):\n%.2000s", name, within, err, diff)
			}
			time.Sleep(5 * time.Millisecond) // between two looks
		}
	}
	return time.Since(begun)
}
