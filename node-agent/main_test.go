package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/process"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func TestMain(m *testing.M) { sandbox.Main(m) }

func logger(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// serve is an API server as an agent sees it: a feed behind TLS.
func serve(t *testing.T, authority *pki.Authority) (*feed.Server, string) {
	t.Helper()
	tls, err := authority.ServerConfig(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(tls)))
	f := feed.NewServer(feed.ServerConfig{
		Node:       func(context.Context) (string, error) { return "node-1", nil },
		Logger:     logger(t),
		Registerer: prometheus.NewRegistry(),
	})
	f.Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f, listener.Addr().String()
}

func newConfig(t *testing.T) (*config, *pki.Authority) {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.OpenAuthority(filepath.Join(dir, "pki"), "east")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Request{Role: pki.RoleAgent, Name: "node-1", TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	files := pki.ClientFiles{CAFile: authority.CertFile(), CertFile: filepath.Join(dir, "crt"), KeyFile: filepath.Join(dir, "key")}
	if err := pair.Save(files.CertFile, files.KeyFile); err != nil {
		t.Fatal(err)
	}
	return &config{
		node: "node-1", cluster: "east", files: files, mapCapacity: 1024,
		bpffs: filepath.Join(sandbox.BPFFS(t), "causeway"), cgroup: sandbox.Cgroup(t), listenHTTP: "127.0.0.1:18474",
	}, authority
}

// start runs the agent until stop is called, which returns what run returned.
func start(t *testing.T, c *config) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx, c, logger(t)) }()
	return func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(60 * time.Second):
			return errors.New("still running after 60 s")
		}
	}
}

// await asks for path until the answer's status and text are as wanted.
func await(t *testing.T, path string, status int, text string) {
	t.Helper()
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	deadline, look := time.After(60*time.Second), time.NewTicker(20*time.Millisecond)
	defer look.Stop()
	last := ""
	for {
		if response, err := client.Get("http://127.0.0.1:18474" + path); err != nil {
			last = err.Error()
		} else {
			body, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err == nil && response.StatusCode == status && strings.Contains(string(body), text) {
				return
			}
			last = response.Status + " " + string(body)
		}
		select {
		case <-look.C:
		case <-deadline:
			t.Fatalf("%s: want %d with %q; last: %s", path, status, text, last)
		}
	}
}

func shop(backends ...string) service.Delta {
	name := service.Name{Namespace: "shop", Name: "web"}
	ports := []service.Port{{Name: "http", Protocol: service.TCP, Port: 8080}}
	s := &service.BackendSlice{BackendSliceKey: service.BackendSliceKey{Service: name, Cluster: "west", Slice: "web-1"}, Ports: ports}
	for _, b := range backends {
		s.Endpoints = append(s.Endpoints, service.BackendEndpoint{IP: netip.MustParseAddr(b)})
	}
	view := &service.View{
		Name:      name,
		Frontends: []service.Frontend{{IP: netip.MustParseAddr("10.96.0.1"), Ports: []service.Port{{Name: "http", Protocol: service.TCP, Port: 80}}}},
		Groups:    []service.Group{{Clusters: []string{"east", "west"}}},
	}
	return service.Delta{
		Views:  map[service.Name]*service.View{name: view},
		Slices: map[service.BackendSliceKey]*service.BackendSlice{s.BackendSliceKey: s},
	}
}

// reach connects to the service and returns which address answered.
func reach() (string, error) {
	conn, err := net.DialTimeout("tcp4", "10.96.0.1:80", 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.RemoteAddr().String(), nil
}

func listen(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func TestRun(t *testing.T) {
	c, authority := newConfig(t)
	server, addr := serve(t, authority)
	c.apiServer = addr
	listen(t, "10.1.0.1:8080")
	listen(t, "10.1.0.2:8080")

	stop := start(t, c)
	await(t, "/healthz", http.StatusOK, "")
	await(t, "/readyz", http.StatusServiceUnavailable, "state: not ready")
	server.Apply(merge.Delta{Services: shop("10.1.0.1")})
	server.Open()
	await(t, "/readyz", http.StatusOK, "ready")
	await(t, "/metrics", http.StatusOK, "causeway_agent_frontends 1")
	await(t, "/metrics", http.StatusOK, `causeway_datapath_map_entries{map="service"} 1`)
	wantReached(t, "10.1.0.1:8080")
	server.Apply(merge.Delta{Services: shop("10.1.0.2")})
	awaitReached(t, "10.1.0.2:8080")

	// A second agent is refused and changes nothing.
	second := *c
	second.listenHTTP = ""
	if err := run(t.Context(), &second, logger(t)); !errors.Is(err, datapath.ErrInUse) {
		t.Errorf("second agent: %v", err)
	}

	if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("end: %v", err)
	}
	wantReached(t, "10.1.0.2:8080") // what is in the kernel goes on

	stop = start(t, c)
	await(t, "/readyz", http.StatusOK, "ready")
	wantReached(t, "10.1.0.2:8080")
	if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("end: %v", err)
	}
}

