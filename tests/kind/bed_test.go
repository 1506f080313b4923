package kind

import (
	"context"
	_ "embed" // the manifests
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
)

//go:embed testdata/web.yaml
var webManifest string

//go:embed testdata/storage.yaml
var storageManifest string

// patience bounds what one step takes on a machine that does much else.
const patience = 3 * time.Minute

// webName is the service as pods know it.
const webName = "web.default.svc.cluster.local:80"

// deployWeb gives a cluster the service web and those who ask it: client is a pod on
// the node that is named.
func deployWeb(ctx context.Context, c *Cluster, node string) error {
	if err := c.Apply(ctx, strings.NewReplacer("CLUSTER", c.Name, "CLIENT_ON", node).Replace(webManifest)); err != nil {
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

// giveStorage gives a cluster volumes, empty ones.
func giveStorage(ctx context.Context, c *Cluster) error {
	if published() != "" {
		return nil // it has some
	}
	if _, err := c.OnNode(ctx, c.Name+"-control-plane", "sh", "-ec", "rm -rf /var/local/first /var/local/second; mkdir -p /var/local/first /var/local/second"); err != nil {
		return err
	}
	if _, err := c.Kubectl(ctx, "delete", "pv", "first", "second", "--ignore-not-found", "--timeout=1m"); err != nil {
		return err
	}
	return c.Apply(ctx, strings.ReplaceAll(storageManifest, "CLUSTER", c.Name))
}

// exchange has a pod ask a target so often, and returns the answers. One that did not
// come is an error.
func exchange(ctx context.Context, c *Cluster, pod, target string, count int) ([]workload.Result, error) {
	out, err := c.Exec(ctx, pod, "/echo", "get", "--count", fmt.Sprint(count), "--timeout", "5s", target)
	if err != nil {
		return nil, err
	}
	return decode[workload.Result](out)
}

// ask is exchange, and returns the clusters that answered, with how often.
func ask(ctx context.Context, c *Cluster, pod, target string, count int) (map[string]int, error) {
	results, err := exchange(ctx, c, pod, target, count)
	answers := map[string]int{}
	for _, r := range results {
		answers[r.Cluster]++
	}
	return answers, err
}

// decode reads objects that follow each other.
func decode[T any](text string) (all []T, err error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	for decoder.More() {
		var one T
		if err := decoder.Decode(&one); err != nil {
			return nil, fmt.Errorf("read what a program printed: %w", err)
		}
		all = append(all, one)
	}
	return all, nil
}
