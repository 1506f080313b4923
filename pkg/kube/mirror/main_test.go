package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// planes is the control plane of the tests that do not kill it. A Mirror looks at a
// whole cluster, so these tests run one after the other.
var planes kubelab.Shared

func TestMain(m *testing.M) { goleak.VerifyTestMain(planes.Around(m)) }

// mesh is what a Mirror is told there is.
type mesh struct {
	t      *testing.T
	mirror *Mirror
	stop   func()

	mu      sync.Mutex
	wants   map[service.Name]service.Mirrored
	unknown map[string]bool
	elected bool
	lead    func() bool // whether one that is elected still is; nil for yes
	changed chan struct{}
	refused map[service.Name]string
	skipped map[service.Name]string
}

func newMesh(t *testing.T) *mesh {
	return &mesh{
		t: t, wants: map[service.Name]service.Mirrored{}, unknown: map[string]bool{}, elected: true,
		changed: make(chan struct{}), refused: map[service.Name]string{}, skipped: map[service.Name]string{},
	}
}

// start runs a Mirror until the test ends or stop is called.
func (x *mesh) start(kubeconfig string) {
	x.t.Helper()
	client, err := kube.New(kube.Config{
		Kubeconfig: kubeconfig, UIDFile: filepath.Join(x.t.TempDir(), "uid"), Component: "test", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		x.t.Fatal(err)
	}
	x.mirror, err = New(Config{
		Client: client, Want: x.want, Names: x.names, Elected: x.isElected, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		Known: func(cluster string) bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			return !x.unknown[cluster]
		},
		Refused: func(name service.Name, _, reason string) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.refused[name] = reason
		},
		Skipped: func(name service.Name, _, reason string) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.skipped[name] = reason
		},
	})
	if err != nil {
		x.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(x.t.Context())
	done := make(chan error, 1)
	go func() { done <- x.mirror.Run(ctx) }()
	x.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			x.t.Errorf("run: %v", err)
		}
		client.Close()
	})
	x.t.Cleanup(x.stop)
}

func (x *mesh) want(name service.Name) (service.Mirrored, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	m, ok := x.wants[name]
	return m, ok
}

func (x *mesh) names() []service.Name {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Collect(maps.Keys(x.wants))
}

func (x *mesh) isElected() (bool, <-chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.elected && (x.lead == nil || x.lead()), x.changed
}

func (x *mesh) elect(elected bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.elected = elected
	close(x.changed)
	x.changed = make(chan struct{})
}

// set says what a service is to be; one of no uid is not to be mirrored.
func (x *mesh) set(m service.Mirrored) {
	x.mu.Lock()
	if m.UID == "" {
		delete(x.wants, m.Name)
	} else {
		x.wants[m.Name] = m
	}
	x.mu.Unlock()
	if x.mirror != nil {
		x.mirror.Touch([]service.Name{m.Name})
	}
}

// writes returns how many requests were made to write.
func (x *mesh) writes() int {
	n := 0.0
	for _, verb := range []string{verbApply, verbDelete} {
		for _, result := range []string{resultDone, resultRefused, resultFailed} {
			var value dto.Metric
			if err := x.mirror.metrics.requests.WithLabelValues(verb, result).Write(&value); err != nil {
				x.t.Fatal(err)
			}
			n += value.GetCounter().GetValue()
		}
	}
	return int(n)
}

// idle waits until nothing is due.
func (x *mesh) idle() {
	x.t.Helper()
	until(x.t, "nothing to do", func() (string, bool) {
		x.mirror.mu.Lock()
		defer x.mirror.mu.Unlock()
		return fmt.Sprint(x.mirror.due), len(x.mirror.due) == 0
	})
}

// until asks until got says that it is so, and fails with what it said last.
func until(t *testing.T, what string, got func() (string, bool)) {
	t.Helper()
	kubelab.Until(t, what, func(context.Context) error {
		if last, ok := got(); !ok {
			return errors.New("still not so: " + last)
		}
		return nil
	})
}

// newService makes a Service in a namespace of its own, and returns both names and the uid.
func newService(t *testing.T, plane *kubelab.ControlPlane, name string) (namespace, uid string) {
	t.Helper()
	namespace = fmt.Sprintf("mirror-%08x", rand.Uint32())
	apply(t, plane, fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: %s}
---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: %s}
spec: {ports: [{name: http, port: 80}]}
`, namespace, name, namespace))
	return namespace, kubectl(t, plane, "get", "service", "-n", namespace, name, "-o", "jsonpath={.metadata.uid}")
}

func apply(t *testing.T, plane *kubelab.ControlPlane, manifest string) {
	t.Helper()
	if err := plane.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

func kubectl(t *testing.T, plane *kubelab.ControlPlane, args ...string) string {
	t.Helper()
	text, err := plane.Kubectl(t.Context(), "", args...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// addresses returns those of all ready endpoints of a service in the API, sorted.
func addresses(t *testing.T, plane *kubelab.ControlPlane, namespace, name string) []string {
	t.Helper()
	text := kubectl(t, plane, "get", "endpointslices", "-n", namespace, "-l", "kubernetes.io/service-name="+name,
		"-o", "jsonpath={.items[*].endpoints[?(@.conditions.ready==true)].addresses[0]}")
	list := strings.Fields(text)
	slices.Sort(list)
	return list
}

func untilAddresses(t *testing.T, plane *kubelab.ControlPlane, namespace, name string, want ...string) {
	t.Helper()
	slices.Sort(want)
	until(t, fmt.Sprintf("%d addresses of %s/%s", len(want), namespace, name), func() (string, bool) {
		got := addresses(t, plane, namespace, name)
		return fmt.Sprintf("%v instead of %v", got, want), slices.Equal(got, want)
	})
}

// versions returns the resourceVersion of each of a namespace's slices.
func versions(t *testing.T, plane *kubelab.ControlPlane, namespace string) map[string]string {
	t.Helper()
	text := kubectl(t, plane, "get", "endpointslices", "-n", namespace, "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`)
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if name, version, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			out[name] = version
		}
	}
	return out
}
