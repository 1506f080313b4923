package source

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

func TestManifestsFollow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", namespace("a"))
	write(t, dir, "sub/folder/b.json", `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"b"}}`)
	write(t, dir, "c.yml", serviceYAML("c", "1"))
	for _, name := range []string{"a.yaml~", "#a.yaml#", ".a.yaml", ".a.yaml.swp", "README.md", ".git/x.yaml"} {
		write(t, dir, name, "kind: [")
	}
	r := start(t, dir, t.TempDir())
	r.untilComplete()
	if diff := cmp.Diff([]string{"+Namespace a", "+Namespace b", "+Service default/c"}, r.take()); diff != "" {
		t.Errorf("first listing (-want +got):\n%s", diff)
	}

	write(t, dir, "c.yml", serviceYAML("c", "2"))
	r.until("change", func() bool { return r.get("Service default/c").GetAnnotations()["note"] == "2" })
	write(t, dir, "new/d.yaml", namespace("d"))
	r.untilNames("Namespace a", "Namespace b", "Namespace d", "Service default/c")
	remove(t, dir, "sub")
	r.untilNames("Namespace a", "Namespace d", "Service default/c")
	if err := os.Rename(filepath.Join(dir, "a.yaml"), filepath.Join(dir, "new/a.yaml")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "new/d.yaml", "# nothing any more\n")
	r.untilNames("Namespace a", "Service default/c")
	want := []string{"+Service default/c", "+Namespace d", "-Namespace b", "-Namespace d"}
	if diff := cmp.Diff(want, r.take()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if problems := r.Problems(); len(problems) > 0 {
		t.Errorf("problems %v", problems)
	}
}

// TestManifestsOrder checks that deletions come first and slices go before their
// services.
func TestManifestsOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	slice := "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s, labels: {kubernetes.io/service-name: a}}\naddressType: IPv4\nendpoints: []\n"
	write(t, dir, "a.yaml", serviceYAML("a", "")+slice)
	r := start(t, dir, t.TempDir())
	r.untilComplete()
	write(t, dir, "a.yaml", serviceYAML("b", "")+"---\n"+namespace("z"))
	r.untilNames("Namespace z", "Service default/b")
	want := []string{
		"+Service default/a", "+EndpointSlice default/s",
		"-EndpointSlice default/s", "-Service default/a", "+Namespace z", "+Service default/b",
	}
	if diff := cmp.Diff(want, r.take()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// TestManifestsBroken breaks a file: what came from it stays, other files go on.
func TestManifestsBroken(t *testing.T) {
	t.Parallel()
	for name, broken := range map[string]string{
		"syntax": "apiVersion: v1\nkind: [Namespace\n", "empty": "", "blank": "\n\n", "no kind": "apiVersion: v1\n", "binary": "\x00\x01\xff",
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := t.TempDir(), t.TempDir()
			write(t, dir, "a.yaml", namespace("a1")+"---\n"+namespace("a2"))
			write(t, dir, "b.yaml", namespace("b1")+"---\n"+namespace("b2"))
			r := start(t, dir, state)
			r.untilComplete()
			write(t, dir, "a.yaml", broken)
			p := r.untilProblem("a.yaml", "its last good content stays in effect")
			if name == "syntax" && p.Line != 2 {
				t.Errorf("problem %v, want line 2", p)
			}
			write(t, dir, "b.yaml", namespace("b1"))
			r.untilNames("Namespace a1", "Namespace a2", "Namespace b1")
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}

			// What a kill would leave is what is there now. Meanwhile another file changes.
			write(t, dir, "b.yaml", namespace("b2"))
			r = start(t, dir, state)
			r.untilComplete()
			r.untilNames("Namespace a1", "Namespace a2", "Namespace b2")
			again := r.untilProblem("a.yaml", "last good content, kept at ", "stays in effect")
			if again.Line != p.Line {
				t.Errorf("problem %v after a restart, %v before", again, p)
			}
			write(t, dir, "a.yaml", namespace("a2"))
			r.untilNames("Namespace a2", "Namespace b2")
			r.untilNoProblem()
		})
	}
}

