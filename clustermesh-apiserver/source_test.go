package main

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestNewReader checks that each flag leads to its source, and that credentials
// that cannot be used end the start.
func TestNewReader(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	c := parse(t)
	if r, client, err := c.newReader(nil, log, prometheus.NewRegistry()); err != nil || r == nil || serverOf(client) != "" || !strings.Contains(c.unread(), "manifests") {
		t.Errorf("manifests: %v %v %v; %s", r, client, err, c.unread())
	}
	file := filepath.Join(t.TempDir(), "nowhere")
	c = parse(t, "--manifests-dir=", "--kubeconfig="+file)
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.newReader(nil, log, prometheus.NewRegistry()); err == nil || !strings.HasPrefix(err.Error(), "--kubeconfig: ") || !strings.Contains(err.Error(), file) || !strings.Contains(c.unread(), "Kubernetes") {
		t.Errorf("a kubeconfig that is not there: %v; %s", err, c.unread())
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	c = parse(t, "--manifests-dir=", "--in-cluster")
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.newReader(nil, log, prometheus.NewRegistry()); err == nil || !strings.HasPrefix(err.Error(), "--in-cluster: ") || !strings.Contains(err.Error(), "pod") {
		t.Errorf("in no pod: %v", err)
	}
}

// TestValidateAccount checks that the agents' service account is one of Kubernetes.
func TestValidateAccount(t *testing.T) {
	for account, want := range map[string]string{
		"": "", "causeway/node-agent": "",
		"node-agent": "not namespace/name", "/node-agent": "not namespace/name", "causeway/": "not namespace/name", "a/b/c": "not namespace/name",
		"system:serviceaccount:a/b": "not namespace/name",
	} {
		err := parse(t, "--manifests-dir=", "--in-cluster", "--agent-service-account="+account).validate()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", account, err, want)
		}
	}
	if err := parse(t, "--agent-service-account=causeway/node-agent").validate(); err == nil || !strings.Contains(err.Error(), "--in-cluster or --kubeconfig is needed") {
		t.Errorf("with manifests: %v", err)
	}
}
