package lab_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// eastWeb is the ClusterIP and port of shop/web in the dump of east.
const eastWeb = "10.97.95.154:80"

// TestMesh starts the daemons of two dumped clusters: a pod in one is answered
// by the pods of both.
func TestMesh(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	l := labtest.New(t)
	east := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	west := labtest.AddCluster(t, l, "west", 2, dumps+"west.yaml")
	if err := east.AwaitReady(ctx); !errors.Is(err, lab.ErrNotStarted) {
		t.Errorf("ready without an API server: %v", err)
	}
	must(t, l.ConnectAll(), l.Up(ctx))

	client, err := east.Pod("data", "db-0")
	must(t, err)
	load, err := client.StartLoad(ctx, workload.LoadConfig{Target: eastWeb, Rate: 200, Timeout: 20 * time.Second})
	must(t, err)
	want := map[string]bool{}
	for _, p := range append(east.Pods(), west.Pods()...) {
		if p.Namespace == "shop" {
			want[workload.Identity{Cluster: p.On.Cluster.Name, Namespace: p.Namespace, Pod: p.Name}.String()] = true
		}
	}
	_, err = load.Await(ctx, func(r workload.Report) bool { return len(r.New.Pods) == len(want) })
	must(t, err)
	// Daemons die; what is in the kernel stays.
	before, err := load.Next(ctx)
	must(t, err)
	for _, p := range append(east.Daemons(), west.Daemons()...) {
		must(t, p.Kill())
	}
	for _, p := range append(east.Daemons(), west.Daemons()...) {
		must(t, p.Again(ctx))
	}
	must(t, east.AwaitReady(ctx), west.AwaitReady(ctx))
	last, err := load.Stop(ctx)
	must(t, err)
	after := last.Since(before).New
	if after.Failed > 0 || len(after.Pods) != len(want) {
		t.Errorf("while the daemons were killed and started again: %+v", after)
	}
	for name := range after.Pods {
		if !want[name] {
			t.Errorf("%s answers", name)
		}
	}
	status, err := east.Causeway(ctx, "status", "--wait")
	if err != nil || !bytes.Contains(status, []byte("west")) {
		t.Errorf("causeway status: %v\n%s", err, status)
	}
	for _, p := range east.Daemons() {
		metrics, err := p.Metrics(ctx)
		if err != nil || !bytes.Contains(metrics, []byte("causeway_build_info")) {
			t.Errorf("metrics of %s: %v, %d bytes", p.Name(), err, len(metrics))
		}
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
}

// TestPeerFiles reads back what Connect writes, by the product's own parser.
func TestPeerFiles(t *testing.T) {
	l := labtest.New(t)
	east := labtest.AddCluster(t, l, "east", 1, dumps+"east.yaml")
	west := labtest.AddCluster(t, l, "west", 2, dumps+"west.yaml")
	if _, err := l.AddCluster(t.Context(), lab.ClusterSpec{Name: "west"}); err == nil {
		t.Error("two clusters of one name")
	}
	must(t, east.Connect(west), east.Connect(west))
	text, err := os.ReadFile(filepath.Join(east.PeersDir(), "west"))
	must(t, err)
	file, err := peer.ParseFile(text, east.PeersDir())
	if err != nil || len(file.Endpoints) != 1 || file.Endpoints[0] != "https://10.77.0.21:8474" {
		t.Errorf("%+v, %v", file, err)
	}
	for _, path := range []string{file.TLS.CAFile, file.TLS.CertFile, file.TLS.KeyFile} {
		if pem, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(pem), "-----BEGIN ") {
			t.Errorf("%s: %v", path, err)
		}
	}
	must(t, east.Disconnect(west))
	if err := east.Disconnect(west); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("disconnected twice: %v", err)
	}
}
