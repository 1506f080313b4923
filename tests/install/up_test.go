package install

import (
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
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

// idle is a pod with an identity of its own.
const idle = `apiVersion: v1
kind: Pod
metadata: {name: idle, namespace: shop, labels: {app: idle}}
spec: {serviceAccountName: default, containers: [{name: idle, image: "` + echoImage + `", imagePullPolicy: Never, args: [serve, --tcp, "8080", --pod, idle, --cluster, east]}]}
`

// client asks until all of its requests are answered.
const client = `apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop, labels: {app: client}}
spec: {serviceAccountName: default, restartPolicy: OnFailure, containers: [{name: client, image: "` + echoImage + `", imagePullPolicy: Never, args: [get, --count, "5", "ADDRESS:80"]}]}
`

// upArgs are the command line's for both clusters.
func (j *journey) upArgs(t *testing.T) []string {
	t.Helper()
	up := []string{
		"up", "--kubeconfig", j.config, "--contexts", contexts, "--timeout", patience.String(),
		"--api-server-image", apiServerImage, "--node-agent-image", nodeAgentImage,
	}
	for name, s := range map[string]*site{"east": j.east, "west": j.west} {
		settings := s.settings(t)
		for i := 1; i < len(settings); i += 2 {
			up = append(up, "--set", name+":"+settings[i])
		}
	}
	return up
}

// look holds that what is refused, and what only looks, leaves nothing behind.
func (j *journey) look(t *testing.T) {
	up := j.upArgs(t)
	before := j.everything(t, "resourceVersion")
	refused(t, []string{"nothing was changed", "10.200.0.0/16", "10.200.0.0/24"}, append(up, "--set", "west:cluster.podCIDRs={10.200.0.0/16}")...)
	refused(t, []string{`no context "nowhere"`, "kind-east, kind-west"}, "up", "--kubeconfig", j.config, "--contexts", "kind-east,nowhere")
	said := causeway(t, append(up, "--dry-run")...)
	says(t, said, "east: would install release causeway", "west: would install release causeway",
		"+ StatefulSet causeway-system/clustermesh-apiserver", "+ DaemonSet causeway-system/node-agent", "+ ClusterRole ", "would join what is not joined yet of east, west")
	if diff := cmp.Diff(before, j.everything(t, "resourceVersion")); diff != "" {
		t.Errorf("what was refused, or only shown, changed something:\n%s", diff)
	}
	report := causeway(t, append([]string{"preflight"}, up[1:]...)...)
	if !regexp.MustCompile(`2 nodes: \d\d findings are as they should be`).MatchString(report) || strings.Contains(report, " fail ") {
		t.Errorf("before it is installed:\n%s", report)
	}
	j.nothing(t)
}

// up goes from nothing to one mesh, interrupted at three places, and does it again.
func (j *journey) up(t *testing.T) {
	up := j.upArgs(t)
	c := start(t, up...)
	c.says(t, "namespace causeway-system is made")
	j.interrupted(t, c)
	j.nothing(t)

	c = start(t, up...)
	c.says(t, "release causeway of version")
	j.interrupted(t, c)

	c = start(t, up...)
	c.says(t, "2 clusters fit together")
	j.interrupted(t, c)

	said := causeway(t, up...)
	if strings.Contains(said, " becomes ") || strings.Count(said, "is as it should be") != 2 {
		t.Errorf("what was applied is not left alone:\n%s", said)
	}
	again := causeway(t, up...)
	if strings.Contains(again, "changed") || strings.Count(again, "is as it should be") != 2 || !strings.Contains(again, "read each other already") {
		t.Errorf("the second time it says:\n%s", again)
	}
	j.joined(t)
}

// interrupted ends a command by Ctrl-C, which says what to do, and nothing of requests.
func (*journey) interrupted(t *testing.T, c *command) {
	t.Helper()
	said := c.interrupt(t, syscall.SIGINT)
	says(t, said, "causeway: broken off: the same command goes on from here")
	if strings.Contains(said, "cancel") {
		t.Errorf("what a person cannot know:\n%s", said)
	}
}

// share has a pod of east ask a Service that only west has a pod for.
func (j *journey) share(t *testing.T) {
	for s, objects := range map[*site]string{j.east: shop + "---\n" + idle, j.west: shop + "---\n" + server} {
		if err := s.plane.Apply(t.Context(), objects); err != nil {
			t.Fatal(err)
		}
	}
	j.west.kubectl(t, "wait", "--for=condition=Ready", "--namespace=shop", "pod/web", "--timeout="+patience.String())
	if err := j.east.plane.Apply(t.Context(), strings.ReplaceAll(client, "ADDRESS", j.address(t))); err != nil {
		t.Fatal(err)
	}
	j.east.kubectl(t, "wait", "--for=jsonpath={.status.phase}=Succeeded", "--namespace=shop", "pod/client", "--timeout="+patience.String())
	if said := j.east.kubectl(t, "logs", "--namespace=shop", "client"); strings.Count(said, `"west"`) < 5 {
		t.Errorf("a pod of east is answered:\n%s", said)
	}
}

func (j *journey) address(t *testing.T) string {
	t.Helper()
	return strings.TrimSpace(j.east.kubectl(t, "get", "service", "--namespace=shop", "web", "-o", "jsonpath={.spec.clusterIP}"))
}

// asks has a pod that east has had before ask the shop's Service, which west must answer.
func (j *journey) asks(t *testing.T) {
	t.Helper()
	said := j.east.kubectl(t, "exec", "--namespace=shop", "idle", "--", "/echo", "get", "--count", "5", j.address(t)+":80")
	if strings.Count(said, `"west"`) < 5 {
		t.Errorf("a pod of east is answered:\n%s", said)
	}
}
