package kind

import (
	"context"
	_ "embed" // the manifests
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

//go:embed testdata/east.yaml
var eastConfig string

//go:embed testdata/west.yaml
var westConfig string

//go:embed testdata/flannel.yaml
var flannelManifest string

// readyTimeout bounds what a cluster takes to come up on a machine that does much else.
const readyTimeout = 15 * time.Minute

// Cluster is one of a bed. Its methods may be called from many goroutines.
type Cluster struct {
	// Name is the cluster's.
	Name string
	// Pods and Services are its ranges of addresses.
	Pods, Services string

	bed    *Bed
	config string
	// wire gives pods their network.
	wire func(context.Context) error
}

// East is the cluster with flannel, and kube-proxy with nftables.
func (b *Bed) East() *Cluster {
	c := &Cluster{Name: "east", Pods: "10.11.0.0/16", Services: "10.111.0.0/16", bed: b, config: eastConfig}
	c.wire = func(ctx context.Context) error { return c.Apply(ctx, flannelManifest) }
	return c
}

// West is the cluster whose pods have the ptp plugin with masquerading, and
// kube-proxy with iptables.
func (b *Bed) West() *Cluster {
	c := &Cluster{Name: "west", Pods: "10.12.0.0/16", Services: "10.112.0.0/16", bed: b, config: westConfig}
	c.wire = c.wirePTP
	return c
}

// North comes later, and is as west.
func (b *Bed) North() *Cluster {
	config := strings.NewReplacer("name: west", "name: north", "10.12.", "10.13.", "10.112.", "10.113.").Replace(westConfig)
	c := &Cluster{Name: "north", Pods: "10.13.0.0/16", Services: "10.113.0.0/16", bed: b, config: config}
	c.wire = c.wirePTP
	return c
}

// Clusters are those that there are.
func (b *Bed) Clusters() []*Cluster {
	all := []*Cluster{b.East(), b.West()}
	if b.third {
		all = append(all, b.North())
	}
	return all
}

// published returns the image of KIND_IMAGE, "" for that which is made here.
func published() string { return os.Getenv("KIND_IMAGE") }

// Kubeconfig is a file with a context for each cluster, good in the bed's network.
func (b *Bed) Kubeconfig() string { return b.path("kubeconfig") }

// createClusters starts both, and returns once their nodes and DNS are ready.
func (b *Bed) createClusters(ctx context.Context) error {
	image, err := b.nodeImage(ctx)
	if err != nil {
		return err
	}
	if err := b.each(func(c *Cluster) error { return c.create(ctx, image) }); err != nil {
		return err
	}
	return os.WriteFile(b.path("ready"), nil, 0o600)
}

// nodeImage has the bed's docker know the image of nodes, and returns its name.
func (b *Bed) nodeImage(ctx context.Context) (string, error) {
	if image := published(); image != "" {
		return image, b.fetch(ctx, image)
	}
	image := "causeway-test/node:" + b.parts.Tag
	_, err := b.docker(ctx, "import", "--change", `ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]`,
		"--change", "ENV container=docker", b.parts.Node, image)
	return image, err
}

// AddNorth starts the third cluster, which has the images of archives.
func (b *Bed) AddNorth(ctx context.Context, archives ...string) error {
	image, err := b.nodeImage(ctx)
	if err != nil {
		return err
	}
	b.third = true
	if err := b.North().create(ctx, image); err != nil {
		return err
	}
	for _, archive := range append(archives, b.path(echoArchive)) {
		if err := b.North().load(ctx, archive); err != nil {
			return err
		}
	}
	return nil
}

// fetch takes an image from the machine's docker, which pulls it: the bed reaches no
// registry.
func (b *Bed) fetch(ctx context.Context, image string) error {
	archive := b.path("node.tar")
	for _, args := range [][]string{{"pull", image}, {"save", "--output", archive, image}} {
		if _, err := run(exec.CommandContext(ctx, "docker", args...)); err != nil {
			return err
		}
	}
	if _, err := b.docker(ctx, "load", "--input", archive); err != nil {
		return err
	}
	return os.Remove(archive)
}

// each does something with all clusters at once.
func (b *Bed) each(do func(*Cluster) error) error {
	clusters := b.Clusters()
	errs := make([]error, len(clusters))
	var group sync.WaitGroup
	for i, c := range clusters {
		group.Go(func() {
			if err := do(c); err != nil {
				errs[i] = fmt.Errorf("cluster %q: %w", c.Name, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (c *Cluster) create(ctx context.Context, image string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	cmd := c.bed.Command(ctx, c.bed.parts.Kind, "create", "cluster", "--config", "-", "--image", image, "--retain", "--kubeconfig", c.bed.Kubeconfig())
	config := c.config
	if published() != "" {
		config = strings.ReplaceAll(config, "  disableDefaultCNI: true\n", "")
	}
	cmd.Stdin = strings.NewReader(config)
	if _, err := run(cmd); err != nil {
		return err
	}
	return c.prepare(ctx)
}

// prepare gives nodes a network and returns once pods can be started on both of
// them, so that one can be drained.
func (c *Cluster) prepare(ctx context.Context) error {
	if _, err := c.Kubectl(ctx, "taint", "node", c.Name+"-control-plane", "node-role.kubernetes.io/control-plane-"); err != nil {
		return err
	}
	if published() == "" {
		if err := c.wire(ctx); err != nil {
			return err
		}
	}
	if _, err := c.Kubectl(ctx, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=5m"); err != nil {
		return err
	}
	_, err := c.Kubectl(ctx, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=5m")
	return err
}

// Context is what kind calls it in the kubeconfig.
func (c *Cluster) Context() string { return "kind-" + c.Name }

// Node is a node of a cluster as its objects tell.
type Node struct{ Name, Address, Pods string }

// Nodes lists the cluster's nodes; each has a range of pods.
func (c *Cluster) Nodes(ctx context.Context) ([]Node, error) {
	out, err := c.Kubectl(ctx, "get", "nodes", "-o", "json")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ PodCIDR string }
			Status   struct {
				Addresses []struct{ Type, Address string }
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []Node
	for _, item := range list.Items {
		node := Node{Name: item.Metadata.Name, Pods: item.Spec.PodCIDR}
		for _, a := range item.Status.Addresses {
			if a.Type == "InternalIP" {
				node.Address = a.Address
			}
		}
		if node.Pods == "" || node.Address == "" {
			return nil, fmt.Errorf("node %q has no range of pods or no address yet", node.Name)
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// wirePTP writes each node's plugin configuration, and the routes between the
// nodes' pods.
func (c *Cluster) wirePTP(ctx context.Context) error {
	var nodes []Node
	err := await(ctx, readyTimeout, func(ctx context.Context) (err error) {
		nodes, err = c.Nodes(ctx)
		return err
	})
	if err != nil {
		return err
	}
	const plugins = `{"cniVersion": "0.4.0", "name": "ptp", "plugins": [
  {"type": "ptp", "ipMasq": true, "mtu": 1500, "ipam": {"type": "host-local", "ranges": [[{"subnet": "PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}`
	for _, node := range nodes {
		script := "echo '" + strings.ReplaceAll(plugins, "PODS", node.Pods) + "' >/etc/cni/net.d/10-ptp.conflist\n"
		for _, other := range nodes {
			if other != node {
				script += "ip route replace " + other.Pods + " via " + other.Address + "\n"
			}
		}
		if _, err := c.OnNode(ctx, node.Name, "sh", "-ec", script); err != nil {
			return err
		}
	}
	return nil
}

// Kubectl runs kubectl against the cluster and returns what it printed.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.bed.Run(ctx, c.bed.parts.Kubernetes, append([]string{"kubectl", "--context", c.Context()}, args...)...)
}

// Apply applies a manifest.
func (c *Cluster) Apply(ctx context.Context, manifest string) error {
	cmd := c.bed.Command(ctx, c.bed.parts.Kubernetes, "kubectl", "--context", c.Context(), "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	_, err := run(cmd)
	return err
}

// Exec runs a program in a pod of the namespace default.
func (c *Cluster) Exec(ctx context.Context, pod string, command ...string) (string, error) {
	return c.Kubectl(ctx, append([]string{"exec", pod, "--"}, command...)...)
}

// OnNode runs a program on a node.
func (c *Cluster) OnNode(ctx context.Context, node string, command ...string) (string, error) {
	return c.bed.docker(ctx, append([]string{"exec", node}, command...)...)
}

// LoadImage gives all nodes of all clusters the images of an archive.
func (b *Bed) LoadImage(ctx context.Context, archive string) error {
	return b.each(func(c *Cluster) error { return c.load(ctx, archive) })
}

func (c *Cluster) load(ctx context.Context, archive string) error {
	_, err := c.bed.Run(ctx, c.bed.parts.Kind, "load", "image-archive", archive, "--name", c.Name)
	return err
}
