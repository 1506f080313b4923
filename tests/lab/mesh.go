package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Where the daemons of a lab listen: the gateway on its node's address, the
// status servers on their node's loopback.
const (
	gatewayPort     = 8474
	apiServerStatus = "127.0.0.1:9474"
	agentStatus     = "127.0.0.1:9475"
)

// mapCapacity is the agents' --map-capacity: small, since every node has maps.
const mapCapacity = 65_536

// certificateTTL is how long a lab's certificates are valid.
const certificateTTL = 24 * time.Hour

// ErrNotStarted is returned for a daemon that was never started.
var ErrNotStarted = errors.New("not started")

// Home is the node that the cluster's API server runs on, its first.
func (c *Cluster) Home() (*Node, error) {
	nodes := c.Nodes()
	if len(nodes) == 0 {
		return nil, fmt.Errorf("cluster %s has no node", c.Name)
	}
	return nodes[0], nil
}

// Gateway is the address of the cluster's gateway: its home's first IP.
func (c *Cluster) Gateway() (netip.AddrPort, error) {
	home, err := c.Home()
	if err != nil {
		return netip.AddrPort{}, err
	}
	if len(home.IPs) == 0 {
		return netip.AddrPort{}, fmt.Errorf("node %s has no InternalIP", home)
	}
	return netip.AddrPortFrom(home.IPs[0], gatewayPort), nil
}

// AdminFile is what the API server wrote for the command line.
func (c *Cluster) AdminFile() string { return filepath.Join(c.DataDir(), "admin.yaml") }

// Authority is the cluster's own, of which the API server is the owner. It is
// made here when the API server has not run yet.
func (c *Cluster) Authority() (*pki.Authority, error) {
	if err := os.MkdirAll(c.DataDir(), 0o700); err != nil {
		return nil, fmt.Errorf("make a data folder: %w", err)
	}
	return pki.OpenAuthority(filepath.Join(c.DataDir(), "pki"), c.Name)
}

// StartAPIServer starts the cluster's API server; extra flags are added last.
// It may not be ready yet: see AwaitReady.
func (c *Cluster) StartAPIServer(ctx context.Context, extra ...string) (*Process, error) {
	home, err := c.Home()
	if err != nil {
		return nil, err
	}
	gateway, err := c.Gateway()
	if err != nil {
		return nil, err
	}
	args := []string{
		"--cluster-name", c.Name,
		"--cluster-id", strconv.Itoa(c.ID),
		"--max-connected-clusters", strconv.Itoa(c.MaxClusters),
		"--data-dir", c.DataDir(),
		"--manifests-dir", c.ManifestsDir(),
		"--peers-dir", c.PeersDir(),
		"--listen", gateway.String(),
		"--listen-http", apiServerStatus,
		"--log-format", "text",
	}
	if len(c.MeshRanges) > 0 {
		var ranges []string
		for _, r := range c.MeshRanges {
			ranges = append(ranges, r.String())
		}
		args = append(args, "--mesh-cidr", strings.Join(ranges, ","))
	}
	process, err := home.Start(ctx, Command{
		Name: "clustermesh-apiserver", Path: c.lab.binary("clustermesh-apiserver"), Args: append(args, extra...),
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.api = process
	return process, nil
}

// StartAgent gives the node a certificate and starts its agent; extra flags are
// added last. It may not be ready yet: see AwaitReady.
func (n *Node) StartAgent(ctx context.Context, extra ...string) (*Process, error) {
	c := n.Cluster
	gateway, err := c.Gateway()
	if err != nil {
		return nil, err
	}
	files, err := c.issue(c, pki.RoleAgent, n.Name, filepath.Join(c.certsDir(), fileName("agent", n.Name)))
	if err != nil {
		return nil, fmt.Errorf("give node %s a certificate: %w", n, err)
	}
	args := []string{
		"--node-name", n.Name,
		"--cluster-name", c.Name,
		"--api-server", gateway.String(),
		"--ca-file", files.CAFile,
		"--cert-file", files.CertFile,
		"--key-file", files.KeyFile,
		"--bpffs-dir", n.bpffs,
		"--state-dir", n.StateDir(),
		"--cgroup-root", n.CgroupRoot(),
		"--map-capacity", strconv.Itoa(mapCapacity),
		"--listen-http", agentStatus,
		"--log-format", "text",
	}
	process, err := n.Start(ctx, Command{
		Name: "node-agent", Path: c.lab.binary("node-agent"), Args: append(args, extra...),
	})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agents[n] = process
	return process, nil
}

// APIServer is the cluster's API server, nil before it was started.
func (c *Cluster) APIServer() *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.api
}

// Agent is the node's agent, nil before it was started.
func (n *Node) Agent() *Process {
	n.Cluster.mu.Lock()
	defer n.Cluster.mu.Unlock()
	return n.Cluster.agents[n]
}

// Daemons returns the cluster's API server and agents, as far as started.
func (c *Cluster) Daemons() []*Process {
	var list []*Process
	if p := c.APIServer(); p != nil {
		list = append(list, p)
	}
	for _, n := range c.Nodes() {
		if p := n.Agent(); p != nil {
			list = append(list, p)
		}
	}
	return list
}

// AwaitReady returns once the API server and all agents that were started say
// that they are ready.
func (c *Cluster) AwaitReady(ctx context.Context) error {
	api := c.APIServer()
	if api == nil {
		return fmt.Errorf("API server of cluster %s: %w", c.Name, ErrNotStarted)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return api.AwaitHTTP(ctx, "http://"+apiServerStatus+"/readyz") })
	for _, n := range c.Nodes() {
		if agent := n.Agent(); agent != nil {
			group.Go(func() error { return agent.AwaitHTTP(ctx, "http://"+agentStatus+"/readyz") })
		}
	}
	return group.Wait()
}

