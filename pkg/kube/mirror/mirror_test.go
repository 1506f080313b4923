package mirror

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

var manyServices = flag.Int("services", 60, "how many services of 40 backends TestMany mirrors")

func texts(list []service.Endpoint) []string {
	var out []string
	for _, e := range list {
		out = append(out, e.Addresses[0].String())
	}
	return out
}

// TestMirror takes one service through its life: what a change writes, that nothing
// is written when nothing changed, that others' edits are undone, and that all goes.
func TestMirror(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	x := newMesh(t)
	list := many(230)
	x.set(wanted(namespace, "web", uid, list))
	x.start(plane.Kubeconfig())
	untilAddresses(t, plane, namespace, "web", texts(list)...)
	x.idle()
	before := versions(t, plane, namespace)

	list = slices.Clone(list) // the mirror may still read what it was given
	list[100].Condition = service.Condition{Serving: true, Terminating: true}
	x.set(wanted(namespace, "web", uid, list))
	untilAddresses(t, plane, namespace, "web", texts(slices.Delete(slices.Clone(list), 100, 101))...)
	changed := 0
	for name, version := range versions(t, plane, namespace) {
		if before[name] != version {
			changed++
		}
	}
	if changed != 1 {
		t.Errorf("one backend's state changed %d objects of %d", changed, len(before))
	}

	x.idle()
	count := x.writes()
	for range 5 {
		x.mirror.Touch(x.names())
		x.idle()
	}
	if got := x.writes(); got != count {
		t.Errorf("%d writes though nothing changed", got-count)
	}

	kubectl(t, plane, "delete", "endpointslices", "-n", namespace, "--all")
	untilAddresses(t, plane, namespace, "web", texts(slices.Delete(slices.Clone(list), 100, 101))...)
	kubectl(t, plane, "label", "endpointslices", "-n", namespace, "--all", "--overwrite", "kubernetes.io/service-name=other")
	untilAddresses(t, plane, namespace, "web", texts(slices.Delete(slices.Clone(list), 100, 101))...)
	untilAddresses(t, plane, namespace, "other")
	if s, ok := x.mirror.Standing(service.Name{Namespace: namespace, Name: "web"}); !ok || s.Endpoints != 230 || s.Wanted != 230 || s.Objects < 3 || s.Reason != "" {
		t.Errorf("standing: %+v, %v", s, ok)
	}

	x.set(service.Mirrored{Name: service.Name{Namespace: namespace, Name: "web"}})
	until(t, "all objects gone", func() (string, bool) {
		left := versions(t, plane, namespace)
		return fmt.Sprint(left), len(left) == 0
	})
	if s, ok := x.mirror.Standing(service.Name{Namespace: namespace, Name: "web"}); ok {
		t.Errorf("standing of what is gone: %+v", s)
	}
}

// TestMirrorLeftovers starts where another run ended: what is as it should be is left
// alone, what is too much goes, but for that of a cluster which has not been heard yet.
// One that does not write does none of it.
func TestMirrorLeftovers(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	full := wanted(namespace, "web", uid, endpoints("10.9.0.1", "10.9.0.2"))
	full.Sets = append(full.Sets, service.MirrorSet{Cluster: "north", Ports: httpOn(8080), Endpoints: endpoints("10.8.0.1")})
	first := newMesh(t)
	first.set(full)
	first.start(plane.Kubeconfig())
	untilAddresses(t, plane, namespace, "web", "10.8.0.1", "10.9.0.1", "10.9.0.2")
	first.stop()
	before := versions(t, plane, namespace)

	// North is not known whole: it seems to have nothing. West has one less.
	second := newMesh(t)
	second.elected = false
	second.unknown["north"] = true
	second.set(wanted(namespace, "web", uid, endpoints("10.9.0.1")))
	second.start(plane.Kubeconfig())
	until(t, "the objects are known", func() (string, bool) {
		s, _ := second.mirror.Standing(service.Name{Namespace: namespace, Name: "web"})
		return fmt.Sprint(s), s.Endpoints == 3
	})
	if n := second.writes(); n != 0 {
		t.Errorf("%d writes by one that is not elected", n)
	}
	second.elect(true)
	untilAddresses(t, plane, namespace, "web", "10.8.0.1", "10.9.0.1")
	unchanged := 0
	for name, version := range versions(t, plane, namespace) {
		if before[name] == version {
			unchanged++
		}
	}
	if unchanged != 1 {
		t.Errorf("%d objects are as they were, want that of north", unchanged)
	}
	second.mu.Lock()
	second.unknown["north"] = false
	second.mu.Unlock()
	untilAddresses(t, plane, namespace, "web", "10.9.0.1")
	second.stop()

	// The next run knows of no service at all.
	third := newMesh(t)
	third.start(plane.Kubeconfig())
	untilAddresses(t, plane, namespace, "web")
}

