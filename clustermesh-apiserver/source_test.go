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
	if r, server, err := c.newReader(nil, log, prometheus.NewRegistry()); err != nil || r == nil || server != "" || !strings.Contains(c.unread(), "manifests") {
		t.Errorf("manifests: %v %q %v; %s", r, server, err, c.unread())
	}
	file := filepath.Join(t.TempDir(), "nowhere")
	c = parse(t, "--manifests-dir=", "--kubeconfig="+file)
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.newReader(nil, log, prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(c.unread(), "Kubernetes") {
		t.Errorf("a kubeconfig that is not there: %v; %s", err, c.unread())
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	c = parse(t, "--manifests-dir=", "--in-cluster")
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.newReader(nil, log, prometheus.NewRegistry()); err == nil || !strings.Contains(err.Error(), "pod") {
		t.Errorf("in no pod: %v", err)
	}
}
