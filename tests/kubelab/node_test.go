package kubelab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/deploy/oci"
	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
)

const web = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default, labels: {app: web}}
spec:
  containers:
  - {name: web, image: localhost/kubelab/echo:1, args: [serve, --tcp, "8080", --pod, web, --cluster, east]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// nodeImages are the workload, and the same as what only waits.
func nodeImages(t *testing.T) []oci.Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "echo")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", path, "../echo")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the workload: %v:\n%s", err, text)
	}
	return []oci.Image{
		{Name: PauseImage, Program: path, Args: []string{"serve"}, Architecture: runtime.GOARCH},
		{Name: "localhost/kubelab/echo:1", Program: path, Architecture: runtime.GOARCH},
	}
}

// TestNode runs a pod on a node and asks it, by the Service's address.
func TestNode(t *testing.T) {
	t.Parallel()
	RequireNode(t)
	before := machineSettings(t)
	p := Start(t, Config{Controllers: NodeControllers(), Scheduler: true})
	n := p.StartNode(t, NodeConfig{Name: "one", Images: nodeImages(t)})
	eventually(t, p, "default", "get", "serviceaccounts", "-o", "name")
	if err := p.Apply(t.Context(), web); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Kubectl(t.Context(), "", "wait", "--for=condition=Ready", "pod/web", "--timeout="+deadline.String()); err != nil {
		state, _ := p.Kubectl(t.Context(), "", "describe", "pod", "web")
		t.Fatalf("%v\n%s", err, state)
	}
	address, err := p.Kubectl(t.Context(), "", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, n, net.JoinHostPort(address, "80")); !strings.Contains(got, "web") || !strings.Contains(got, "east") {
		t.Errorf("the pod answers %q, want its name and cluster", got)
	}
	// By way of kube-apiserver and the node's kubelet.
	if _, err := p.Kubectl(t.Context(), "", "logs", "pod/web"); err != nil {
		t.Error(err)
	}
	if after := machineSettings(t); after != before {
		t.Errorf("settings of the machine: %s, before the node: %s", after, before)
	}
	folder := n.dir.path
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if left := leftOf(t, folder); len(left) > 0 {
		t.Errorf("left of the node: %q", left)
	}
}

// ask asks from the node until there is an answer: kube-proxy follows the
// Service on its own time.
func ask(t *testing.T, n *Node, address string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: n.Dial, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	ticks := time.NewTicker(200 * time.Millisecond)
	defer ticks.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err == nil {
			text, err := io.ReadAll(response.Body)
			_ = response.Body.Close()
			if err == nil && response.StatusCode == http.StatusOK {
				return string(text)
			}
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			t.Fatalf("nobody answers at %s: %v", address, err)
		}
	}
}

// groups returns where the cgroups of a node with this folder are, if there are any.
func groups(t *testing.T, folder string) []string {
	t.Helper()
	roots, err := cgroup.Roots()
	if err != nil {
		t.Fatal(err)
	}
	for i, root := range roots {
		roots[i] = filepath.Join(root, filepath.Base(folder))
	}
	return roots
}

// leftOf returns what there is of a node with this folder.
func leftOf(t *testing.T, folder string) []string {
	t.Helper()
	return slices.DeleteFunc(append(groups(t, folder), folder), func(path string) bool {
		_, err := os.Stat(path)
		return errors.Is(err, os.ErrNotExist)
	})
}

// machineSettings returns what kubelet would set for the whole machine.
func machineSettings(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"} {
		value, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s=%s ", name, strings.TrimSpace(string(value)))
	}
	return all.String()
}
