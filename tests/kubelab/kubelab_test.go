package kubelab

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// deadline bounds what a test waits for.
const deadline = 60 * time.Second

// services is the control plane of those that need controllers.
var services = Shared{Config: Config{Controllers: ServiceControllers(), Scheduler: true}}

func TestMain(m *testing.M) { goleak.VerifyTestMain(services.Around(m)) }

const configMap = `apiVersion: v1
kind: ConfigMap
metadata: {name: NAME, namespace: default}
data: {key: VALUE}
`

func apply(t *testing.T, p *ControlPlane, name, value string) {
	t.Helper()
	text := strings.NewReplacer("NAME", name, "VALUE", value).Replace(configMap)
	if err := p.Apply(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

// get returns the value of a ConfigMap, "" when it is not there, and the
// revision of the list that told it.
func get(t *testing.T, p *ControlPlane, name string) (value string, revision int64) {
	t.Helper()
	text, err := p.Kubectl(t.Context(), "", "get", "--raw", "/api/v1/namespaces/default/configmaps")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		if item.Metadata.Name == name {
			value = item.Data["key"]
		}
	}
	if revision, err = strconv.ParseInt(list.Metadata.ResourceVersion, 10, 64); err != nil {
		t.Fatal(err)
	}
	return value, revision
}

// TestControlPlane lets one control plane go through all that tests do to one.
func TestControlPlane(t *testing.T) {
	t.Parallel()
	p := Start(t, Config{})
	apply(t, p, "one", "first")
	saved, err := p.Save()
	if err != nil {
		t.Fatal(err)
	}
	apply(t, p, "one", "second")

	p.KillAPIServer()
	if err := p.probe(t.Context(), "/readyz"); err == nil {
		t.Error("a server that was killed answers")
	}
	if err := p.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.StartAPIServer(t.Context()); err == nil {
		t.Error("one that runs was started")
	}
	value, newer := get(t, p, "one")
	if value != "second" {
		t.Errorf("after a crash: %q, want what was written before", value)
	}

	if err := p.PauseAPIServer(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := p.probe(ctx, "/readyz"); err == nil {
		t.Error("a server that stands still answers")
	}
	if err := p.ResumeAPIServer(); err != nil {
		t.Fatal(err)
	}
	if err := p.awaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}

	if err := p.Restore(t.Context(), saved); err != nil {
		t.Fatal(err)
	}
	value, older := get(t, p, "one")
	if value != "first" || older >= newer {
		t.Errorf("after Restore: %q at revision %d, want what was saved, before %d", value, older, newer)
	}
}

func TestCompact(t *testing.T) {
	t.Parallel()
	p := Start(t, Config{})
	_, revision := get(t, p, "one")
	apply(t, p, "one", "first")
	if err := p.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.KillAPIServer()
	if err := p.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	watch := "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1&resourceVersion=" + strconv.FormatInt(revision, 10)
	got, err := p.Kubectl(t.Context(), "", "get", "--raw", watch)
	if err != nil {
		got = err.Error()
	}
	if !strings.Contains(got, "too old resource version") {
		t.Errorf("a watch from before: %q, want that it is gone", got)
	}
}
