package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// TestMirrorOff: without --mirror-endpoints nothing is written but events.
func TestMirrorOff(t *testing.T) {
	t.Parallel()
	const kubeconfig = "apiVersion: v1\nkind: Config\nclusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: a}]\n" +
		"contexts: [{name: a, context: {cluster: a, user: a}}]\ncurrent-context: a\n"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	client, err := kube.New(kube.Config{Kubeconfig: file, UIDFile: filepath.Join(t.TempDir(), "uid"), Component: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	web := service.Name{Namespace: "shop", Name: "web"}
	for flag, mirrors := range map[string]bool{"--mirror-endpoints": true, "--mirror-endpoints=false": false} {
		f := newFeedback(merge.NewEngine("east", nil))
		cfg := parse(t, "--cluster-name=east", "--cluster-id=1", "--data-dir="+t.TempDir(), "--kubeconfig="+file, flag)
		if err := f.connect(client, cfg, nil, nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err != nil {
			t.Fatal(err)
		}
		if f.events == nil || (f.mirror != nil) != mirrors {
			t.Errorf("%s: events %v, mirror %v", flag, f.events != nil, f.mirror != nil)
		}
		f.touch([]service.Name{web})
		if len(f.touched) != 1 {
			t.Errorf("%s: the ports of %d services are compared, want 1", flag, len(f.touched))
		}
		if _, is := f.Standing(web); is && !mirrors {
			t.Errorf("%s: something stands there", flag)
		}
		if problems := f.Problems(); len(problems) > 0 {
			t.Errorf("%s: problems %q", flag, problems)
		}
	}
}
