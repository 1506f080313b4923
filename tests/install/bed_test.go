// Package install runs the command line against Kubernetes clusters with a node
// each, as a user does.
package install

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/deploy/oci"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// patience bounds all waits, on a machine that does much else.
const patience = 90 * time.Second

// Images of this tree.
const (
	apiServerImage = "localhost/causeway/clustermesh-apiserver:test"
	nodeAgentImage = "localhost/causeway/node-agent:test"
	echoImage      = "localhost/causeway/echo:test"
)

var (
	shared   = kubelab.Shared{Config: kubelab.Config{Controllers: kubelab.ServiceControllers()}}
	programs = builder{}
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(programs.around(shared.Around(m))) }

// builder builds the programs of this tree once for all tests.
type builder struct {
	once sync.Once
	dir  string
	err  error
}

func (b *builder) build(t *testing.T) string {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "causeway-install-"); b.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", b.dir, "../../causeway", "../../clustermesh-apiserver", "../../node-agent", "../echo")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			b.err = fmt.Errorf("build the programs: %w:\n%s", err, text)
		}
	})
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.dir
}

// built runs tests and removes what was built for them.
type built struct {
	builder *builder
	tests   goleak.TestingM
}

func (b *builder) around(tests goleak.TestingM) built { return built{b, tests} }

// Run returns the exit status of the tests.
func (b built) Run() int {
	defer func() { _ = os.RemoveAll(b.builder.dir) }()
	return b.tests.Run()
}

func images(t *testing.T) []oci.Image {
	t.Helper()
	dir := programs.build(t)
	image := func(name, program, user string, args ...string) oci.Image {
		return oci.Image{Name: name, Program: filepath.Join(dir, program), User: user, Args: args, Architecture: runtime.GOARCH}
	}
	return []oci.Image{
		image(kubelab.PauseImage, "echo", "", "serve"),
		image(apiServerImage, "clustermesh-apiserver", "65532:65532"),
		image(nodeAgentImage, "node-agent", ""),
		image(echoImage, "echo", ""),
	}
}

// site is a cluster with a node.
type site struct {
	plane *kubelab.ControlPlane
	node  *kubelab.Node
}