// TestManifestsNeverGood starts with a broken file of which nothing is kept: the
// listing is not complete before it is put right, changes flow.
func TestManifestsNeverGood(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", "kind: [")
	write(t, dir, "b.yaml", namespace("b"))
	r := start(t, dir, t.TempDir())
	r.untilNames("Namespace b")
	r.untilProblem("a.yaml", "no earlier good content", "nothing that it may have held is pruned")
	write(t, dir, "b.yaml", namespace("c"))
	r.untilNames("Namespace c")
	if r.isComplete() {
		t.Error("complete, though a file was never read")
	}
	write(t, dir, "a.yaml", namespace("a"))
	r.untilComplete()
	r.untilNames("Namespace a", "Namespace c")
}

// A file that has never had a good content holds up nothing once everything else
// has been read, also after a restart; one whose good content was lost does.
func TestManifestsNewFileBroken(t *testing.T) {
	t.Parallel()
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, "a.yaml", namespace("a"))
	r := start(t, dir, state)
	r.untilComplete()
	write(t, dir, "new.yaml", "kind: [")
	p := r.untilProblem("new.yaml")
	if strings.Contains(p.Message, "pruned") {
		t.Errorf("nothing is held up, but the problem says %q", p.Message)
	}
	r.stop()
	r = start(t, dir, state)
	r.untilComplete()
	r.untilProblem("new.yaml", "nothing is taken from it")
	r.stop()

	write(t, dir, "a.yaml", "kind: [")
	kept := keptIn(t, state)
	if len(kept) != 1 {
		t.Fatalf("kept: %v", kept)
	}
	if err := os.WriteFile(kept[0], []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir, state)
	r.untilProblem("a.yaml", "nothing that it may have held is pruned")
	if r.isComplete() {
		t.Error("complete, though what was in effect is not known")
	}
}

func TestManifestsMissingDirectory(t *testing.T) {
	t.Parallel()
	parent, state := t.TempDir(), t.TempDir()
	dir := filepath.Join(parent, "manifests")
	r := start(t, dir, state)
	p := r.untilProblem(".", "no such file or directory")
	if r.isComplete() {
		t.Errorf("complete without a directory: %v", p)
	}
	write(t, dir, "a.yaml", namespace("a"))
	r.untilComplete()
	r.untilNoProblem()

	// It goes away as a whole: moved, unmounted, or put in place empty.
	if err := os.Rename(dir, dir+"-away"); err != nil {
		t.Fatal(err)
	}
	r.untilProblem(".", "no such file or directory", "stays in effect")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.untilProblem(".", "no manifest is here, but there were 1 before")
	r.untilNames("Namespace a")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir, state)
	r.untilProblem(".", "no manifest is here, but there were 1 before")
	r.untilNames("Namespace a")
	if r.isComplete() {
		t.Error("complete with an empty directory that was not empty before")
	}
	write(t, dir, "none.yaml", "# all gone, and meant so\n")
	r.untilComplete()
	r.untilNames()
	r.untilNoProblem()
}

// TestManifestsLastFileRemoved checks that a directory may become empty before
// the source's eyes.
func TestManifestsLastFileRemoved(t *testing.T) {
	t.Parallel()
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, "a.yaml", namespace("a"))
	r := start(t, dir, state)
	r.untilComplete()
	remove(t, dir, "a.yaml")
	r.untilNames()
	r.untilNoProblem()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if kept := keptIn(t, state); len(kept) > 0 {
		t.Errorf("kept %v", kept)
	}
	start(t, dir, state).untilComplete()
}

func TestManifestsRemovedWhileAway(t *testing.T) {
	t.Parallel()
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, "a.yaml", namespace("a"))
	write(t, dir, "b.yaml", namespace("b"))
	r := start(t, dir, state)
	r.untilComplete()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	remove(t, dir, "a.yaml")
	r = start(t, dir, state)
	r.untilComplete()
	r.untilNames("Namespace b")
	r.until("one file is kept", func() bool {
		return len(keptIn(t, state)) == 1
	})
}

