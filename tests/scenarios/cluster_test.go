package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// addCluster copies all files into one folder first, so that the first node in
// the order of their names is the home of the API server.
func addCluster(ctx context.Context, c *call) error {
	id, err := strconv.Atoi(c.args[1])
	if err != nil {
		return fmt.Errorf("cluster id: %w", err)
	}
	dir := filepath.Join(c.work, ".clusters", c.args[0])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, from := range c.args[2:] {
		name := filepath.Base(from)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(c.script.ReadFile(from)), 0o644); err != nil {
			return err
		}
	}
	spec := lab.ClusterSpec{Name: c.args[0], ID: id, Manifests: dir, Network: c.network}
	if c.network.Kind == lab.Routed {
		n := 1 + len(c.lab.Clusters()) // ids may collide, ranges must not
		spec.MeshRanges = []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(n), 0}), 24),
			netip.MustParsePrefix(fmt.Sprintf("fd64:%x::/64", n)),
		}
	}
	cluster, err := c.lab.AddCluster(ctx, spec)
	if err != nil {
		return err
	}
	return refuseServices(cluster)
}

// refuseServices makes the nodes refuse connections to service addresses that
// nobody translated, as kube-proxy does where a service has no endpoints: so a
// client need not wait for its timeout to see that nobody answers.
func refuseServices(c *lab.Cluster) error {
	for _, n := range c.Nodes() {
		for _, services := range []string{"10.96.0.1/12", "fd00:96::1/64"} {
			if err := n.Space().AddAddress("lo", netip.MustParsePrefix(services)); err != nil {
				return err
			}
		}
	}
	return nil
}

// up starts what the clusters consist of, all at once.
func up(ctx context.Context, c *call) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, name := range c.args {
		cluster, err := c.cluster(name)
		if err != nil {
			return err
		}
		g.Go(func() error { return cluster.Up(ctx) })
	}
	return g.Wait()
}

// ready returns when the clusters, all when none is named, say so themselves:
// peers synced, agents current, no problem anywhere.
func ready(ctx context.Context, c *call) error {
	clusters := c.lab.Clusters()
	if len(c.args) > 0 {
		clusters = nil
		for _, name := range c.args {
			cluster, err := c.cluster(name)
			if err != nil {
				return err
			}
			clusters = append(clusters, cluster)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, cluster := range clusters {
		g.Go(func() error {
			out, err := cluster.Causeway(ctx, "status", "--wait", "--timeout", (patience * 2 / 3).String())
			if err != nil {
				return fmt.Errorf("cluster %s is not ready: %w\n%s", cluster.Name, err, out)
			}
			return nil
		})
	}
	return g.Wait()
}

// manifest writes a file of a cluster's manifests, or removes it.
func manifest(_ context.Context, c *call) error {
	cluster, err := c.cluster(c.args[0])
	if err != nil {
		return err
	}
	if len(c.args) == 2 {
		return cluster.RemoveManifest(c.args[1])
	}
	return cluster.WriteManifest(c.args[1], []byte(c.script.ReadFile(c.args[2])))
}

// moveManifests takes the whole folder of a cluster's manifests away, as a mount
// that fails does, and brings it back.
func moveManifests(_ context.Context, c *call) error {
	cluster, err := c.cluster(c.args[0])
	if err != nil {
		return err
	}
	here, away := cluster.ManifestsDir(), cluster.ManifestsDir()+".away"
	if c.args[1] == "back" {
		here, away = away, here
	}
	return os.Rename(here, away)
}

func annotate(_ context.Context, c *call) error {
	cluster, namespace, name, err := c.podName(c.args[0] + "/" + c.args[1])
	if err != nil {
		return err
	}
	annotations := map[string]string{}
	for _, text := range c.args[2:] {
		key, value, _ := strings.Cut(text, "=")
		annotations[key] = value
	}
	return cluster.Annotate(namespace, name, annotations)
}

// endPod begins the deletion of a pod: it is there until it is deleted.
func endPod(_ context.Context, c *call) error {
	cluster, namespace, name, err := c.podName(c.args[0])
	if err != nil {
		return err
	}
	return cluster.EndPod(namespace, name)
}

// deletePod takes a pod out of the manifests; it runs until sync.
func deletePod(_ context.Context, c *call) error {
	cluster, namespace, name, err := c.podName(c.args[0])
	if err != nil {
		return err
	}
	return cluster.DeletePod(namespace, name)
}

// podReady changes what the manifests say of a pod, not the pod.
func podReady(_ context.Context, c *call) error {
	cluster, namespace, name, err := c.podName(c.args[0])
	if err != nil {
		return err
	}
	found := false
	err = cluster.Edit(func(o lab.Object) bool {
		if o.Kind() == "Pod" && o.Namespace() == namespace && o.Name() == name {
			found = true
			status, _ := o["status"].(map[string]any)
			status["conditions"] = []any{map[string]any{"type": "Ready", "status": c.args[1]}}
		}
		return true
	})
	if err == nil && !found {
		err = fmt.Errorf("the manifests of %s have no pod %s/%s", cluster.Name, namespace, name)
	}
	return err
}

func syncPods(ctx context.Context, c *call) error {
	cluster, err := c.cluster(c.args[0])
	if err != nil {
		return err
	}
	return cluster.Sync(ctx)
}

// wipe removes a cluster's data directory, or a folder of it.
func wipe(_ context.Context, c *call) error {
	cluster, err := c.cluster(c.args[0])
	if err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(append([]string{cluster.DataDir()}, c.args[1:]...)...))
}

func cut(_ context.Context, c *call) error {
	cluster, node, err := c.separable()
	if err != nil {
		return err
	}
	if node != nil {
		return node.Cut()
	}
	return cluster.Cut()
}

func heal(_ context.Context, c *call) error {
	cluster, node, err := c.separable()
	if err != nil {
		return err
	}
	if node != nil {
		return node.Heal()
	}
	return cluster.Heal()
}

func (c *call) separable() (*lab.Cluster, *lab.Node, error) {
	if strings.Contains(c.args[0], "/") {
		n, err := c.node(c.args[0])
		return nil, n, err
	}
	cluster, err := c.cluster(c.args[0])
	return cluster, nil, err
}
