package events

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

var planes kubelab.Shared

func TestMain(m *testing.M) { goleak.VerifyTestMain(planes.Around(m)) }

const timeout = 60 * time.Second

// newRecorder returns one that does not run, and what it writes by.
func newRecorder(t *testing.T, kubeconfig string, elected func() bool) (*Recorder, *kube.Client) {
	t.Helper()
	client, err := kube.New(kube.Config{
		Kubeconfig: kubeconfig, UIDFile: filepath.Join(t.TempDir(), "uid"), Component: "test", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{
		Client: client, Instance: "here", Elected: func() (bool, <-chan struct{}) { return elected(), nil }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, client
}

func always() bool { return true }

// start runs a Recorder until the test ends or stop is called.
func start(t *testing.T, kubeconfig string) (r *Recorder, stop func()) {
	t.Helper()
	r, client := newRecorder(t, kubeconfig, always)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		client.Close()
	})
	t.Cleanup(stop)
	return r, stop
}

// newService makes shop in a namespace of its own.
func newService(t *testing.T, plane *kubelab.ControlPlane) (name service.Name, uid string) {
	t.Helper()
	name = service.Name{Namespace: fmt.Sprintf("events-%08x", rand.Uint32()), Name: "shop"}
	err := plane.Apply(t.Context(), fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: %s}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: %s}
spec: {ports: [{name: http, port: 80}]}
`, name.Namespace, name.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	uid, err = plane.Kubectl(t.Context(), "", "get", "service", "-n", name.Namespace, "shop", "-o", "jsonpath={.metadata.uid}")
	if err != nil {
		t.Fatal(err)
	}
	return name, uid
}

// untilEvents waits until a namespace has these events, each "reason count note".
func untilEvents(t *testing.T, plane *kubelab.ControlPlane, namespace string, want ...string) {
	t.Helper()
	deadline := time.Now().Add(timeout)
	for {
		text, err := plane.Kubectl(t.Context(), "", "get", "events.events.k8s.io", "-n", namespace, "--sort-by=.note", "-o",
			`jsonpath={range .items[*]}{.type} {.reason} {.regarding.kind}/{.regarding.name} {.series.count} {.note}{"\n"}{end}`)
		if err != nil {
			t.Fatal(err)
		}
		if text == strings.Join(want, "") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("events are\n%s, want\n%s", text, strings.Join(want, ""))
		}
		time.Sleep(100 * time.Millisecond) // between two looks; nothing depends on its length
	}
}

// role is all that writing events needs.
const role = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: recorder}
rules: [{apiGroups: [events.k8s.io], resources: [events], verbs: [create, get, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: recorder}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: recorder}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: recorder}]
`

// kubeconfigOf returns a file by which the control plane knows a client as user.
func kubeconfigOf(t *testing.T, plane *kubelab.ControlPlane, user string) string {
	t.Helper()
	text, err := os.ReadFile(plane.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	as := strings.Replace(string(text), "user: {client-certificate-data", "user: {as: "+user+", client-certificate-data", 1)
	if err := os.WriteFile(file, []byte(as), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// until waits until a user may write events: authorizers learn of a role a moment later.
func until(t *testing.T, plane *kubelab.ControlPlane, user string) {
	t.Helper()
	for deadline := time.Now().Add(timeout); ; time.Sleep(50 * time.Millisecond) {
		_, err := plane.Kubectl(t.Context(), "", "auth", "can-i", "patch", "events.events.k8s.io", "--as", user)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestEvents says what is wrong, again, otherwise, no more, and anew: two events come
// of it, and the one that came again says so, also when another run tells of it.
func TestEvents(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	name, uid := newService(t, plane)
	if err := plane.Apply(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	file := kubeconfigOf(t, plane, "recorder")
	until(t, plane, "recorder")
	r, stop := start(t, file)
	for range 10 {
		r.Report(name, uid, WrongAnnotation, "affinity is wrong")
	}
	untilEvents(t, plane, name.Namespace, "Warning WrongAnnotation Service/shop  affinity is wrong\n")
	r.Report(name, uid, WrongAnnotation, "shared is wrong")
	untilEvents(t, plane, name.Namespace, "Warning WrongAnnotation Service/shop  affinity is wrong\n", "Warning WrongAnnotation Service/shop  shared is wrong\n")
	r.Report(name, uid, WrongAnnotation, "")
	r.Report(name, uid, WrongAnnotation, "affinity is wrong")
	untilEvents(t, plane, name.Namespace, "Warning WrongAnnotation Service/shop 2 affinity is wrong\n", "Warning WrongAnnotation Service/shop  shared is wrong\n")
	stop()
	again, _ := start(t, file)
	again.Report(name, uid, WrongAnnotation, "affinity is wrong")
	untilEvents(t, plane, name.Namespace, "Warning WrongAnnotation Service/shop 3 affinity is wrong\n", "Warning WrongAnnotation Service/shop  shared is wrong\n")
	if problems := again.Problems(); problems != nil {
		t.Errorf("problems: %q", problems)
	}
}

// TestEventsLong checks that what is too long is cut, and that a Service which is gone
// keeps nobody else's from being told.
func TestEventsLong(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	name, uid := newService(t, plane)
	r, _ := start(t, plane.Kubeconfig())
	r.Report(service.Name{Namespace: name.Namespace + "-gone", Name: "shop"}, "u", WrongService, "nobody hears it")
	r.Report(name, uid, PortsDiffer, strings.Repeat("ä", 2000))
	untilEvents(t, plane, name.Namespace, "Warning PortsDiffer Service/shop  "+strings.Repeat("ä", maxNote/2)+"\n")
}

// TestEventsPermission has no right to write events: that is said, with what to do.
func TestEventsPermission(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	name, uid := newService(t, plane)
	r, _ := start(t, kubeconfigOf(t, plane, "nobody"))
	r.Report(name, uid, WrongAnnotation, "affinity is wrong")
	for deadline := time.Now().Add(timeout); ; time.Sleep(50 * time.Millisecond) {
		problems := r.Problems()
		if len(problems) == 1 && strings.Contains(problems[0], `apiGroups: ["events.k8s.io"], resources: [events], verbs: [create, get, patch]`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("problems: %q", problems)
		}
	}
}

// countEvents returns how many events a namespace has.
func countEvents(t *testing.T, plane *kubelab.ControlPlane, namespace string) int {
	t.Helper()
	text, err := plane.Kubectl(t.Context(), "", "get", "events.events.k8s.io", "-n", namespace, "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	return len(strings.Fields(text))
}

// TestEventsRate has a Service be wrong in another way all the time, as a peer that
// renames its ports makes it: it has a few events, and others are told of as before.
func TestEventsRate(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	name, uid := newService(t, plane)
	other, otherUID := newService(t, plane)
	r, client := newRecorder(t, plane.Kubeconfig(), always)
	t.Cleanup(client.Close)
	var next time.Duration
	for i := range 20 {
		r.Report(name, uid, PortsDiffer, fmt.Sprintf("ports are called a%d", i))
		r.Report(name, uid, WrongService, fmt.Sprintf("it is wrong, %d", i))
		next = r.pass(t.Context())
	}
	if n := countEvents(t, plane, name.Namespace); n != serviceAtOnce {
		t.Errorf("a Service has %d events, want %d", n, serviceAtOnce)
	}
	if next <= 0 || next > serviceEvery {
		t.Errorf("the next is due in %v", next)
	}
	r.Report(other, otherUID, PortsDiffer, "this one, too")
	r.pass(t.Context())
	untilEvents(t, plane, other.Namespace, "Warning PortsDiffer Service/shop  this one, too\n")

	// When one may be told again, it is what was said last.
	due, _ := r.take(time.Now().Add(serviceEvery))
	if len(due) != 1 {
		t.Errorf("%d are due after %v, want one", len(due), serviceEvery)
	}
	for _, e := range due {
		if !strings.HasSuffix(e.note, "19") {
			t.Errorf("%q is due, which was not said last", e.note)
		}
	}
}

// TestEventsLead takes the lead away while events are written: the rest waits for it.
func TestEventsLead(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	name, uid := newService(t, plane)
	left := 3
	r, client := newRecorder(t, plane.Kubeconfig(), func() bool {
		left--
		return left >= 0
	})
	t.Cleanup(client.Close)
	for i := range 10 {
		r.Report(service.Name{Namespace: name.Namespace, Name: fmt.Sprintf("shop-%d", i)}, uid, WrongService, "wrong")
	}
	r.pass(t.Context())
	if n := countEvents(t, plane, name.Namespace); n != 3 {
		t.Errorf("%d events, though the lead was lost after 3", n)
	}
	left = 100
	r.pass(t.Context())
	if n := countEvents(t, plane, name.Namespace); n != 10 {
		t.Errorf("%d events when the lead is back, want 10", n)
	}
}

// TestEventsPeer tells of a ClusterPeer, which has no namespace: what is wrong is a
// warning that stays, what is good is told once.
func TestEventsPeer(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	r, client := newRecorder(t, plane.Kubeconfig(), always)
	t.Cleanup(client.Close)
	name := fmt.Sprintf("west-%08x", rand.Uint32())
	r.ReportPeer(name, "u", "Ready", "Disconnected", "no answer", false)
	r.pass(t.Context())
	r.ReportPeer(name, "u", "Ready", "Synced", "all is known", true)
	r.ReportPeer(name, "u", "ClaimsAgreed", "ClaimsWaiting", "names more", false)
	r.pass(t.Context())
	text, err := plane.Kubectl(t.Context(), "", "get", "events.events.k8s.io", "-n", "default", "--sort-by=.reason", "-o",
		`jsonpath={range .items[?(@.regarding.name=="`+name+`")]}{.type} {.reason} {.regarding.apiVersion} {.regarding.kind} {.note}{"\n"}{end}`)
	want := "Warning ClaimsWaiting causeway.io/v1alpha1 ClusterPeer names more\nWarning Disconnected causeway.io/v1alpha1 ClusterPeer no answer\n" +
		"Normal Synced causeway.io/v1alpha1 ClusterPeer all is known\n"
	if err != nil || text != want {
		t.Errorf("events are %v\n%s, want\n%s", err, text, want)
	}
	if len(r.kept) != 1 {
		t.Errorf("%d are told again, want what is wrong alone", len(r.kept))
	}
}