func TestManifestsDuplicates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", serviceYAML("web", "a"))
	write(t, dir, "b.yaml", namespace("x")+"---\n"+serviceYAML("web", "b")+"---\n"+serviceYAML("db", "b"))
	r := start(t, dir, t.TempDir())
	r.untilComplete()
	p := r.untilProblem("b.yaml", "Service default/web stands in a.yaml at line 1 already")
	if p.Line != 6 {
		t.Errorf("problem %v, want line 6", p)
	}
	note := func() string { return r.get("Service default/web").GetAnnotations()["note"] }
	if note() != "a" {
		t.Errorf("content of %s counts, want a.yaml's", note())
	}
	r.take()
	write(t, dir, "b.yaml", serviceYAML("web", "b2"))
	r.untilNames("Service default/web")
	if diff := cmp.Diff([]string{"-Service default/db", "-Namespace x"}, r.take()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	remove(t, dir, "a.yaml")
	r.until("the second takes over", func() bool { return note() == "b2" })
	if diff := cmp.Diff([]string{"+Service default/web"}, r.take()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	write(t, dir, "b.yaml", serviceYAML("web", "b3")+"---\n"+serviceYAML("web", "b4"))
	r.untilProblem("b.yaml", "Service default/web stands in b.yaml at line 1 already")
	if note() != "b3" {
		t.Errorf("content %s counts, want the first", note())
	}
	write(t, dir, "b.yaml", serviceYAML("web", "b3"))
	r.untilNoProblem()
}

// TestManifestsSameAgain checks that what means the same is no change.
func TestManifestsSameAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "east.yaml", string(dump(t, "east")))
	r := start(t, dir, t.TempDir())
	r.untilComplete()
	if n := len(r.take()); n != 36 {
		t.Errorf("%d objects, want 36", n)
	}
	text := strings.ReplaceAll(string(dump(t, "east")), `resourceVersion: "3`, `resourceVersion: "9`)
	text = strings.ReplaceAll(text, "    app: web\n", "    'app': \"web\"\n")
	text = strings.Replace(text, "      team: platform\n    managedFields", "      team: other\n    managedFields", 1)
	write(t, dir, "east.yaml", text)
	r.until("change", func() bool { return r.get("Namespace data").GetLabels()["team"] == "other" })
	if diff := cmp.Diff([]string{"+Namespace data"}, r.take()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
}

// TestManifestsDerive checks that derived slices come and go with the slices in files.
func TestManifestsDerive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "web.yaml", `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.0.0.1, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
status: {phase: Running, podIP: 10.1.0.1, conditions: [{type: Ready, status: "True"}]}
`)
	r := start(t, dir, t.TempDir())
	r.untilComplete()
	derived := func() string {
		for _, name := range r.names() {
			if strings.HasPrefix(name, "EndpointSlice default/web-ipv4-") {
				return name
			}
		}
		return ""
	}
	name := derived()
	if name == "" {
		t.Fatalf("no slice in %v", r.names())
	}
	write(t, dir, "slice.yaml", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: own, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nendpoints: []\n")
	r.untilNames("EndpointSlice default/own", "Pod default/web-0", "Service default/web")
	remove(t, dir, "slice.yaml")
	r.until("derived again", func() bool { return derived() == name })
}

// TestManifestsConfigMap switches a directory's content as Kubernetes mounts ConfigMaps.
func TestManifestsConfigMap(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	symlink := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "..1/a.yaml", namespace("a"))
	write(t, dir, "..2/a.yaml", namespace("b"))
	symlink("..1", "..data")
	symlink("..data/a.yaml", "a.yaml")
	symlink(".", "loop")
	symlink("self", "self")
	symlink("nowhere", "dangling")
	r := start(t, dir, t.TempDir())
	r.untilComplete()
	r.untilNames("Namespace a")
	symlink("..2", "..tmp")
	if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	r.untilNames("Namespace b")
	symlink("nowhere", "b.yaml")
	r.untilProblem("b.yaml", "no such file or directory")
	if err := os.Remove(filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	r.untilNoProblem()
}

// TestManifestsUnreadable puts something that is no file in a file's place.
func TestManifestsUnreadable(t *testing.T) {
	t.Parallel()
	dir, state := t.TempDir(), t.TempDir()
	write(t, dir, "a.yaml", namespace("a"))
	write(t, dir, "b.yaml", namespace("b"))
	r := start(t, dir, state)
	r.untilComplete()
	remove(t, dir, "a.yaml")
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	r.untilProblem("a.yaml", "not a regular file", "its last good content stays in effect")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir, state)
	r.untilComplete()
	r.untilNames("Namespace a", "Namespace b")
	r.untilProblem("a.yaml", "not a regular file", "kept at")
	remove(t, dir, "a.yaml")
	r.untilNames("Namespace b")
}

