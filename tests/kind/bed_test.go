package kind

import (
	"context"
	_ "embed" // the manifest
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
)

//go:embed testdata/web.yaml
var webManifest string

// webTimeout bounds what one step takes on a machine that does much else.
const webTimeout = 3 * time.Minute

// deployWeb gives a cluster the service web and those who ask it.
func deployWeb(ctx context.Context, c *Cluster) error {
	if err := c.Apply(ctx, strings.ReplaceAll(webManifest, "CLUSTER", c.Name)); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"rollout", "status", "deployment/web", "--timeout=3m"},
		{"rollout", "status", "daemonset/host", "--timeout=3m"},
		{"wait", "--for=condition=Ready", "pod/client", "--timeout=3m"},
	} {
		if _, err := c.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// ask has a pod ask the targets so often each, and returns the clusters that
// answered, with how often. An answer that did not come is an error.
func ask(ctx context.Context, c *Cluster, pod, target string, count int) (map[string]int, error) {
	out, err := c.Exec(ctx, pod, "/echo", "get", "--count", fmt.Sprint(count), "--timeout", "5s", target)
	if err != nil {
		return nil, err
	}
	answers := map[string]int{}
	decoder := json.NewDecoder(strings.NewReader(out))
	for decoder.More() {
		var result workload.Result
		if err := decoder.Decode(&result); err != nil {
			return nil, fmt.Errorf("read an answer: %w", err)
		}
		answers[result.Answer.Cluster]++
	}
	return answers, nil
}

// TestBed holds the clusters themselves: without the mesh, a pod of each asks a
// service of its own cluster by name, on both nodes, and none reaches the
// other cluster's pods.
func TestBed(t *testing.T) {
	b := Start(t)
	ctx := t.Context()
	if err := b.each(func(c *Cluster) error { return deployWeb(ctx, c) }); err != nil {
		t.Fatal(err)
	}
	for _, c := range b.Clusters() {
		err := await(ctx, webTimeout, func(ctx context.Context) error {
			answers, err := ask(ctx, c, "client", "web.default.svc.cluster.local:80", 20)
			if err == nil && answers[c.Name] != 20 {
				err = fmt.Errorf("20 requests were answered by %v", answers)
			}
			return err
		})
		if err != nil {
			t.Errorf("a pod of %s asks a service of its own cluster: %v", c.Name, err)
		}
	}
	addresses, err := b.West().Kubectl(ctx, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}")
	if err != nil {
		t.Fatal(err)
	}
	if answers, err := ask(ctx, b.East(), "client", addresses+":8080", 1); err == nil {
		t.Errorf("without the mesh a pod of east reached one of west: %v", answers)
	}
}
