package source

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// apiSource is where a test's source reads, and what it keeps.
type apiSource struct {
	kubeconfig string
	uidFile    string
	registry   *prometheus.Registry // nil: none
}

// startKubernetes runs a source until the test ends or stop is called.
func startKubernetes(t *testing.T, from apiSource) *run {
	t.Helper()
	if from.uidFile == "" {
		from.uidFile = filepath.Join(t.TempDir(), "uid")
	}
	client, err := kube.New(kube.Config{
		Kubeconfig: from.kubeconfig, UIDFile: from.uidFile, Component: "test", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	sink := newRecorder()
	cfg := KubernetesConfig{Client: client, Sink: sink, Logger: slog.New(slog.DiscardHandler)}
	if from.registry != nil {
		cfg.Registerer = from.registry
	}
	return startReader(t, sink, NewKubernetes(cfg))
}

// inNamespace returns the names of the sink's objects in a namespace.
func (r *run) inNamespace(namespace string) []string {
	return slices.DeleteFunc(r.names(), func(name string) bool { return !strings.Contains(name, " "+namespace+"/") })
}

func (r *run) untilIn(namespace string, want ...string) {
	r.t.Helper()
	slices.Sort(want)
	r.until(fmt.Sprintf("%v in %s", want, namespace), func() bool { return slices.Equal(r.inNamespace(namespace), want) })
}

func apply(t *testing.T, plane *kubelab.ControlPlane, manifest string) {
	t.Helper()
	if err := plane.Apply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
}

func kubectl(t *testing.T, plane *kubelab.ControlPlane, args ...string) {
	t.Helper()
	if _, err := plane.Kubectl(t.Context(), "", args...); err != nil {
		t.Fatal(err)
	}
}

// newNamespace makes a namespace that no other test or run of this one has.
func newNamespace(t *testing.T, plane *kubelab.ControlPlane, stem string) string {
	t.Helper()
	name := fmt.Sprintf("%s-%08x", stem, rand.Uint32())
	apply(t, plane, namespace(name))
	return name
}

// podIn is a manifest of a Pod.
func podIn(ns, name string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {app: web}, annotations: {large: x}}\n"+
		"spec:\n  nodeName: none\n  containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]\n", name, ns)
}

// TestKubernetesFollows checks what a sink is given of a real API server: whole
// kinds first, then each change, reduced to what the mesh looks at.
func TestKubernetesFollows(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	ns := newNamespace(t, plane, "follows")
	apply(t, plane, podIn(ns, "web-0")+strings.ReplaceAll(`---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: NAME, annotations: {causeway.io/global: "true"}}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: NAME, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints: [{addresses: [10.200.0.5], conditions: {ready: true}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-mirrored, namespace: NAME, labels: {kubernetes.io/service-name: web, endpointslice.kubernetes.io/managed-by: causeway.io}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints: [{addresses: [10.9.0.5], conditions: {ready: true}}]
---
apiVersion: v1
kind: Node
metadata: {name: NAME, labels: {zone: a}}
spec: {podCIDR: 10.200.0.0/24, podCIDRs: [10.200.0.0/24]}
`, "NAME", ns))
	registry := prometheus.NewRegistry()
	r := startKubernetes(t, apiSource{kubeconfig: plane.Kubeconfig(), registry: registry})
	r.untilComplete()
	r.untilIn(ns, "EndpointSlice "+ns+"/web-1", "Pod "+ns+"/web-0", "Service "+ns+"/web")
	if got := kindsOf(r.take(), ns); len(got) < 5 || !slices.IsSorted(got) {
		t.Errorf("the first objects come in the order of kinds %v", got)
	}
	pod := r.get("Pod " + ns + "/web-0").(*corev1.Pod)
	if diff := cmp.Diff([]corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}}}}, pod.Spec.Containers); diff != "" {
		t.Errorf("containers (-want +got):\n%s", diff)
	}
	if len(pod.Annotations)+len(pod.ManagedFields)+len(pod.ResourceVersion) > 0 || pod.UID == "" || pod.CreationTimestamp.IsZero() {
		t.Errorf("a pod has too much or too little of its metadata: %+v", pod.ObjectMeta)
	}
	service := r.get("Service " + ns + "/web").(*corev1.Service)
	if service.Spec.ClusterIP == "" || service.Annotations["causeway.io/global"] != "true" {
		t.Errorf("service %+v", service)
	}
	if node := r.get("Node " + ns).(*corev1.Node); !slices.Equal(node.Spec.PodCIDRs, []string{"10.200.0.0/24"}) || node.Labels["zone"] != "a" {
		t.Errorf("node %+v", node)
	}
	if s := r.get("EndpointSlice " + ns + "/web-1").(*discoveryv1.EndpointSlice); s.Endpoints[0].Addresses[0] != "10.200.0.5" {
		t.Errorf("slice %+v", s)
	}

	kubectl(t, plane, "patch", "pod", "-n", ns, "web-0", "--subresource=status", "--type=merge", "-p", `{"status":{"phase":"Running","podIP":"10.200.0.5","podIPs":[{"ip":"10.200.0.5"}]}}`)
	r.until("the pod's address", func() bool { return r.get("Pod "+ns+"/web-0").(*corev1.Pod).Status.PodIP == "10.200.0.5" })
	kubectl(t, plane, "delete", "service", "-n", ns, "web")
	kubectl(t, plane, "delete", "pod", "-n", ns, "web-0", "--grace-period=0", "--force")
	r.untilIn(ns, "EndpointSlice "+ns+"/web-1")
	if problems := r.Problems(); len(problems) > 0 {
		t.Errorf("problems %v", problems)
	}
	expectSynced(t, registry, 5)
}

