// Package kubelab runs real Kubernetes control planes for tests: etcd and
// kube-apiserver, and the controllers and the scheduler if asked for, as
// processes on loopback, and nodes. No docker, no registry; a control plane needs no root, is
// ready in a few seconds and takes 450 MiB, 100 more with the controllers.
//
// The programs come from one binary that `make kubernetes` builds once
// ([Build]). Where it is not built, and with -short, a test that asks for a
// control plane is skipped and says so; with CI=true it fails.
//
// # One for each test
//
//	plane := kubelab.Start(t, kubelab.Config{})
//	config, err := clientcmd.BuildConfigFromFlags("", plane.Kubeconfig())
//
// # One for all tests of a package
//
// Starting one costs seconds of processor, so tests that do not kill it share
// it, each in a namespace of its own:
//
//	var shared kubelab.Shared
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(shared.Around(m)) }
//
//	func TestIt(t *testing.T) { plane := shared.Start(t) ... }
//
// # What a test can do to it
//
// [ControlPlane.KillAPIServer] and [ControlPlane.StartAPIServer] (the address
// and certificates stay, so clients find it again), [ControlPlane.PauseAPIServer]
// and [ControlPlane.ResumeAPIServer] (connections stay, nothing answers),
// [ControlPlane.Save] and [ControlPlane.Restore] (it serves what was there
// before: older revisions, too), [ControlPlane.Compact] (what a client of
// before resumes from is gone: 410).
//
// Without controllers nothing makes EndpointSlices, default service accounts or
// Ready nodes: tests write what they need, status included, and pods need no
// service account. Deleting a namespace then never ends. With controllers, a
// pod made by hand gets an endpoint once a Node of its nodeName exists.
//
// # Nodes
//
// [ControlPlane.StartNode] gives the control plane a node: a network of its own
// with containerd, kubelet and kube-proxy, whose pods come from images that are
// made of static binaries. It takes root and Debian's containerd, runc, nftables
// and containernetworking-plugins; [RequireNode] skips the test without them. What
// it changes of the machine are cgroups of its own.
//
// All processes end with the test binary, however that ends; what a crash
// leaves in the folder of temporary files goes at the next start.
package kubelab

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds the start of a program until it is ready, on a machine
// that does much else.
const startTimeout = 3 * time.Minute

// Address ranges of the control plane.
const (
	ServiceCIDR = "10.96.0.0/16"
	PodCIDR     = "10.200.0.0/16"
	// serviceAddress is the Service kubernetes', by which pods reach kube-apiserver.
	serviceAddress = "10.96.0.1"
)

// Config says what runs beside etcd and kube-apiserver.
type Config struct {
	// Controllers are names of controllers that run in a kube-controller-manager,
	// as its help lists them: "endpointslice-controller". It does not run when empty.
	Controllers []string
	// Scheduler runs a kube-scheduler.
	Scheduler bool
	// APIServerArgs are added to kube-apiserver's last, so that they win.
	APIServerArgs []string
}

// ServiceControllers are the controllers that turn pods and Services into
// EndpointSlices, and let namespaces come and go.
func ServiceControllers() []string {
	return []string{
		"endpointslice-controller", "endpointslice-mirroring-controller", "namespace-controller",
		"serviceaccount-controller", "garbage-collector-controller",
	}
}

// ControlPlane is a running one. Its methods may be called by one goroutine at
// a time, but for those that only return a value.
type ControlPlane struct {
	config Config
	binary string
	dir    folder
	port   *port
	// authority signs what nodes are known by.
	authority *authority
	client    *http.Client
	egress    *egress

	etcd, apiserver, controllers, scheduler *process
}

// Start starts a control plane that ends with the test. It skips the test where
// none can run; see the package comment.
func Start(t testing.TB, config Config) *ControlPlane {
	t.Helper()
	Require(t)
	plane, err := New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of what kube-apiserver said:\n%s", plane.apiserver.tail())
		}
		if err := plane.Close(); err != nil {
			t.Error(err)
		}
	})
	return plane
}

// Require skips the test where no control plane can run: with -short, or while
// the binary is not built. With CI=true that fails it.
func Require(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Kubernetes control plane, left out by -short")
	}
	if _, err := Binary(t.Context()); err != nil {
		if errors.Is(err, ErrNotBuilt) && os.Getenv("CI") != "true" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
}

// New starts a control plane and returns once it is ready. It lives until Close,
// whatever becomes of ctx.
func New(ctx context.Context, config Config) (*ControlPlane, error) {
	plane, err := start(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("start a control plane: %w", errors.Join(err, plane.Close()))
	}
	return plane, nil
}