// TestManifestsPrompt checks that a change takes under a second, and a file that is
// written piece by piece is not taken up half.
func TestManifestsPrompt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", namespace("a"))
	r := start(t, dir, t.TempDir())
	r.untilComplete()
	began := time.Now()
	write(t, dir, "b.yaml", namespace("b"))
	r.untilNames("Namespace a", "Namespace b")
	t.Logf("in effect after %v", time.Since(began))

	f, err := os.Create(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tick := time.NewTicker(settleTime / 10)
	defer tick.Stop()
	want := []string{"Namespace a", "Namespace b"}
	for i := range 40 {
		name := fmt.Sprintf("c%02d", i)
		want = append(want, "Namespace "+name)
		if _, err := fmt.Fprint(f, "---\n"+namespace(name)); err != nil {
			t.Fatal(err)
		}
		<-tick.C
	}
	r.untilNames(want...)
}

func TestManifestsMetrics(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", namespace("a")+"---\n"+namespace("b"))
	write(t, dir, "b.yaml", "kind: [")
	registry := prometheus.NewRegistry()
	m := NewManifests(ManifestsConfig{Dir: dir, StateDir: t.TempDir(), Sink: newRecorder(), Logger: slog.New(slog.DiscardHandler), Registerer: registry})
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, at := range []time.Time{now, now.Add(settleTime)} {
		if _, err := m.look(t.Context(), surveyDir(dir), at); err != nil {
			t.Fatal(err)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		for _, metric := range f.GetMetric() {
			name := f.GetName()
			for _, l := range metric.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			got[name] = metric.GetGauge().GetValue()
		}
	}
	want := map[string]float64{
		"causeway_source_objects kind=endpointslice": 0,
		"causeway_source_objects kind=namespace":     2,
		"causeway_source_objects kind=node":          0,
		"causeway_source_objects kind=pod":           0,
		"causeway_source_objects kind=service":       0,
		"causeway_source_problems":                   1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	since := m.Problems()[0].Since
	if _, err := m.look(t.Context(), surveyDir(dir), now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if got := m.Problems()[0].Since; !got.Equal(since) {
		t.Errorf("the problem is of %v, then of %v", since, got)
	}
}

// TestManifestsUnsettled looks at a file that changes before each look.
func TestManifestsUnsettled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := NewManifests(ManifestsConfig{Dir: dir, StateDir: t.TempDir(), Sink: newRecorder(), Logger: slog.New(slog.DiscardHandler)})
	if err := m.open(); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for i := range 5 {
		write(t, dir, "a.yaml", namespace(strings.Repeat("a", i+1)))
		settled, err := m.look(t.Context(), surveyDir(dir), now.Add(time.Duration(i)*unsettledTime/3))
		if err != nil || settled {
			t.Fatalf("look %d: settled %v, %v", i, settled, err)
		}
	}
	if p := m.Problems(); len(p) != 1 || !strings.Contains(p[0].Message, "has been changing") {
		t.Errorf("problems %v", p)
	}
	if _, err := m.look(t.Context(), surveyDir(dir), now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if p := m.Problems(); len(p) != 0 || !m.complete {
		t.Errorf("problems %v, complete %v", p, m.complete)
	}
}

func TestManifestsSinkFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "a.yaml", namespace("a"))
	sink := newRecorder()
	sink.err = errors.New("no more")
	m := NewManifests(ManifestsConfig{Dir: dir, StateDir: t.TempDir(), Sink: sink, Logger: slog.New(slog.DiscardHandler)})
	if err := m.Run(t.Context()); !errors.Is(err, sink.err) {
		t.Errorf("Run: %v, want %v", err, sink.err)
	}
}

func TestManifestsStateDirUnusable(t *testing.T) {
	t.Parallel()
	state := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	m := NewManifests(ManifestsConfig{Dir: t.TempDir(), StateDir: state, Sink: newRecorder(), Logger: slog.New(slog.DiscardHandler)})
	if err := m.Run(t.Context()); err == nil || !strings.Contains(err.Error(), state) {
		t.Errorf("Run: %v, want one that names %s", err, state)
	}
}

func TestKinds(t *testing.T) {
	for _, kind := range Kinds() {
		f, ok := formOf(kind)
		if !ok || KindOf(f.empty().object()) != kind {
			t.Errorf("%s is read as %s", kind, KindOf(f.empty().object()))
		}
	}
	if kind := KindOf(&corev1.Secret{}); kind != "" {
		t.Errorf("a Secret is a %s", kind)
	}
	if !slices.IsSortedFunc([]Change{{Object: pod("a"), Deleted: true}, {Object: pod("a")}, {Object: pod("b")}, {Object: web()}}, compareChanges) {
		t.Error("changes are not in their order")
	}
}
