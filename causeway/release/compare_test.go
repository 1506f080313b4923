package release

import (
	"os"
	"path/filepath"
	"strings"
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

// role is a ClusterRole of these rules.
func role(rules string) string {
	return "kind: ClusterRole\nmetadata: {name: r}\nrules: [" + rules + "]\n"
}

// TestCompareRoles: of a role it is said what it lets do, whichever rule says so and
// wherever that stands.
func TestCompareRoles(t *testing.T) {
	t.Parallel()
	const (
		pods    = `{apiGroups: [""], resources: [pods, nodes], verbs: [list, watch]}`
		slices  = `{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list]}`
		written = `{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, create, delete]}`
		maps    = `{apiGroups: [""], resources: [configmaps], resourceNames: [a, b, c], verbs: [get]}`
		fewer   = `{apiGroups: [""], resources: [configmaps], resourceNames: [b], verbs: [get]}`
		health  = `{nonResourceURLs: [/healthz], verbs: [get]}`
	)
	const other = "---\nkind: ClusterRole\nmetadata: {name: s}\nrules: [" + pods + "," + maps + "]\n"
	want := []string{"+ ClusterRole s: may get configmaps named a, b, c; list, watch nodes; list, watch pods"}
	if got, err := compare(role(pods), role(pods)+other); err != nil || !cmp.Equal(want, got) {
		t.Errorf("a new role: %q, %v", got, err)
	}
	if got, err := compare("", role(pods)); err != nil || !cmp.Equal([]string{"+ ClusterRole r"}, got) {
		t.Errorf("a first one: %q, %v", got, err)
	}
	for name, test := range map[string]struct {
		old, now string
		want     []string
	}{
		"the same":          {pods + "," + slices, pods + "," + slices, nil},
		"another order":     {pods + "," + slices, slices + "," + pods, nil},
		"two rules for one": {`{apiGroups: [""], resources: [pods], verbs: [list]}, {apiGroups: [""], resources: [pods], verbs: [watch]}`, `{apiGroups: [""], resources: [pods], verbs: [watch, list]}`, nil},
		"one before others": {slices, pods + "," + slices, []string{"~ ClusterRole r: may also list, watch nodes", "~ ClusterRole r: may also list, watch pods"}},
		"verbs":             {slices, written, []string{"~ ClusterRole r: may also create, delete endpointslices.discovery.k8s.io"}},
		"fewer verbs":       {written, slices, []string{"~ ClusterRole r: may no longer create, delete endpointslices.discovery.k8s.io"}},
		"fewer names":       {maps, fewer, []string{"~ ClusterRole r: may no longer get configmaps named a, c"}},
		"one named, then all": {
			fewer, `{apiGroups: [""], resources: [configmaps], verbs: [get]}`,
			[]string{"~ ClusterRole r: may also get configmaps", "~ ClusterRole r: may no longer get configmaps named b"},
		},
		"a path": {"", health, []string{"~ ClusterRole r: may also get /healthz"}},
	} {
		got, err := compare(role(test.old), role(test.now))
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// TestCompareParts: what is new or goes as a whole is one line, what is put before
// others in a list changes none of them, and of long texts it is said that they differ.
func TestCompareParts(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 2*maxValue)
	for name, test := range map[string]struct {
		old, now string
		want     []string
	}{
		"a new part":         {`a: 1`, `a: 1, env: [{name: B.C, value: d}]`, []string{"~ K n: spec.env: {{name: B.C, value: d}} is new"}},
		"one of a list":      {`env: [{name: A, value: b}]`, `env: [{name: B.C, value: d}, {name: A, value: b}]`, []string{"~ K n: spec.env[B.C]: {name: B.C, value: d} is new"}},
		"a value of a list":  {`l: [10.0.0.0/8]`, `l: [10.1.2.0/24, 10.0.0.0/8]`, []string{"~ K n: spec.l[10.1.2.0/24]: 10.1.2.0/24 is new"}},
		"a list's last goes": {`l: [a]`, `l: []`, []string{"~ K n: spec.l[a]: a goes"}},
		"of one name":        {`m: [{name: v, at: /a}, {name: v, at: /b}]`, `m: [{name: v, at: /a}, {name: v, at: /c}]`, []string{"~ K n: spec.m[v, 1].at: /b becomes /c"}},
		"without names":      {`t: [{key: a}]`, `t: [{key: b}]`, []string{"~ K n: spec.t[0].key: a becomes b"}},
		"a value for a part": {`a: {b: c}`, `a: d`, []string{"~ K n: spec.a: {b: c} becomes d"}},
		"a long text":        {`a: "` + long + `1"`, `a: "` + long + `2"`, []string{"~ K n: spec.a: another text"}},
		"a short for a long": {`a: b`, `a: "` + long + `"`, []string{"~ K n: spec.a: b becomes " + long[:maxValue] + "..."}},
		"a large part":       {``, `a: {b: ` + long + `}`, []string{"~ K n: spec.a: {b: " + long[:maxValue-4] + "... is new"}},
		"a version":          {`labels: {helm.sh/chart: a, app.kubernetes.io/version: 1}`, `labels: {helm.sh/chart: b}`, nil},
	} {
		whole := func(text string) string { return "kind: K\nmetadata: {name: n}\nspec: {" + text + "}\n" }
		got, err := compare(whole(test.old), whole(test.now))
		if diff := cmp.Diff(test.want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
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
