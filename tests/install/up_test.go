package install

import (
	"regexp"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// shop is a Service that both clusters have, and one has a pod for.
const shop = `apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {causeway.io/global: "true"}}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
`

const server = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {serviceAccountName: default, containers: [{name: web, image: "` + echoImage + `", imagePullPolicy: Never, args: [serve, --tcp, "8080", --pod, web, --cluster, west]}]}
`

// client asks until all of its requests are answered.
const client = `apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {serviceAccountName: default, restartPolicy: OnFailure, containers: [{name: client, image: "` + echoImage + `", imagePullPolicy: Never, args: [get, --count, "5", "ADDRESS:80"]}]}
`

// TestUp takes two clusters from nothing to one mesh, does it again, shares a Service,
// and takes all away.
func TestUp(t *testing.T) {
	t.Parallel()
	kubelab.RequireNode(t)
	east, west := newSite(t, "east", 0), newSite(t, "west", 1)
	kubelab.JoinNodes(t, east.node, west.node)
	config := kubeconfig(t, map[string]*kubelab.ControlPlane{"kind-east": east.plane, "kind-west": west.plane})
	up := []string{
		"up", "--kubeconfig", config, "--contexts", "kind-east,kind-west", "--timeout", patience.String(),
		"--api-server-image", apiServerImage, "--node-agent-image", nodeAgentImage,
	}
	for name, s := range map[string]*site{"east": east, "west": west} {
		settings := s.settings(t)
		for i := 1; i < len(settings); i += 2 {
			up = append(up, "--set", name+":"+settings[i])
		}
	}
	refused(t, []string{"nothing was changed", "10.200.0.0/16", "10.200.0.0/24"}, append(up, "--set", "west:cluster.podCIDRs={10.200.0.0/16}")...)
	refused(t, []string{`no context "nowhere"`, "kind-east, kind-west"}, "up", "--kubeconfig", config, "--contexts", "kind-east,nowhere")
	if left := objects(t, east) + objects(t, west); left != "" {
		t.Errorf("what was refused left something behind:\n%s", left)
	}
	report := causeway(t, append([]string{"preflight"}, up[1:]...)...)
	if !regexp.MustCompile(`2 nodes: \d\d findings are as they should be`).MatchString(report) || strings.Contains(report, " fail ") {
		t.Errorf("before it is installed:\n%s", report)
	}
	if left := objects(t, east) + objects(t, west) + east.kernel(t) + west.kernel(t); left != "" {
		t.Errorf("a look left something behind:\n%s", left)
	}
	said := causeway(t, up...)
	for _, want := range []string{"no StorageClass is the default", "port of the nodes", "1 node looked at: agents can run there"} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	again := causeway(t, up...)
	if strings.Contains(again, "changed") || strings.Count(again, "is as it should be") != 2 {
		t.Errorf("the second time it says:\n%s", again)
	}
	status := causeway(t, "status", "--kubeconfig", config, "--context", "kind-east", "--wait")
	for _, want := range []string{"Cluster east, id 1", "west", "Ready."} {
		if !strings.Contains(status, want) {
			t.Errorf("status does not say %q", want)
		}
	}
	shareService(t, east, west)
	before := objects(t, east)
	causeway(t, "uninstall", "--kubeconfig", config, "--contexts", "kind-east,kind-west", "--timeout", patience.String())
	for _, s := range []*site{east, west} {
		if left := objects(t, s); left != "" {
			t.Errorf("left in the API:\n%s\nbefore:\n%s", left, before)
		}
		if left := s.kernel(t); left != "" {
			t.Errorf("left in the node's kernel:\n%s", left)
		}
	}
}

// shareService has a pod of east ask a Service that only west has a pod for.
func shareService(t *testing.T, east, west *site) {
	t.Helper()
	for s, objects := range map[*site]string{east: shop, west: shop + "---\n" + server} {
		if err := s.plane.Apply(t.Context(), objects); err != nil {
			t.Fatal(err)
		}
	}
	west.kubectl(t, "wait", "--for=condition=Ready", "--namespace=shop", "pod/web", "--timeout="+patience.String())
	address := east.kubectl(t, "get", "service", "--namespace=shop", "web", "-o", "jsonpath={.spec.clusterIP}")
	if err := east.plane.Apply(t.Context(), strings.ReplaceAll(client, "ADDRESS", strings.TrimSpace(address))); err != nil {
		t.Fatal(err)
	}
	east.kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--namespace=shop", "pod/client", "--timeout="+patience.String())
	if said := east.kubectl(t, "logs", "--namespace=shop", "client"); strings.Count(said, `"west"`) < 5 {
		t.Errorf("a pod of east is answered:\n%s", said)
	}
	for _, s := range []*site{east, west} {
		s.kubectl(t, "delete", "namespace", "shop", "--wait=false")
	}
}

// objects returns what there is of Causeway in the Kubernetes API.
func objects(t *testing.T, s *site) string {
	t.Helper()
	kinds := "namespaces,serviceaccounts,secrets,configmaps,services,statefulsets,daemonsets,pods,clusterroles,clusterrolebindings,roles,rolebindings,customresourcedefinitions,persistentvolumeclaims,poddisruptionbudgets"
	var ours []string
	for line := range strings.Lines(s.kubectl(t, "get", kinds, "--all-namespaces", "--no-headers", "--ignore-not-found")) {
		if strings.Contains(line, "causeway") {
			ours = append(ours, line)
		}
	}
	return strings.Join(ours, "")
}
