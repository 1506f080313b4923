package lab

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func objects(t *testing.T, text string) []Object {
	t.Helper()
	file := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := readObjects(file)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

const podTemplate = `
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: default}
spec: {nodeName: n1, HOST containers: [{ports: [{containerPort: 80}]}]}
status:
  phase: PHASE
  podIP: 10.0.0.1
  conditions: [{type: Ready, status: "READY"}]
---`

func TestRealPods(t *testing.T) {
	var text strings.Builder
	for _, values := range [][]string{
		{"runs", "Running", "True", ""},
		{"not-ready", "Running", "False", ""},
		{"pending", "Pending", "False", ""},
		{"failed", "Failed", "False", ""},
		{"done", "Succeeded", "True", ""},
		{"host", "Running", "True", "hostNetwork: true,"},
	} {
		text.WriteString(strings.NewReplacer("NAME", values[0], "PHASE", values[1], "READY", values[2], "HOST", values[3]).Replace(podTemplate))
	}
	got, err := readState(objects(t, text.String()), false)
	if err != nil {
		t.Fatal(err)
	}
	want := []PodSpec{{Namespace: "default", Name: "runs", Node: "n1", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, TCP: []int{80}}}
	if diff := cmp.Diff(want, got.pods, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
}

func TestReadStateErrors(t *testing.T) {
	for name, text := range map[string]string{
		"node address":  `{kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: here}]}}`,
		"node range":    `{kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.0.0.0}}`,
		"pod address":   `{kind: Pod, metadata: {name: p}, status: {phase: Running, podIP: there, conditions: [{type: Ready, status: "True"}]}}`,
		"kind of field": `{kind: Service, metadata: {name: s}, spec: {ports: none}}`,
	} {
		if _, err := readState(objects(t, text), false); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReadObjects(t *testing.T) {
	list := objects(t, `
kind: List
items:
- {kind: Pod, metadata: {name: a, namespace: x}}
- {kind: Service, metadata: {name: b}}
---
# nothing in here
---
{"kind": "Node", "metadata": {"name": "c"}}
---
{kind: PodList, items: [{kind: Pod, metadata: {name: d}}]}
`)
	var got []string
	for _, o := range list {
		got = append(got, o.Kind()+" "+o.Namespace()+"/"+o.Name())
	}
	if diff := cmp.Diff([]string{"Pod x/a", "Service /b", "Node /c", "Pod /d"}, got); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	file := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(file, []byte("kind: [\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readObjects(file); err == nil || !strings.Contains(err.Error(), "broken.yaml") {
		t.Errorf("a broken file: %v", err)
	}
	if _, err := readObjects(file + ".absent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestManifests copies a folder, edits it and leaves alone what did not change.
func TestManifests(t *testing.T) {
	from := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml":       "kind: Pod\nmetadata: {name: a}\n",
		"sub/b.json":   `{"kind": "Pod", "metadata": {"name": "b"}}`,
		"notes.txt":    "not a manifest",
		".hidden.yaml": "kind: [",
	} {
		path := filepath.Join(from, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	c := &Cluster{Name: "east", lab: &Lab{state: t.TempDir()}}
	if err := copyManifests(from, c.ManifestsDir()); err != nil {
		t.Fatal(err)
	}
	if err := c.WriteManifest("c.yaml", []byte("kind: Pod\nmetadata: {name: c}\n")); err != nil {
		t.Fatal(err)
	}
	names := func() (names []string) {
		list, err := c.Objects()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			names = append(names, o.Name())
		}
		return names
	}
	if diff := cmp.Diff([]string{"a", "c", "b"}, names()); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	err := c.Edit(func(o Object) bool { return o.Name() != "b" })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "c"}, names()); diff != "" {
		t.Errorf("objects after an edit (-want +got):\n%s", diff)
	}
	untouched, err := os.ReadFile(filepath.Join(c.ManifestsDir(), "a.yaml"))
	if err != nil || string(untouched) != "kind: Pod\nmetadata: {name: a}\n" {
		t.Errorf("a file without a change reads %q, %v", untouched, err)
	}
	if err := c.RemoveManifest("c.yaml"); err != nil {
		t.Error(err)
	}
	if err := c.RemoveManifest("c.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removed twice: %v", err)
	}
	if err := copyManifests(from+".absent", c.ManifestsDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("copied from nowhere: %v", err)
	}
}

func TestFileName(t *testing.T) {
	if got := fileName("one/two", "ip-10.example:80"); got != "one_two-ip-10_example_80" {
		t.Errorf("got %q", got)
	}
}

func TestLastLines(t *testing.T) {
	if got := lastLines([]byte("a\nb\nc\n"), 2); got != "b\nc" {
		t.Errorf("got %q", got)
	}
	if got := lastLines(nil, 2); got != "" {
		t.Errorf("got %q", got)
	}
}

// TestForeignCgroup refuses to kill a cgroup that a lab's folder names but that
// is not that lab's.
func TestForeignCgroup(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, groupFile), []byte("/sys/fs/cgroup/user.slice"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := remove(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "not the lab's") {
		t.Errorf("got %v", err)
	}
}

// TestRemovePartial takes down labs that a crash left half made: nothing but a
// folder, and one whose cgroup and namespaces were never made.
func TestRemovePartial(t *testing.T) {
	for name, files := range map[string][]string{
		"empty":      nil,
		"locked":     {lockFile},
		"noted":      {lockFile, groupFile},
		"file bound": {lockFile, spaceDir + "/root"},
	} {
		dir := filepath.Join(t.TempDir(), "1-1")
		for _, file := range files {
			var text []byte
			if file == groupFile {
				text = []byte(filepath.Join(t.TempDir(), groupPrefix+"1-1"))
			}
			path := filepath.Join(dir, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(remove(t.Context(), dir), remove(t.Context(), dir)); err != nil {
			if errors.Is(err, os.ErrPermission) {
				t.Skip("unmounting takes root")
			}
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the folder is left (%v)", name, err)
		}
	}
}