func wantReached(t *testing.T, want string) {
	t.Helper()
	if got, err := reach(); err != nil || got != want {
		t.Errorf("reached %s, %v; want %s", got, err, want)
	}
}

func awaitReached(t *testing.T, want string) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; {
		got, err := reach()
		if err == nil && got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("reached %s, %v; want %s", got, err, want)
		}
	}
}

// After a reboot, with nothing in the kernel and no API server, the last state is
// put in effect. One that is spoilt is set aside, and costs only the wait.
func TestRunWithoutAPIServer(t *testing.T) {
	c, authority := newConfig(t)
	c.stateDir = filepath.Join(t.TempDir(), "state")
	server, addr := serve(t, authority)
	server.Apply(merge.Delta{Services: shop("10.1.0.1")})
	server.Open()
	listen(t, "10.1.0.1:8080")
	c.apiServer = addr
	reboot := func() {
		if err := os.RemoveAll(c.bpffs); err != nil {
			t.Fatal(err)
		}
		// The kernel takes programs off some time after their last pin has gone.
		for deadline := time.Now().Add(60 * time.Second); ; {
			if _, err := reach(); err != nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("reached with nothing in the kernel")
			}
		}
	}
	end := func(stop func() error) {
		if err := stop(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("end: %v", err)
		}
	}
	stop := start(t, c)
	await(t, "/readyz", http.StatusOK, "ready")
	end(stop)

	reboot()
	c.apiServer = "127.0.0.1:1"
	stop = start(t, c)
	await(t, "/readyz", http.StatusOK, "ready")
	wantReached(t, "10.1.0.1:8080")
	await(t, "/metrics", http.StatusOK, `causeway_feed_kept_resources{kind="view"} 1`)
	end(stop)

	reboot()
	file := filepath.Join(c.stateDir, "feed-state")
	if err := os.Truncate(file, 100); err != nil {
		t.Fatal(err)
	}
	stop = start(t, c)
	await(t, "/readyz", http.StatusServiceUnavailable, "state: not ready")
	end(stop)
	if _, err := os.Stat(file + ".bad"); err != nil {
		t.Error(err)
	}
	c.apiServer = addr
	stop = start(t, c)
	await(t, "/readyz", http.StatusOK, "ready")
	wantReached(t, "10.1.0.1:8080")
	end(stop)
}

// What cannot work is said at once, in one line.
func TestRunRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*config)
		want   string
	}{
		{"certificate is missing", func(c *config) { c.files.CertFile = "/nowhere/crt" }, "/nowhere/crt"},
		{"certificate of another node", func(c *config) { c.node = "node-2" }, "causeway://east/agent/node-1, needed is one for causeway://east/agent/node-2"},
		{"no bpffs", func(c *config) { c.bpffs = t.TempDir() }, "--bpffs-dir"},
		{"no cgroup", func(c *config) { c.cgroup = t.TempDir() }, "cgroup v2"},
		{"the wrong cgroup", func(c *config) { c.cgroup = sandbox.NewCgroup(t) }, "--cgroup-root"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c, _ := newConfig(t)
			c.apiServer = "127.0.0.1:1"
			test.change(c)
			err := run(t.Context(), c, logger(t))
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one line with %q", err, test.want)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	good := []string{
		"--node-name=node-1", "--cluster-name=east", "--api-server=10.77.0.11:8474",
		"--ca-file=ca", "--cert-file=crt", "--key-file=key",
	}
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"good", nil, ""},
		{"no node", []string{"--node-name="}, "--node-name is required"},
		{"no key", []string{"--key-file="}, "--key-file is required"},
		{"no port", []string{"--api-server=10.77.0.11"}, "--api-server: address 10.77.0.11: missing port"},
		{"cluster name", []string{"--cluster-name=East"}, "--cluster-name"},
		{"capacity", []string{"--map-capacity=0"}, "--map-capacity"},
		{"peer's name", []string{"--getpeername=service"}, ""},
		{"peer's other name", []string{"--getpeername=pod"}, "--getpeername"},
		{"filters", []string{"--attach-method=clsact"}, ""},
		{"another attachment", []string{"--attach-method=xdp"}, "--attach-method"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var c config
			flags := pflag.NewFlagSet(name, pflag.ContinueOnError)
			c.flags(flags)
			if err := process.ParseFlags(flags, append(append([]string{}, good...), test.args...)); err != nil {
				t.Fatal(err)
			}
			err := c.validate()
			if test.want == "" {
				if err != nil || c.mapCapacity != datapath.DefaultCapacity {
					t.Errorf("got %v, capacity %d", err, c.mapCapacity)
				}
				if all := c.reverse() == datapath.ReverseAll; all != (test.name == "peer's name") {
					t.Errorf("way back: %v", c.reverse())
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