// kindsOf returns the places of the kinds of those recorded changes that name
// something: other tests have objects, too.
func kindsOf(changes []string, something string) []int {
	var places []int
	for _, c := range changes {
		if !strings.Contains(c, something) {
			continue
		}
		kind, _, _ := strings.Cut(strings.TrimLeft(c, "+-"), " ")
		places = append(places, slices.Index(Kinds(), Kind(kind)))
	}
	return places
}

// expectSynced checks for how many kinds the metrics say that they are followed.
func expectSynced(t *testing.T, registry *prometheus.Registry, want int) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := 0.0
	for _, f := range families {
		if f.GetName() == "causeway_source_synced" {
			for _, m := range f.GetMetric() {
				got += m.GetGauge().GetValue()
			}
		}
	}
	if got != float64(want) {
		t.Errorf("causeway_source_synced is 1 for %v kinds, want %d", got, want)
	}
}

// TestKubernetesForbidden checks that a source that may not read one kind gives
// nothing of the others, says which rule is missing, and goes on once it is there.
func TestKubernetesForbidden(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	ns := newNamespace(t, plane, "forbidden") // and the name of the user and the role
	role := func(slices string) string {
		return strings.ReplaceAll(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: NAME}
rules:
- {apiGroups: [""], resources: [namespaces, nodes, pods, services], verbs: [list, watch]}
`+slices+`---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: NAME}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: NAME}
subjects: [{kind: User, name: NAME}]
`, "NAME", ns)
	}
	apply(t, plane, podIn(ns, "web-0")+"---\n"+role(""))
	registry := prometheus.NewRegistry()
	r := startKubernetes(t, apiSource{kubeconfig: impersonate(t, plane.Kubeconfig(), ns), registry: registry})
	problem := r.untilProblem("endpointslices", `User "`+ns+`" cannot watch resource "endpointslices"`,
		`rule apiGroups: ["discovery.k8s.io"], resources: ["endpointslices"], verbs: [list, watch]`, "nothing is published or withdrawn")
	r.until("the other kinds", func() bool { return len(r.Problems()) == 1 && r.Problems()[0] == problem })
	if names := r.names(); len(names) > 0 || r.isComplete() {
		t.Fatalf("the sink was given %v, complete %v, before all kinds were read", names, r.isComplete())
	}
	apply(t, plane, role("- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}\n"))
	r.untilComplete()
	r.untilIn(ns, "Pod "+ns+"/web-0")
	r.untilNoProblem()
	expectSynced(t, registry, 5)
}

// impersonate returns a kubeconfig that acts as another user.
func impersonate(t *testing.T, kubeconfig, user string) string {
	t.Helper()
	text, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	const at = ", user: {"
	if strings.Count(string(text), at) == 0 {
		t.Fatalf("no user's block in:\n%s", text)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), at, at+"as: "+user+", ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestKubernetesOtherCluster checks that another cluster's API server empties
// nothing.
func TestKubernetesOtherCluster(t *testing.T) {
	t.Parallel()
	plane := planes.Start(t)
	file := filepath.Join(t.TempDir(), "uid")
	if err := os.WriteFile(file, []byte("0a0b0c0d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startKubernetes(t, apiSource{kubeconfig: plane.Kubeconfig(), uidFile: file})
	r.untilProblem("namespaces, nodes, pods, services, endpointslices", "another cluster", "0a0b0c0d", file)
	if names := r.names(); len(names) > 0 || r.isComplete() {
		t.Errorf("the sink was given %v of another cluster, complete %v", names, r.isComplete())
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r = startKubernetes(t, apiSource{kubeconfig: plane.Kubeconfig(), uidFile: file})
	r.untilComplete()
	uid, err := plane.Kubectl(t.Context(), "", "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(text)) != uid {
		t.Errorf("kept %q (%v), want %q", text, err, uid)
	}
}