// newSite starts a cluster whose node has a number of its own among those that are
// joined.
func newSite(t *testing.T, name string, number int) *site {
	t.Helper()
	plane := kubelab.Start(t, kubelab.Config{
		Controllers: append(kubelab.NodeControllers(), "statefulset-controller", "daemonset-controller"), Scheduler: true,
	})
	node := plane.StartNode(t, kubelab.NodeConfig{Name: name + "-1", Number: number, Masquerade: true, Images: images(t)})
	s := &site{plane: plane, node: node}
	s.kubectl(t, "patch", "node", name+"-1", "-p", fmt.Sprintf(`{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, node.PodRange(), node.PodRange()))
	t.Cleanup(func() {
		if t.Failed() {
			s.tell(t)
		}
	})
	return s
}

func (s *site) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	text, err := s.plane.Kubectl(t.Context(), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// tell logs what there is in the cluster.
func (s *site) tell(t *testing.T) {
	for _, args := range [][]string{{"get", "pods,services,secrets,configmaps", "-A", "-o", "wide"}, {"get", "events", "-A"}} {
		text, err := s.plane.Kubectl(context.Background(), "", args...)
		t.Logf("%v: %v\n%s", args, err, text)
	}
	logs, _ := filepath.Glob(s.node.Path("/var/log/pods/*/*/*.log"))
	for _, name := range logs {
		text, _ := os.ReadFile(name)
		t.Logf("%s:\n%s", name, text[max(0, len(text)-4000):])
	}
}

// kernel returns what there is of Causeway in the kernel of the node.
func (s *site) kernel(t *testing.T) string {
	t.Helper()
	var left strings.Builder
	pins, err := filepath.Glob(s.node.Path("/sys/fs/bpf/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, pin := range pins {
		if !strings.HasSuffix(pin, ".debug") { // some kernels put these there
			fmt.Fprintln(&left, "pin", pin)
		}
	}
	network := "--net=" + filepath.Join(filepath.Dir(strings.TrimSuffix(s.node.Path("/"), "/")), "ns", "net")
	for _, args := range [][]string{{"ip", "-o", "link"}, {"ip", "rule"}, {"nft", "list", "tables"}} {
		text, err := exec.CommandContext(t.Context(), "nsenter", append([]string{network}, args...)...).Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "causeway") {
				left.WriteString(line)
			}
		}
	}
	return left.String()
}

// settings are what keeps a lab's clusters off the machine that they share.
func (s *site) settings(t *testing.T) []string {
	t.Helper()
	return []string{
		"--set", "images.pullPolicy=Never", "--set", "apiServer.resources.requests.cpu=10m",
		"--set", "extraArgs.nodeAgent={--cgroup-root=/run/causeway/cgroup/" + s.node.Group(t) + ",--map-capacity=4096}",
	}
}

// kubeconfig writes one file with a context for each control plane.
func kubeconfig(t *testing.T, planes map[string]*kubelab.ControlPlane) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	var contexts, clusters, users strings.Builder
	for name, plane := range planes {
		text, err := os.ReadFile(plane.Kubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		entry := func(key string) string {
			_, rest, _ := strings.Cut(string(text), key+": [{name: lab, "+strings.TrimSuffix(key, "s")+": ")
			inner, _, _ := strings.Cut(rest, "}]\n")
			return inner
		}
		fmt.Fprintf(&contexts, "- {name: %s, context: {cluster: %s, user: %s}}\n", name, name, name)
		fmt.Fprintf(&clusters, "- {name: %s, cluster: %s}\n", name, entry("clusters"))
		fmt.Fprintf(&users, "- {name: %s, user: %s}\n", name, entry("users"))
	}
	text := "apiVersion: v1\nkind: Config\ncontexts:\n" + contexts.String() + "clusters:\n" + clusters.String() + "users:\n" + users.String()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// command is one run of the command line.
type command struct {
	cmd *exec.Cmd
	out text
	// ended is closed once it has, with err.
	ended chan struct{}
	err   error
}

// text is read while it is written.
type text struct {
	mu  sync.Mutex
	all strings.Builder
	// more has one when there is more.
	more chan struct{}
}

func (t *text) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case t.more <- struct{}{}:
	default:
	}
	return t.all.Write(p)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.String()
}

func start(t *testing.T, args ...string) *command {
	t.Helper()
	c := &command{
		cmd: exec.CommandContext(t.Context(), filepath.Join(programs.build(t), "causeway"), args...),
		out: text{more: make(chan struct{}, 1)}, ended: make(chan struct{}),
	}
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	c.cmd.Env = append(os.Environ(), "KUBECONFIG=", "HOME="+t.TempDir(), "CAUSEWAY_CONTEXT=", "CAUSEWAY_ADMIN_FILE=")
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := make(chan error, 1)
	go func() {
		defer close(c.ended)
		runtime.LockOSThread() // with whose end the command would be killed
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		begun <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
	}()
	if err := <-begun; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { <-c.ended })
	return c
}

// wait returns what was said by the end, and how that came.
func (c *command) wait(t *testing.T) (string, error) {
	t.Helper()
	<-c.ended
	t.Logf("causeway %s: %v\n%s", strings.Join(c.cmd.Args[1:], " "), c.err, c.out.String())
	return c.out.String(), c.err
}

// says returns once it has said a text.
func (c *command) says(t *testing.T, want string) {
	t.Helper()
	limit := time.After(patience)
	for !strings.Contains(c.out.String(), want) {
		select {
		case <-c.out.more:
		case <-c.ended:
			if !strings.Contains(c.out.String(), want) {
				t.Fatalf("it ended (%v) and did not say %q:\n%s", c.err, want, c.out.String())
			}
		case <-limit:
			t.Fatalf("it has not said %q:\n%s", want, c.out.String())
		}
	}
}

// interrupt sends it a signal and returns what it said; it must fail.
func (c *command) interrupt(t *testing.T, signal syscall.Signal) string {
	t.Helper()
	if err := c.cmd.Process.Signal(signal); err != nil {
		t.Fatalf("%v:\n%s", err, c.out.String())
	}
	said, err := c.wait(t)
	if err == nil {
		t.Error("it was interrupted and succeeds")
	}
	return said
}

// causeway runs the command line and returns what it says; it must succeed.
func causeway(t *testing.T, args ...string) string {
	t.Helper()
	said, err := start(t, args...).wait(t)
	if err != nil {
		t.FailNow()
	}
	return said
}

// refused runs the command line, which must fail and say all of the texts.
func refused(t *testing.T, want []string, args ...string) string {
	t.Helper()
	said, err := start(t, args...).wait(t)
	if err == nil {
		t.Errorf("causeway %s: it succeeds", strings.Join(args, " "))
	}
	says(t, said, want...)
	return said
}

// says holds what was said to some texts.
func says(t *testing.T, said string, want ...string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(said, text) {
			t.Errorf("it does not say %q:\n%s", text, said)
		}
	}
}