// Up starts the API server and an agent on every node and waits until all are
// ready. An API server waits some time for peers that are not up: Lab.Up starts
// all clusters first.
func (c *Cluster) Up(ctx context.Context) error {
	if err := c.start(ctx); err != nil {
		return err
	}
	return c.AwaitReady(ctx)
}

func (c *Cluster) start(ctx context.Context) error {
	if _, err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	for _, n := range c.Nodes() {
		if _, err := n.StartAgent(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Up starts the API server and the agents of every cluster and waits until all
// are ready.
func (l *Lab) Up(ctx context.Context) error {
	for _, c := range l.Clusters() {
		if err := c.start(ctx); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range l.Clusters() {
		group.Go(func() error { return c.AwaitReady(ctx) })
	}
	return group.Wait()
}

// Metrics returns the text of a daemon's /metrics.
func (p *Process) Metrics(ctx context.Context) ([]byte, error) {
	address := agentStatus
	if p.command.Name == "clustermesh-apiserver" {
		address = apiServerStatus
	}
	return fetch(ctx, p.place.HTTPClient(), "http://"+address+"/metrics")
}

// Connect makes the cluster read remote: it gets a client certificate of
// remote's authority and a peer file. The other direction is another Connect.
func (c *Cluster) Connect(remote *Cluster) error {
	files, err := remote.issue(c, pki.RolePeer, c.Name, filepath.Join(c.certsDir(), fileName("peer", remote.Name)))
	if err != nil {
		return fmt.Errorf("give cluster %s a certificate of %s: %w", c.Name, remote.Name, err)
	}
	gateway, err := remote.Gateway()
	if err != nil {
		return err
	}
	text, err := yaml.Marshal(map[string]any{
		"endpoints":       []string{"https://" + net.JoinHostPort(gateway.Addr().String(), strconv.Itoa(gatewayPort))},
		"trusted-ca-file": files.CAFile,
		"cert-file":       files.CertFile,
		"key-file":        files.KeyFile,
	})
	if err != nil {
		return fmt.Errorf("write a peer file: %w", err)
	}
	return c.WritePeer(remote.Name, text)
}

// Disconnect removes the peer file that Connect wrote.
func (c *Cluster) Disconnect(remote *Cluster) error {
	if err := os.Remove(filepath.Join(c.PeersDir(), remote.Name)); err != nil {
		return fmt.Errorf("remove a peer file: %w", err)
	}
	return nil
}

// WritePeer puts any text into the peer file of that name, at once and whole.
func (c *Cluster) WritePeer(name string, text []byte) error {
	return writeWhole(filepath.Join(c.PeersDir(), name), text, 0o600)
}

// ConnectAll connects every cluster with every other, both ways.
func (l *Lab) ConnectAll() error {
	var errs []error
	for _, a := range l.Clusters() {
		for _, b := range l.Clusters() {
			if a != b {
				errs = append(errs, a.Connect(b))
			}
		}
	}
	return errors.Join(errs...)
}

// issue lets c's authority sign a certificate for holder, and returns the files
// that it wrote, whose names begin with prefix.
func (c *Cluster) issue(holder *Cluster, role pki.Role, name, prefix string) (pki.ClientFiles, error) {
	authority, err := c.Authority()
	if err != nil {
		return pki.ClientFiles{}, err
	}
	if err := os.MkdirAll(holder.certsDir(), 0o755); err != nil {
		return pki.ClientFiles{}, fmt.Errorf("make a folder: %w", err)
	}
	pair, err := authority.Issue(pki.Request{Role: role, Name: name, TTL: certificateTTL})
	if err != nil {
		return pki.ClientFiles{}, err
	}
	files := pki.ClientFiles{CAFile: prefix + "-ca.crt", CertFile: prefix + ".crt", KeyFile: prefix + ".key"}
	if err := pair.Save(files.CertFile, files.KeyFile); err != nil {
		return pki.ClientFiles{}, err
	}
	return files, writeWhole(files.CAFile, authority.CertPEM(), 0o644)
}

// Causeway runs the command line with the cluster's admin file on the cluster's
// home node and returns its standard output. An exit status other than 0 is an
// error that holds an *exec.ExitError.
func (c *Cluster) Causeway(ctx context.Context, args ...string) ([]byte, error) {
	home, err := c.Home()
	if err != nil {
		return nil, err
	}
	return home.Run(ctx, c.lab.binary("causeway"), append(args, "--admin-file", c.AdminFile())...)
}

// StartCauseway starts the command line like Causeway, for what runs until it is
// told to stop. Its standard output goes to out, or, without one, to its log.
func (c *Cluster) StartCauseway(ctx context.Context, out io.Writer, args ...string) (*Process, error) {
	home, err := c.Home()
	if err != nil {
		return nil, err
	}
	return home.Start(ctx, Command{
		Name: "causeway", Path: c.lab.binary("causeway"), Args: append(args, "--admin-file", c.AdminFile()), Stdout: out,
	})
}