// refuse has the API server refuse EndpointSlices in a namespace that meet a condition.
const refuse = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAME}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [discovery.k8s.io], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [endpointslices]}]}
  validations: [{expression: "object.metadata.namespace != 'NAME' || !(CONDITION)", message: "no slices here"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME, validationActions: [Deny]}
`

// refuseSlices returns when slices in a namespace that meet a condition are refused,
// which probe, a slice of the cluster north, has to.
func refuseSlices(t *testing.T, plane *kubelab.ControlPlane, namespace, condition string) {
	t.Helper()
	apply(t, plane, strings.NewReplacer("NAME", namespace, "CONDITION", condition).Replace(refuse))
	t.Cleanup(func() { allowSlices(t, plane, namespace) })
	probe := fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n"+
		"metadata: {name: probe, namespace: %s, labels: {causeway.io/source-cluster: north}}\naddressType: IPv4\nendpoints: []\n", namespace)
	until(t, "the policy holds", func() (string, bool) {
		_, err := plane.Kubectl(t.Context(), probe, "create", "--dry-run=server", "-f", "-")
		return "created", err != nil
	})
}

func allowSlices(t *testing.T, plane *kubelab.ControlPlane, namespace string) {
	t.Helper()
	_, err := plane.Kubectl(context.WithoutCancel(t.Context()), "", "delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", namespace, "--ignore-not-found")
	if err != nil {
		t.Error(err)
	}
}

// TestMirrorRefused has admission refuse one service's objects: it is said, the others
// go on, and it is made good when admission lets it.
func TestMirrorRefused(t *testing.T) {
	plane := planes.Start(t)
	closed, closedUID := newService(t, plane, "web")
	open, openUID := newService(t, plane, "web")
	refuseSlices(t, plane, closed, "true")

	x := newMesh(t)
	x.set(wanted(closed, "web", closedUID, endpoints("10.9.0.1")))
	x.set(wanted(open, "web", openUID, endpoints("10.9.0.2")))
	x.start(plane.Kubeconfig())
	untilAddresses(t, plane, open, "web", "10.9.0.2")
	until(t, "the refusal is told", func() (string, bool) {
		x.mu.Lock()
		defer x.mu.Unlock()
		reason := x.refused[service.Name{Namespace: closed, Name: "web"}]
		return reason, strings.Contains(reason, "no slices here") && len(x.refused) == 1
	})
	if problems := x.mirror.Problems(); len(problems) != 1 || !strings.Contains(problems[0], closed+"/web") {
		t.Errorf("problems: %q", problems)
	}
	allowSlices(t, plane, closed)
	untilAddresses(t, plane, closed, "web", "10.9.0.1")
	until(t, "the refusal is over", func() (string, bool) {
		x.mu.Lock()
		defer x.mu.Unlock()
		return fmt.Sprint(x.refused), x.refused[service.Name{Namespace: closed, Name: "web"}] == "" && len(x.mirror.Problems()) == 0
	})
}

// role lets the user NAME read all that a Mirror looks at.
const role = `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: NAME}
rules:
- {apiGroups: [""], resources: [namespaces], verbs: [list]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: VERBS}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: NAME}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: NAME}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: NAME}]
`

// TestMirrorPermission runs with no more than reading: one thing is said, with what
// to do, and few requests are made; that done, all is written by the verbs that we name.
func TestMirrorPermission(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	text, err := os.ReadFile(plane.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	as := strings.Replace(string(text), "user: {client-certificate-data", "user: {as: "+namespace+", client-certificate-data", 1)
	if err := os.WriteFile(file, []byte(as), 0o600); err != nil {
		t.Fatal(err)
	}
	apply(t, plane, strings.NewReplacer("NAME", namespace, "VERBS", "[list, watch]").Replace(role))
	x := newMesh(t)
	for i := range 20 {
		x.set(wanted(namespace, fmt.Sprintf("web-%d", i), uid, endpoints("10.9.0.1")))
	}
	x.start(file)
	until(t, "the problem is told", func() (string, bool) {
		problems := x.mirror.Problems()
		return fmt.Sprint(problems), len(problems) == 1 && strings.Contains(problems[0], "verbs: ["+Verbs+"]")
	})
	if n := x.writes(); n > writers {
		t.Errorf("%d attempts though none is allowed", n)
	}
	apply(t, plane, strings.NewReplacer("NAME", namespace, "VERBS", "["+Verbs+"]").Replace(role))
	untilAddresses(t, plane, namespace, "web-19", "10.9.0.1")
	x.set(service.Mirrored{Name: service.Name{Namespace: namespace, Name: "web-19"}})
	untilAddresses(t, plane, namespace, "web-19")
	x.idle()
	until(t, "no problem is left", func() (string, bool) { return fmt.Sprint(x.mirror.Problems()), len(x.mirror.Problems()) == 0 })
}

// TestMirrorSurvives kills the API server, lets it lose its history, and changes what
// is to be meanwhile.
func TestMirrorSurvives(t *testing.T) {
	plane := kubelab.Start(t, kubelab.Config{})
	namespace, uid := newService(t, plane, "web")
	x := newMesh(t)
	x.set(wanted(namespace, "web", uid, endpoints("10.9.0.1")))
	x.start(plane.Kubeconfig())
	untilAddresses(t, plane, namespace, "web", "10.9.0.1")
	plane.KillAPIServer()
	x.set(wanted(namespace, "web", uid, endpoints("10.9.0.2", "10.9.0.3")))
	until(t, "the API server is missed", func() (string, bool) {
		s, _ := x.mirror.Standing(service.Name{Namespace: namespace, Name: "web"})
		return s.Reason, s.Reason != ""
	})
	if err := plane.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := plane.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	untilAddresses(t, plane, namespace, "web", "10.9.0.2", "10.9.0.3")
}

// TestMany mirrors many services at once: each object is one request, and no more are
// made than are allowed.
func TestMany(t *testing.T) {
	plane := planes.Start(t)
	namespace, uid := newService(t, plane, "web")
	kubectl(t, plane, "delete", "endpointslices", "-A", "-l", service.LabelManagedBy+"="+service.ManagedBy) // of tests before
	x := newMesh(t)
	for i := range *manyServices {
		x.set(wanted(namespace, fmt.Sprintf("web-%d", i), uid, many(40)))
	}
	began := time.Now()
	x.start(plane.Kubeconfig())
	until(t, "all are written", func() (string, bool) {
		n := x.writes()
		return fmt.Sprint(n), n >= *manyServices
	})
	x.idle()
	took := time.Since(began)
	if n := x.writes(); n != *manyServices || len(versions(t, plane, namespace)) != *manyServices {
		t.Errorf("%d writes for %d objects", n, *manyServices)
	}
	t.Logf("%d backends of %d services: %d requests in %v", 40**manyServices, *manyServices, x.writes(), took)
	if least := time.Duration(*manyServices-writesAtOnce) * time.Second / writesPerSecond; took < least {
		t.Errorf("written in %v: more than %d requests a second", took, writesPerSecond)
	}
}