// start returns what it made together with an error, too.
func start(ctx context.Context, config Config) (*ControlPlane, error) {
	p := &ControlPlane{config: config}
	var err error
	if p.binary, err = Binary(ctx); err != nil {
		return p, err
	}
	if p.dir, err = newFolder(os.TempDir()); err != nil {
		return p, err
	}
	if p.port, err = reservePort(); err != nil {
		return p, err
	}
	if err := p.writeCredentials(); err != nil {
		return p, err
	}
	if p.egress, err = newEgress(p.path("egress.sock")); err != nil {
		return p, err
	}
	p.etcd = p.program("etcd", p.etcdArgs()...)
	p.apiserver = p.program("kube-apiserver", p.apiserverArgs()...)
	p.controllers = p.program("kube-controller-manager", p.controllerArgs()...)
	p.scheduler = p.program("kube-scheduler", "--kubeconfig="+p.path("scheduler.conf"), "--leader-elect=false", "--secure-port=0",
		"--authentication-tolerate-lookup-failure=true")
	if err := p.startEtcd(ctx); err != nil {
		return p, err
	}
	if err := p.StartAPIServer(ctx); err != nil {
		return p, err
	}
	if len(config.Controllers) > 0 {
		err = errors.Join(err, p.controllers.start())
	}
	if config.Scheduler {
		err = errors.Join(err, p.scheduler.start())
	}
	return p, err
}

// Close ends everything and removes its data. It may be called again.
func (p *ControlPlane) Close() error {
	if p.client != nil {
		p.client.CloseIdleConnections()
	}
	for _, program := range []*process{p.scheduler, p.controllers, p.apiserver, p.etcd} {
		if program != nil {
			program.kill()
		}
	}
	var err error
	if p.egress != nil {
		err = p.egress.close()
	}
	if p.port != nil {
		p.port.release()
	}
	return errors.Join(err, p.dir.remove())
}

// Kubeconfig returns the path of a kubeconfig file that may do everything.
func (p *ControlPlane) Kubeconfig() string { return p.path("admin.conf") }

// URL returns where kube-apiserver listens; it stays over restarts.
func (p *ControlPlane) URL() string { return "https://" + p.port.address }

// KillAPIServer ends kube-apiserver as a crash does and returns when it is gone.
func (p *ControlPlane) KillAPIServer() { p.apiserver.kill() }

// StartAPIServer starts kube-apiserver, which must not run, at the address that
// it had, and returns once it is ready.
func (p *ControlPlane) StartAPIServer(ctx context.Context) error {
	if err := p.apiserver.start(); err != nil {
		return err
	}
	return p.awaitReady(ctx)
}

// PauseAPIServer freezes kube-apiserver: its connections stay, nothing answers.
func (p *ControlPlane) PauseAPIServer() error { return p.apiserver.pause() }

// ResumeAPIServer lets a paused kube-apiserver go on.
func (p *ControlPlane) ResumeAPIServer() error { return p.apiserver.signal(syscall.SIGCONT) }

// Kubectl runs kubectl as an administrator, with input to read from ("-f -"),
// and returns its output. An error holds what it said.
func (p *ControlPlane) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, p.binary, append([]string{"kubectl"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+p.Kubeconfig(), "HOME="+p.dir.path)
	cmd.Stdin = strings.NewReader(input)
	var output, said strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &said
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return output.String(), nil
}

// Apply makes the objects of a manifest, or brings them to what it says.
func (p *ControlPlane) Apply(ctx context.Context, manifest string) error {
	_, err := p.Kubectl(ctx, manifest, "apply", "--server-side", "-f", "-")
	return err
}

// startEtcd returns once etcd listens: kube-apiserver waits for seconds before it
// tries again.
func (p *ControlPlane) startEtcd(ctx context.Context) error {
	// One that was killed leaves its socket, which would look as if it listened.
	if err := os.Remove(p.etcdSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := p.etcd.start(); err != nil {
		return err
	}
	return p.etcd.await(ctx, func(ctx context.Context) error {
		connection, err := new(net.Dialer).DialContext(ctx, "unix", p.etcdSocket())
		if err != nil {
			return err
		}
		return connection.Close()
	})
}

// awaitReady returns once kube-apiserver says that it is ready.
func (p *ControlPlane) awaitReady(ctx context.Context) error {
	return p.apiserver.await(ctx, func(ctx context.Context) error { return p.probe(ctx, "/readyz") })
}

// probe returns nil when a GET of the path is answered by 200.
func (p *ControlPlane) probe(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL()+path, nil)
	if err != nil {
		return err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return nil
}

// writeCredentials makes the authority, certificates and keys of the control
// plane, and a kubeconfig for each of its clients.
func (p *ControlPlane) writeCredentials() error {
	authority, err := newAuthority(p.dir.path)
	if err != nil {
		return err
	}
	host, _, err := net.SplitHostPort(p.port.address)
	if err != nil {
		return err
	}
	if err := authority.serve("apiserver", host, serviceAddress); err != nil {
		return err
	}
	if err := writeKeyPair(p.path("sa")); err != nil {
		return err
	}
	for _, c := range []struct{ file, user, group string }{
		{"admin.conf", "admin", "system:masters"},
		{"controllers.conf", "system:kube-controller-manager", ""},
		{"scheduler.conf", "system:kube-scheduler", ""},
	} {
		if err := authority.kubeconfig(c.file, p.URL(), c.user, c.group); err != nil {
			return err
		}
	}
	p.authority = authority
	if err := authority.user("kubelet-client", "kube-apiserver-kubelet-client", "system:masters"); err != nil {
		return err
	}
	egress := strings.ReplaceAll(egressConfig, "SOCKET", p.path("egress.sock"))
	if err := writeFiles(map[string][]byte{p.path("egress.yaml"): []byte(egress)}); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(authority.cert)
	p.client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	return nil
}

func (p *ControlPlane) path(name string) string { return filepath.Join(p.dir.path, name) }
