package kubelab

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/causeway-mesh/causeway/deploy/oci"
	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

//go:embed node.sh
var nodeScript string

// nodeNamespaces are a node's own. The kernel ends all that is in a PID namespace
// with its first process.
const nodeNamespaces = syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET

// NodeConfig says what a node is.
type NodeConfig struct {
	// Name is the Node object's.
	Name string
	// Images are there when the node is ready: it has no registry. One must be
	// PauseImage.
	Images []oci.Image
	// Number gives the node its address and its pods theirs; those of nodes that
	// JoinNodes joins differ.
	Number int
	// Masquerade has what pods send elsewhere come from the node, as most CNIs do, so
	// that pods reach nodes that know no way back to them.
	Masquerade bool
}

// NodeControllers are the controllers that pods on nodes need, with those of
// ServiceControllers.
func NodeControllers() []string {
	return append(ServiceControllers(), "node-lifecycle-controller", "root-ca-certificate-publisher-controller",
		"deployment-controller", "replicaset-controller")
}

// Node is a node of its own network, with containerd, kubelet and kube-proxy. It
// reaches the control plane at the address at which everybody does, and is reached
// by it: logs, exec and forwarded ports work.
type Node struct {
	plane *ControlPlane
	name  string
	// address is the node's, podRange its pods'.
	address, podRange string
	masquerade        bool

	dir   folder
	init  *process
	space *netspace.Space
	// forwards lead to kube-apiserver: at its own address, and for pods.
	forwards []*forwarder
}

