package kubelab

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Proxied is a control plane behind an HTTP server of a test's own.
type Proxied struct {
	// Kubeconfig is with which a client has its administrator's rights through it.
	Kubeconfig string
	server     *httptest.Server
}

// Cut ends all connections that there are.
func (p *Proxied) Cut() { p.server.CloseClientConnections() }

// Proxy puts an HTTP server in front of a control plane until the test ends. answer is
// asked for each request, also by several goroutines at a time: it answers and returns
// nil, or returns to what the control plane's answer is written, and may have changed the
// request, which then goes on.
func Proxy(t testing.TB, plane *ControlPlane, answer func(http.ResponseWriter, *http.Request) (forwarded http.ResponseWriter)) *Proxied {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", plane.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := url.Parse(plane.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(request *httputil.ProxyRequest) { request.SetURL(upstream) }, Transport: transport, FlushInterval: -1,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as if it were not there
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if to := answer(w, request); to != nil {
			proxy.ServeHTTP(to, request)
		}
	}))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		if idle, ok := transport.(interface{ CloseIdleConnections() }); ok {
			idle.CloseIdleConnections()
		}
	})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: %q}}]\nusers: [{name: a}]\n"+
		"contexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n", server.URL)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Proxied{Kubeconfig: kubeconfig, server: server}
}
