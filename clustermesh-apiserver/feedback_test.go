package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpctls "google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/deploy/oci"
	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/kind"
	"github.com/causeway-mesh/causeway/tests/kubelab"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// westPods are the cluster west: a node whose pod serves both a Service and, by a name
// of its own, a headless one.
const westPods = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Node
metadata: {name: w1}
spec: {podCIDR: 10.9.0.0/24, podCIDRs: [10.9.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.21}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {causeway.io/global: "true"}}
spec: {selector: {app: db}, clusterIP: 10.97.0.7, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop, annotations: {causeway.io/global: "true"}}
spec: {selector: {app: db}, clusterIP: None, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {nodeName: w1, hostname: db-0, subdomain: db, containers: [{name: db, image: none}]}
status: {phase: Running, hostIP: 192.0.2.21, podIP: 10.9.0.5, podIPs: [{ip: 10.9.0.5}], conditions: [{type: Ready, status: "True"}]}
`

// eastServices has a NodePort without any pod, a headless Service with one of its own,
// and one with an annotation and ports that are wrong.
const eastServices = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {causeway.io/global: "true"}}
spec: {type: NodePort, selector: {app: none}, ports: [{name: http, port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop, annotations: {causeway.io/global: "true", causeway.io/affinity: near}}
spec: {clusterIP: None, ports: [{name: http, port: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-own, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.200.0.7], conditions: {ready: true}}]
`

// joinWest runs the API server of west, and returns what makes east read it.
func joinWest(t *testing.T) (peersDir string) {
	t.Helper()
	manifests := t.TempDir()
	if err := os.WriteFile(filepath.Join(manifests, "west.yaml"), []byte(westPods), 0o600); err != nil {
		t.Fatal(err)
	}
	c := parse(t, "--cluster-name=west", "--cluster-id=2", "--data-dir="+t.TempDir(), "--manifests-dir="+manifests, "--listen=127.0.0.1:0", "--listen-http=")
	r := startRun(t, c)
	r.untilWritten()
	authority, err := pki.OpenAuthority(filepath.Join(c.dataDir, "pki"), "west")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{Role: pki.RolePeer, Name: "east", TTL: 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	admin, err := pki.ReadAdmin(filepath.Join(c.dataDir, "admin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	peersDir = t.TempDir()
	text := fmt.Sprintf("endpoints: [%q]\ntrusted-ca-file: %s\ncert-file: %s\nkey-file: %s\n",
		"https://"+admin.Endpoint, file("ca.crt", authority.Bundle()), file("east.crt", pair.CertPEM), file("east.key", pair.KeyPEM))
	if err := os.WriteFile(filepath.Join(peersDir, "west"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return peersDir
}

// startEast runs the API server of east, which reads a control plane and west.
func startEast(t *testing.T, plane *kubelab.ControlPlane) *running {
	t.Helper()
	if err := plane.Apply(t.Context(), eastServices); err != nil {
		t.Fatal(err)
	}
	c := parse(t, "--data-dir="+t.TempDir(), "--manifests-dir=", "--kubeconfig="+plane.Kubeconfig(), "--peers-dir="+joinWest(t),
		"--listen=127.0.0.1:0", "--listen-http=")
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	return startRun(t, c)
}

// untilAnswer asks until got is satisfied, and fails with its last error.
func untilAnswer(t *testing.T, got func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := got()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // between two looks; nothing depends on its length
	}
}

// newSpace is a network namespace that ends with the test.
func newSpace(t *testing.T) *netspace.Space {
	t.Helper()
	path := filepath.Join(t.TempDir(), "net")
	space, err := netspace.New(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(space.Close(), netspace.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	return space
}

// servePod answers by HTTP in a network namespace.
func servePod(t *testing.T, space *netspace.Space, address, answer string) {
	t.Helper()
	var listener net.Listener
	err := space.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }),
		ReadHeaderTimeout: patience,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// TestNodePortOfRemotePods calls a NodePort from outside of the node. East has no pod
// for it, so kube-proxy sends the packets to the pod of west: it knows of it by what
// the API server wrote into Kubernetes. When west is removed, nobody answers.
func TestNodePortOfRemotePods(t *testing.T) {
	kubelab.RequireNode(t)
	plane := kubelab.Start(t, kubelab.Config{Controllers: kubelab.NodeControllers()})
	program := filepath.Join(t.TempDir(), "echo")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "../tests/echo")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build what pauses: %v:\n%s", err, text)
	}
	node := plane.StartNode(t, kubelab.NodeConfig{
		Name: "one", Images: []oci.Image{{Name: kubelab.PauseImage, Program: program, Args: []string{"serve"}, Architecture: runtime.GOARCH}},
	})
	pod, outside := newSpace(t), newSpace(t)
	prefix := netip.MustParsePrefix
	err := errors.Join(
		node.Link("west", prefix("10.9.0.1/24"), pod, prefix("10.9.0.5/24")),
		node.Link("outside", prefix("192.0.2.1/24"), outside, prefix("192.0.2.9/24")),
		outside.AddRoute(netspace.Route{To: prefix("10.77.0.0/24"), Via: netip.MustParseAddr("192.0.2.1"), Device: "outside"}),
	)
	if err != nil {
		t.Fatal(err)
	}
	servePod(t, pod, "10.9.0.5:8080", "the pod of west")
	east := startEast(t, plane)
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = outside.Do(func() error {
				conn, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}}
	call := func() (string, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+net.JoinHostPort(node.Address(), "30080"), nil)
		if err != nil {
			return "", err
		}
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		text, err := io.ReadAll(response.Body)
		return string(text), err
	}
	untilAnswer(t, func() error {
		text, err := call()
		if err == nil && text != "the pod of west" {
			err = fmt.Errorf("%q answers", text)
		}
		return err
	})

	if err := os.Remove(filepath.Join(east.config.peers(), "west")); err != nil {
		t.Fatal(err)
	}
	untilAnswer(t, func() error {
		if text, err := call(); err == nil {
			return fmt.Errorf("%q still answers", text)
		}
		return nil
	})
}

// startCoreDNS runs CoreDNS for a control plane until the test ends, and returns what
// asks it.
func startCoreDNS(t *testing.T, plane *kubelab.ControlPlane) *net.Resolver {
	t.Helper()
	program, err := kind.CoreDNS(t.Context(), nil)
	switch {
	case errors.Is(err, kind.ErrNotBuilt) && os.Getenv("CI") != "true":
		t.Skip(err)
	case err != nil:
		t.Fatal(err)
	}
	// At an address of its own, nobody else is given the port until CoreDNS takes it.
	own := netip.AddrFrom4([4]byte{127, 78, byte(1 + rand.IntN(250)), byte(1 + rand.IntN(250))}).String()
	taken, err := net.ListenPacket("udp", net.JoinHostPort(own, "0"))
	if err != nil {
		t.Fatal(err)
	}
	address := taken.LocalAddr().String()
	_, port, err := net.SplitHostPort(address)
	if err := errors.Join(err, taken.Close()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "Corefile")
	text := fmt.Sprintf(".:%s {\n  bind %s\n  errors\n  kubernetes cluster.local {\n    kubeconfig %s\n  }\n}\n", port, own, plane.Kubeconfig())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "-conf", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	runtime.LockOSThread() // the process lives as long as the thread that starts it
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		runtime.UnlockOSThread()
		if t.Failed() {
			t.Logf("CoreDNS:\n%s", said.String())
		}
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}}
}

// mirrorOf returns what the command line is told of a service in the namespace shop.
func mirrorOf(t *testing.T, r *running, name string) *adminpb.Mirror {
	t.Helper()
	admin, err := pki.ReadAdmin(filepath.Join(r.config.dataDir, "admin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	tls, err := admin.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+admin.Endpoint, grpc.WithTransportCredentials(grpctls.NewTLS(tls)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := adminpb.NewAdminClient(conn).Services(ctx, &adminpb.ServicesRequest{Namespace: "shop", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return answer.GetServices()[0].GetMirror()
}

// TestHeadlessNames has CoreDNS resolve a headless Service: to the pod here and that of
// west, and the name of west's to its own. Beside, it looks at what people are told.
func TestHeadlessNames(t *testing.T) {
	plane := kubelab.Start(t, kubelab.Config{})
	east := startEast(t, plane)
	untilAnswer(t, func() error {
		text, err := plane.Kubectl(t.Context(), "", "get", "events.events.k8s.io", "-n", "shop", "-o", "jsonpath={range .items[*]}{.reason} {.regarding.name}: {.note}{end}")
		if err == nil && !strings.Contains(text, `WrongAnnotation db: annotation causeway.io/affinity: "near" is none of`) {
			err = fmt.Errorf("events: %q", text)
		}
		return err
	})
	untilAnswer(t, func() error {
		text, err := plane.Kubectl(t.Context(), "", "get", "endpointslices", "-n", "shop", "-l", "causeway.io/source-cluster=west", "-o",
			"jsonpath={range .items[*]}{.metadata.ownerReferences[0].name} {.endpoints[*].addresses[0]} {.endpoints[*].hostname},{end}")
		if list := strings.Split(text, ","); err == nil && (len(list) != 3 || !slices.Contains(list, "db 10.9.0.5 db-0")) {
			err = fmt.Errorf("mirrored: %q", text)
		}
		return err
	})
	if m := mirrorOf(t, east, "db"); m.GetEndpoints() != 1 || m.GetObjects() != 1 || m.GetWanted() != 1 || m.GetReason() != "" {
		t.Errorf("the command line is told of db: %v", m)
	}
	// What was written is not read as this cluster's own: db has its one slice, web none.
	east.until("no more slices than the cluster's own", func(s *adminpb.StatusResponse) bool {
		return s.GetSource().GetListed() && s.GetCluster().GetCounts().GetEndpointSlices() == 1
	})

	resolver := startCoreDNS(t, plane)
	for name, want := range map[string][]string{
		"db.shop.svc.cluster.local.":      {"10.200.0.7", "10.9.0.5"},
		"db-0.db.shop.svc.cluster.local.": {"10.9.0.5"},
	} {
		untilAnswer(t, func() error {
			got, err := resolver.LookupHost(t.Context(), name)
			slices.Sort(got)
			if err == nil && !slices.Equal(got, want) {
				err = fmt.Errorf("%s is %v, want %v", name, got, want)
			}
			return err
		})
	}
}