// RequireNode skips the test where no node can run: as Require, without root, or
// where a program is missing. With CI=true that fails it.
func RequireNode(t testing.TB) {
	t.Helper()
	Require(t)
	reason := ""
	if os.Geteuid() != 0 {
		reason = "nodes of Kubernetes make namespaces, cgroups and mounts: run it as root"
	} else if missing := missingPrograms(); len(missing) > 0 {
		reason = "nodes of Kubernetes need " + strings.Join(missing, ", ") + ": make test-kube INSTALL=1 installs the packages"
	}
	switch {
	case reason == "":
	case os.Getenv("CI") == "true":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}

func missingPrograms() []string {
	return slices.DeleteFunc([]string{"containerd", "ctr", "runc", "nft", "ip", filepath.Join(pluginDir, "bridge")}, func(name string) bool {
		_, err := exec.LookPath(name)
		return err == nil
	})
}

// StartNode starts a node that ends with the test and returns once it is Ready.
// The control plane needs NodeControllers.
func (p *ControlPlane) StartNode(t testing.TB, config NodeConfig) *Node {
	t.Helper()
	RequireNode(t)
	n, err := p.startNode(t.Context(), config)
	t.Cleanup(func() {
		if t.Failed() {
			n.showLogs(t)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatalf("start node %q: %v", config.Name, err)
	}
	return n
}

// startNode returns what it made together with an error, too.
func (p *ControlPlane) startNode(ctx context.Context, config NodeConfig) (*Node, error) {
	n := &Node{plane: p, name: config.Name, address: nodeAddressOf(config.Number), podRange: podRangeOf(config.Number), masquerade: config.Masquerade}
	var err error
	if n.dir, err = newFolder(os.TempDir()); err != nil {
		return n, err
	}
	if err := errors.Join(n.writeFiles(), n.writeImages(config.Images), makeGroups(n.dir.path)); err != nil {
		return n, err
	}
	n.init = &process{
		name: "node", path: "/bin/sh", args: []string{"-c", nodeScript, "node", n.dir.path, p.binary, n.name, n.address}, log: n.path("init.log"),
		namespaces: nodeNamespaces,
	}
	if err := n.init.start(); err != nil {
		return n, err
	}
	if n.space, err = netspace.Open(fmt.Sprintf("/proc/%d/ns/net", n.init.pid())); err != nil {
		return n, err
	}
	if err := n.reachControlPlane(ctx); err != nil {
		return n, err
	}
	p.egress.add(n)
	timeout := "--timeout=" + startTimeout.String()
	if _, err := p.Kubectl(ctx, "", "wait", "--for=create", "node/"+n.name, timeout); err != nil {
		return n, err
	}
	_, err = p.Kubectl(ctx, "", "wait", "--for=condition=Ready", "node/"+n.name, timeout)
	return n, err
}

// reachControlPlane lets the node's processes reach kube-apiserver where everybody
// does, and its pods by the Service kubernetes.
func (n *Node) reachControlPlane(ctx context.Context) error {
	_, number, err := net.SplitHostPort(n.plane.port.address)
	if err != nil {
		return err
	}
	for _, address := range []string{n.plane.port.address, net.JoinHostPort(n.address, number)} {
		f, err := forward(n.space, address, n.plane.port.address)
		if err != nil {
			return err
		}
		n.forwards = append(n.forwards, f)
	}
	// Of several nodes the latest counts.
	return n.plane.Apply(ctx, strings.NewReplacer("ADDRESS", n.address, "PORT", number).Replace(apiServerSlice))
}

func (n *Node) writeImages(images []oci.Image) error {
	file, err := os.Create(n.path("images.tar"))
	if err != nil {
		return err
	}
	return errors.Join(oci.Write(file, images), file.Close())
}

// Dial connects from the node's network, as a process of the node does.
func (n *Node) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var connection net.Conn
	err := n.space.Do(func() (err error) {
		connection, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return connection, err
}

// Path returns a path of the node as this process finds it, while the node runs:
// what is mounted there, logs of pods, volumes.
func (n *Node) Path(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", n.init.pid()), path)
}

// Group returns the folder of the node's cgroup, from the top of all hierarchies
// on: cgroup v2 at /sys/fs/cgroup/unified is the folder unified of it.
func (n *Node) Group(t testing.TB) string {
	t.Helper()
	root, err := cgroup.Root()
	if err != nil {
		t.Fatal(err)
	}
	group, err := filepath.Rel(cgroupTop, filepath.Join(root, filepath.Base(n.dir.path)))
	if err != nil {
		t.Fatal(err)
	}
	return group
}

// cgroupTop is where machines have their cgroup hierarchies.
const cgroupTop = "/sys/fs/cgroup"

// Close ends all that runs on the node, pods included, and removes what it left.
// It may be called again.
func (n *Node) Close() error {
	var errs []error
	n.plane.egress.forget(n)
	for _, f := range n.forwards {
		errs = append(errs, f.close())
	}
	if n.space != nil {
		errs = append(errs, n.space.Close())
		n.space = nil
	}
	if n.init != nil {
		n.init.kill()
	}
	return errors.Join(append(errs, n.dir.remove())...)
}

func (n *Node) showLogs(t testing.TB) {
	for _, name := range []string{"init", "import", "containerd", "kubelet", "kube-proxy"} {
		log := process{log: n.path(name + ".log")}
		t.Logf("the end of %s's log:\n%s", name, log.tail())
	}
}

func (n *Node) path(names ...string) string {
	return filepath.Join(append([]string{n.dir.path}, names...)...)
}

// makeGroups makes the cgroup beneath which the containers of the node with this
// folder are: in each hierarchy, by the folder's name, by which it is found again.
func makeGroups(folder string) error {
	roots, err := cgroup.Roots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		group := filepath.Join(root, filepath.Base(folder))
		if err := os.Mkdir(group, 0o755); err != nil {
			return fmt.Errorf("make a node's cgroup: %w", err)
		}
		// In a hierarchy of version 1, nothing runs in one without processors.
		for _, setting := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(root, setting))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(group, setting), value, 0)
			}
			if err != nil {
				return fmt.Errorf("set %s of a node's cgroup: %w", setting, err)
			}
		}
	}
	return nil
}

// removeGroups removes what makeGroups made and what containers made beneath it;
// none is fine. Their processes may be about to end.
func removeGroups(folder string) error {
	roots, err := cgroup.Roots()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, root := range roots {
		if err := cgroup.Remove(ctx, filepath.Join(root, filepath.Base(folder))); err != nil {
			return err
		}
	}
	return nil
}
