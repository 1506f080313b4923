package release

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const before = `# Source: a
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: node-agent, namespace: s, labels: {helm.sh/chart: causeway-1}}
spec: {template: {spec: {containers: [{name: a, image: "a:1", args: [--x=1, --y=2]}]}}}
---
kind: Service
metadata: {name: gone, namespace: s}
`

const after = `apiVersion: apps/v1
kind: DaemonSet
metadata: {name: node-agent, namespace: s, labels: {helm.sh/chart: causeway-2}}
spec: {template: {spec: {containers: [{name: a, image: "a:2", args: [--x=3, --z=4]}]}}}
---
kind: ClusterRole
metadata: {name: new}
`

func TestCompare(t *testing.T) {
	got, err := compare(before, after)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"+ ClusterRole new",
		"~ DaemonSet s/node-agent: spec.template.spec.containers[a].args[--x]: --x=1 becomes --x=3",
		"~ DaemonSet s/node-agent: spec.template.spec.containers[a].args[--y]: --y=2 goes",
		"~ DaemonSet s/node-agent: spec.template.spec.containers[a].args[--z]: --z=4 is new",
		"~ DaemonSet s/node-agent: spec.template.spec.containers[a].image: a:1 becomes a:2",
		"- Service s/gone",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if same, err := compare(after, after); err != nil || len(same) > 0 {
		t.Errorf("the same differs: %q, error %v", same, err)
	}
	if _, err := compare(before, "{"); err == nil {
		t.Error("no YAML is read as some")
	}
}

func TestValues(t *testing.T) {
	file := filepath.Join(t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, []byte("gateway: {type: NodePort, nodePort: 30000}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Given{Files: []string{file}, Set: []string{"gateway.nodePort=30001", "a={x,y}"}}.Values()
	if err != nil {
		t.Fatal(err)
	}
	got = Merge(map[string]any{"gateway": map[string]any{"type": "ClusterIP", "annotations": "kept"}}, got)
	for path, want := range map[string]any{"type": "NodePort", "nodePort": int64(30001), "annotations": "kept"} {
		if value := At(got, "gateway", path); value != want {
			t.Errorf("gateway.%s is %v, want %v", path, value, want)
		}
	}
	if At(got, "gateway", "type", "deeper") != nil || At(got, "none") != nil {
		t.Error("there is something where nothing is")
	}
	for _, wrong := range []Given{{Files: []string{file + "none"}}, {Set: []string{"a"}}} {
		if _, err := wrong.Values(); err == nil {
			t.Errorf("%v is taken", wrong)
		}
	}
}
