package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// TestHandout: the admin file and the authority's certificate come into objects, and
// into them again when somebody takes them away; a person is told when they cannot.
func TestHandout(t *testing.T) {
	plane := kubelab.Start(t, kubelab.Config{})
	if err := plane.Apply(t.Context(), "{apiVersion: v1, kind: Namespace, metadata: {name: mesh}}"); err != nil {
		t.Fatal(err)
	}
	c := parse(t, "--data-dir="+t.TempDir(), "--manifests-dir=", "--kubeconfig="+plane.Kubeconfig(), "--listen=127.0.0.1:0", "--listen-http=",
		"--admin-secret=mesh/causeway-admin", "--authority-configmap=nowhere/causeway-ca")
	if err := c.validate(); err != nil {
		t.Fatal(err)
	}
	r := startRun(t, c)
	r.until("the namespace that is not there", func(s *adminpb.StatusResponse) bool {
		return strings.Contains(s.String(), "--authority-configmap: ") && strings.Contains(s.String(), `nowhere`)
	})
	get := func(args ...string) (string, error) {
		return plane.Kubectl(t.Context(), "", append([]string{"get", "-o"}, args...)...)
	}
	secret := func(ctx context.Context) string {
		text, err := plane.Kubectl(ctx, "", "get", "secret", "causeway-admin", "-n", "mesh", "-o", `go-template={{index .data "admin.yaml" | base64decode}}`)
		if err != nil {
			return ""
		}
		return text
	}
	admin, err := os.ReadFile(filepath.Join(c.dataDir, "admin.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the Secret", func() bool { return secret(t.Context()) == string(admin) })
	if err := plane.Apply(t.Context(), "{apiVersion: v1, kind: Namespace, metadata: {name: nowhere}}"); err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(filepath.Join(c.dataDir, "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the ConfigMap", func() bool {
		text, err := get(`go-template={{index .data "ca.crt"}}`, "configmap", "causeway-ca", "-n", "nowhere")
		return err == nil && text == string(authority)
	})
	r.until("no problem any more", func(s *adminpb.StatusResponse) bool { return !strings.Contains(s.String(), "--authority-configmap") })
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end, tick := time.After(patience), time.NewTicker(100*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-end:
			t.Fatalf("%s: not there", what)
		case <-tick.C:
		}
	}
}

// TestHandoutSteps: a file is written when it is new, differs, or was written long
// ago, and after a failure no sooner than it may be.
func TestHandoutSteps(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "admin.yaml")
	var written []string
	var broken error
	i := &handoutItem{flag: "admin-secret", file: file, write: func(_ context.Context, value []byte) error {
		if broken == nil {
			written = append(written, string(value))
		}
		return broken
	}}
	i.again.First, i.again.Limit = firstHandout, lastHandout
	h := newHandout(&config{}, nil, nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	h.items = append(h.items, i)
	now := time.Unix(1700000000, 0)
	step := func(after time.Duration, want ...string) {
		t.Helper()
		now = now.Add(after)
		h.step(t.Context(), i, now)
		if got := strings.Join(written, " "); got != strings.Join(want, " ") {
			t.Errorf("written %q, want %q", got, want)
		}
		written = nil
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	step(0)
	put("one")
	step(0, "one")
	step(handoutStep)
	put("two")
	step(handoutStep, "two")
	step(handoutAgain, "two")
	broken = errors.New("away")
	put("three")
	step(handoutStep)
	if got := h.Problems(); len(got) != 1 || got[0] != "--admin-secret: away" {
		t.Errorf("problems %q", got)
	}
	broken = nil
	step(0) // too soon
	step(lastHandout*2, "three")
	if got := h.Problems(); len(got) != 0 {
		t.Errorf("problems %q", got)
	}
	var failures dto.Metric
	if err := h.attempts.WithLabelValues("admin-secret", "error").Write(&failures); err != nil || failures.GetCounter().GetValue() != 1 {
		t.Errorf("failures are counted as %v, %v", failures.GetCounter(), err)
	}
}

// TestHandoutFlags: what the flags may not say.
func TestHandoutFlags(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--admin-secret=mesh":                     `"mesh" is not namespace/name`,
		"--authority-configmap=mesh/a/b":          `"mesh/a/b" is not namespace/name`,
		"--admin-secret=/a":                       `"/a" is not namespace/name`,
		"--manifests-dir=x --admin-secret=mesh/a": "only Kubernetes has such objects",
	} {
		all := append([]string{"--data-dir=x"}, strings.Fields(args)...)
		if !strings.Contains(args, "--manifests-dir") {
			all = append(all, "--manifests-dir=", "--kubeconfig=x")
		}
		if err := parse(t, all...).validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}
