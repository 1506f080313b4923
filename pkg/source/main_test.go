package source

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// planes is the control plane of the tests that do not kill it.
var planes kubelab.Shared

// childVariable makes the test binary a source that runs until it is killed: its
// value is the manifests' directory and the state directory.
const childVariable = "CAUSEWAY_TEST_SOURCE"

func TestMain(m *testing.M) {
	if dir, state, ok := strings.Cut(os.Getenv(childVariable), ":"); ok {
		child := NewManifests(ManifestsConfig{Dir: dir, StateDir: state, Sink: teller{}, Logger: slog.New(slog.DiscardHandler)})
		fmt.Println(child.Run(context.Background()))
		os.Exit(1)
	}
	goleak.VerifyTestMain(planes.Around(m))
}

// teller is a sink that prints a line for each call.
type teller struct{}

func (teller) Apply(_ context.Context, changes []Change) error {
	fmt.Println("apply", keyOf(changes[0].Object))
	return nil
}

func (teller) Complete(context.Context) error {
	fmt.Println("complete")
	return nil
}

// timeout is how long a test waits for what has to come.
const timeout = 60 * time.Second

// recorder is a sink that keeps what it is given.
type recorder struct {
	mu       sync.Mutex
	objects  map[string]Object
	changes  []string
	complete bool
	// changed is signalled after each call.
	changed chan struct{}
	err     error // what Apply returns
}

func newRecorder() *recorder {
	return &recorder{objects: make(map[string]Object), changed: make(chan struct{}, 1)}
}

func (r *recorder) Apply(_ context.Context, changes []Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		name := keyOf(c.Object).String()
		if c.Deleted {
			if r.objects[name] != c.Object {
				return fmt.Errorf("%s is deleted with another object than was given last", name)
			}
			delete(r.objects, name)
			r.changes = append(r.changes, "-"+name)
			continue
		}
		r.objects[name] = c.Object
		r.changes = append(r.changes, "+"+name)
	}
	r.signal()
	return r.err
}

func (r *recorder) Complete(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.complete {
		return fmt.Errorf("complete a second time")
	}
	r.complete = true
	r.signal()
	return nil
}

func (r *recorder) signal() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *recorder) isComplete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.complete
}

// names returns the names of the objects that stand.
func (r *recorder) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.objects))
}

func (r *recorder) get(name string) Object {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.objects[name]
}

// take returns the changes since it was called last.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	changes := r.changes
	r.changes = nil
	return changes
}

// reader is a source.
type reader interface {
	Run(ctx context.Context) error
	Problems() []Problem
}

// run is a source that runs in a test.
type run struct {
	reader
	*recorder
	t    *testing.T
	stop func() error
}

// start runs a source until the test ends or stop is called.
func start(t *testing.T, dir, state string) *run {
	t.Helper()
	sink := newRecorder()
	return startReader(t, sink, NewManifests(ManifestsConfig{Dir: dir, StateDir: state, Sink: sink, Logger: slog.New(slog.DiscardHandler)}))
}

func startReader(t *testing.T, sink *recorder, source reader) *run {
	t.Helper()
	r := &run{recorder: sink, reader: source, t: t}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// until waits for a condition: looked at after each call of the sink, and now and
// then for what comes without one.
func (r *run) until(what string, condition func() bool) {
	r.t.Helper()
	deadline := time.After(timeout)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-r.changed:
		case <-tick.C:
		case <-deadline:
			r.t.Fatalf("%s: still not so; objects %v, complete %v, problems %v", what, r.names(), r.isComplete(), r.Problems())
		}
	}
}

func (r *run) untilComplete() {
	r.t.Helper()
	r.until("complete", r.isComplete)
}

func (r *run) untilNames(want ...string) {
	r.t.Helper()
	slices.Sort(want)
	r.until(fmt.Sprintf("objects %v", want), func() bool { return slices.Equal(r.names(), want) })
}

// untilProblem waits for a problem of a file that says all of this, and returns it.
func (r *run) untilProblem(file string, texts ...string) Problem {
	r.t.Helper()
	var found Problem
	r.until(fmt.Sprintf("problem of %s with %q", file, texts), func() bool {
		for _, p := range r.Problems() {
			if p.File == file && containsAll(p.Message, texts) {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

func (r *run) untilNoProblem() {
	r.t.Helper()
	r.until("no problem", func() bool { return len(r.Problems()) == 0 })
}

func containsAll(text string, parts []string) bool {
	return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(text, part) })
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func dump(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "tests", "testdata", "dumps", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// serviceYAML returns a manifest of a Service without selector.
func serviceYAML(name, annotation string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata:\n  name: %s\n  annotations: {note: %q}\nspec:\n  ports: [{port: 80}]\n", name, annotation)
}

func namespace(name string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + name + "\n"
}

// keptIn returns the files of a state directory that hold a last good content.
func keptIn(t *testing.T, state string) []string {
	t.Helper()
	kept, err := filepath.Glob(filepath.Join(state, "*"+keptSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return kept
}
