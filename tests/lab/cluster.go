package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
)

// ClusterSpec says what a cluster is made of.
type ClusterSpec struct {
	Name string
	ID   int
	// MaxClusters is the size of the mesh; 255 when 0.
	MaxClusters int
	// Manifests is a file or folder of Kubernetes objects, copied to the
	// cluster's own. Its Nodes and its running, ready pods become real.
	Manifests string
	// Network is how its pods are wired; flat when it is zero.
	Network Network
	// MeshRanges are where the nodes' mesh addresses come from, at most one a
	// family; without any, Causeway carries no packets.
	MeshRanges []netip.Prefix
}

// Cluster is a set of nodes on a wire of their own.
type Cluster struct {
	Name        string
	ID          int
	MaxClusters int
	Network     Network
	MeshRanges  []netip.Prefix

	lab   *Lab
	index int

	mu     sync.Mutex // one change of manifests or nodes at a time
	api    *Process
	agents map[*Node]*Process
}

// AddCluster makes a cluster. Its nodes reach those of every other cluster.
func (l *Lab) AddCluster(ctx context.Context, spec ClusterSpec) (*Cluster, error) {
	if err := spec.Network.Validate(); err != nil {
		return nil, fmt.Errorf("make cluster %s: %w", spec.Name, err)
	}
	c := &Cluster{
		Name: spec.Name, ID: spec.ID, MaxClusters: spec.MaxClusters, Network: spec.Network, MeshRanges: spec.MeshRanges,
		lab: l, agents: map[*Node]*Process{},
	}
	if c.MaxClusters == 0 {
		c.MaxClusters = 255
	}
	for _, dir := range []string{c.ManifestsDir(), c.PeersDir(), c.certsDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make a folder of cluster %s: %w", c.Name, err)
		}
	}
	if spec.Manifests != "" {
		if err := copyManifests(spec.Manifests, c.ManifestsDir()); err != nil {
			return nil, err
		}
	}
	if err := l.wire(c); err != nil {
		return nil, fmt.Errorf("make cluster %s: %w", c.Name, err)
	}
	return c, c.Sync(ctx)
}

// wire gives the cluster a bridge and joins it to the core.
func (l *Lab) wire(c *Cluster) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("the lab is closed")
	}
	for _, other := range l.clusters {
		if other.Name == c.Name {
			return errors.New("the lab has one of that name")
		}
	}
	c.index = len(l.clusters)
	err := l.root.AddBridge(c.bridge())
	if err == nil {
		err = l.root.AddPair(c.uplink(), l.root, fmt.Sprintf("core-c%d", c.index))
	}
	if err == nil {
		err = l.root.Enslave(c.uplink(), c.bridge())
	}
	if err == nil {
		err = l.root.Enslave(fmt.Sprintf("core-c%d", c.index), coreBridge)
	}
	if err == nil && c.Network.mtu() > defaultMTU {
		err = errors.Join(l.root.SetMTU(c.uplink(), uplinkMTU), l.root.SetMTU(fmt.Sprintf("core-c%d", c.index), uplinkMTU))
	}
	if err == nil && c.Network.Kind == Routed {
		err = l.openCore(c)
	}
	if err != nil {
		return err
	}
	l.clusters = append(l.clusters, c)
	return nil
}

func (c *Cluster) bridge() string { return fmt.Sprintf("c%d", c.index) }
func (c *Cluster) uplink() string { return fmt.Sprintf("c%d-core", c.index) }

// Cut separates the cluster from the others; its nodes reach each other.
func (c *Cluster) Cut() error { return c.lab.root.SetDown(c.uplink()) }

// Heal ends what Cut did.
func (c *Cluster) Heal() error { return c.lab.root.SetUp(c.uplink()) }

// The folders of a cluster: what its API server is started with.
func (c *Cluster) dir() string          { return filepath.Join(c.lab.state, c.Name) }
func (c *Cluster) certsDir() string     { return filepath.Join(c.dir(), "certs") }
func (c *Cluster) ManifestsDir() string { return filepath.Join(c.dir(), "manifests") }
func (c *Cluster) PeersDir() string     { return filepath.Join(c.dir(), "peers") }
func (c *Cluster) DataDir() string      { return filepath.Join(c.dir(), "data") }

// Nodes returns the cluster's nodes in the order of their manifests.
func (c *Cluster) Nodes() []*Node {
	c.lab.mu.Lock()
	defer c.lab.mu.Unlock()
	var nodes []*Node
	for _, n := range c.lab.nodes {
		if n.Cluster == c {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Node returns the node of that name.
func (c *Cluster) Node(name string) (*Node, error) {
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("cluster %s has no node %q", c.Name, name)
}

// Pods returns the cluster's real pods, node by node.
func (c *Cluster) Pods() []*Pod {
	var pods []*Pod
	for _, n := range c.Nodes() {
		pods = append(pods, n.Pods()...)
	}
	return pods
}

// Pod returns the real pod of that namespace and name.
func (c *Cluster) Pod(namespace, name string) (*Pod, error) {
	for _, p := range c.Pods() {
		if p.Namespace == namespace && p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("cluster %s has no running, ready pod %s/%s", c.Name, namespace, name)
}

// Sync makes the nodes and pods be what the manifests say: new nodes, new pods
// that run and are ready, and no pod that is not any more. A pod whose address,
// node or ports changed is another pod. Nodes are not taken away.
func (c *Cluster) Sync(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	objects, err := c.Objects()
	if err != nil {
		return err
	}
	want, err := readState(objects, c.Network.Kind == Routed)
	if err != nil {
		return fmt.Errorf("read the manifests of cluster %s: %w", c.Name, err)
	}
	for _, spec := range want.nodes {
		if _, err := c.Node(spec.Name); err == nil {
			continue
		}
		if _, err := c.AddNode(ctx, spec); err != nil {
			return err
		}
	}
	for _, pod := range c.Pods() {
		if !slices.ContainsFunc(want.pods, pod.is) {
			if err := pod.Remove(ctx); err != nil {
				return err
			}
		}
	}
	for _, spec := range want.pods {
		if _, err := c.Pod(spec.Namespace, spec.Name); err == nil {
			continue
		}
		node, err := c.Node(spec.Node)
		if err != nil {
			return fmt.Errorf("place pod %s/%s: %w", spec.Namespace, spec.Name, err)
		}
		if _, err := node.AddPod(ctx, spec); err != nil {
			return err
		}
	}
	return nil
}

// removeGroup kills what is in a cgroup of the lab and removes it.
func removeGroup(ctx context.Context, path string) error {
	if err := cgroup.Kill(ctx, path); err != nil {
		return err
	}
	return cgroup.Remove(ctx, path)
}
