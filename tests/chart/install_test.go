package chart

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"sigs.k8s.io/yaml"

	"github.com/causeway-mesh/causeway/deploy/oci"
	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// images builds our daemons as `make images` does, and the pause image beside them.
func images(t *testing.T) []oci.Image {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "../../clustermesh-apiserver", "../../node-agent", "../echo")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the daemons: %v:\n%s", err, text)
	}
	image := func(name, program, user string, args ...string) oci.Image {
		return oci.Image{Name: name, Program: filepath.Join(dir, program), User: user, Args: args, Architecture: runtime.GOARCH}
	}
	return []oci.Image{
		image(kubelab.PauseImage, "echo", "", "serve"),
		image("localhost/causeway/clustermesh-apiserver:1", "clustermesh-apiserver", "65532:65532"),
		image("localhost/causeway/node-agent:1", "node-agent", ""),
	}
}

// installed is the chart on a node.
type installed struct {
	*rendered
	plane *kubelab.ControlPlane
	node  *kubelab.Node
	audit audit
}

// install puts the chart on a node of a control plane of its own.
func install(t *testing.T) *installed {
	t.Helper()
	kubelab.RequireNode(t)
	i := &installed{audit: newAudit(t)}
	i.plane = kubelab.Start(t, kubelab.Config{
		Controllers: append(kubelab.NodeControllers(), "statefulset-controller", "daemonset-controller"), Scheduler: true, APIServerArgs: i.audit.args(),
	})
	i.node = i.plane.StartNode(t, kubelab.NodeConfig{Name: "one", Images: images(t)})
	newNamespace(t, i.plane, namespace, "{pod-security.kubernetes.io/enforce: privileged}")
	r := mustRender(t, "images: {pullPolicy: Never}", "etcd: {mode: memory}", "probePods: {enabled: true}",
		"cluster: {meshCIDR: 10.222.0.0/16, podCIDRs: ["+kubelab.PodCIDR+"]}",
		// Only what is beneath the node's own cgroup is to be translated.
		"extraArgs: {nodeAgent: ['--cgroup-root=/run/causeway/cgroup/"+i.node.Group(t)+"', '--map-capacity=4096']}")
	i.rendered = &r
	if err := i.plane.Apply(t.Context(), r.manifest); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { i.show(t) })
	return i
}

// show says how it stands after a failure.
func (i *installed) show(t *testing.T) {
	if !t.Failed() {
		return
	}
	text, err := i.plane.Kubectl(context.Background(), "", "describe", "pods", "--namespace="+namespace)
	t.Logf("%v\n%s", err, text)
	for _, name := range i.logs("*") {
		text, err := os.ReadFile(name)
		t.Logf("%s: %v\n%s", name, err, text)
	}
}

// logs returns the files of what pods whose names begin so have said.
func (i *installed) logs(pod string) []string {
	files, _ := filepath.Glob(i.node.Path("/var/log/pods/" + namespace + "_" + pod + "*/*/*.log")) // the pattern is good
	return files
}

// ready waits until all pods of what has this kind and name are.
func (i *installed) ready(t *testing.T, what string) {
	t.Helper()
	kubelab.Until(t, what, func(ctx context.Context) error {
		_, err := i.plane.Kubectl(ctx, "", "rollout", "status", what, "--namespace="+namespace, "--timeout=20s")
		return err
	})
}

// TestInstall puts the chart on a node: API server and agent become ready, the agent
// by the token of its ServiceAccount, both with no rights but those of the chart, of
// which none is without use. An agent that starts anew goes on with its maps, and with another
// pod of the API server, which is the same to it.
func TestInstall(t *testing.T) {
	t.Parallel()
	i := install(t)
	all := []string{"statefulset/clustermesh-apiserver", "daemonset/node-agent", "daemonset/causeway-probe"}
	for _, what := range all {
		i.ready(t, what)
	}
	first := i.logs("node-agent-")
	if len(first) != 1 {
		t.Fatalf("logs of the agent: %q", first)
	}
	says(t, first[0], "certificate for the token is here", "packets on the tunnel device reach the programs")

	_, err := i.plane.Kubectl(t.Context(), "", "delete", "pods", "--namespace="+namespace, "--selector=app.kubernetes.io/name=node-agent", "--wait=false")
	if err != nil {
		t.Fatal(err)
	}
	var second string
	kubelab.Until(t, "another agent", func(context.Context) error {
		for _, name := range i.logs("node-agent-") {
			if name != first[0] {
				second = name
				return nil
			}
		}
		return errors.New("no log")
	})
	says(t, second, "the first complete state is in effect", "packets on the tunnel device reach the programs")
	if text, err := os.ReadFile(second); err != nil || strings.Contains(string(text), "new maps") || strings.Contains(string(text), "certificate for the token is here") {
		t.Errorf("the agent does not go on with what was there: %v\n%s", err, text)
	}
	i.ready(t, "daemonset/node-agent")
	i.replaceAPIServer(t)
	i.checkStatus(t)
	i.checkRights(t)
}

// replaceAPIServer has another pod take over, with nothing but what is kept in Secrets.
func (i *installed) replaceAPIServer(t *testing.T) {
	t.Helper()
	before := i.logs("clustermesh-apiserver-")
	if _, err := i.plane.Kubectl(t.Context(), "", "delete", "pod", "clustermesh-apiserver-0", "--namespace="+namespace, "--wait=false"); err != nil {
		t.Fatal(err)
	}
	var next string
	kubelab.Until(t, "another API server", func(context.Context) error {
		for _, name := range i.logs("clustermesh-apiserver-") {
			if !slices.Contains(before, name) {
				next = name
				return nil
			}
		}
		return errors.New("no log")
	})
	says(t, next, "the state is restored")
	i.ready(t, "statefulset/clustermesh-apiserver")
}

// checkStatus asks the API server as an operator does, by the Secret that it wrote.
func (i *installed) checkStatus(t *testing.T) {
	t.Helper()
	text, err := i.plane.Kubectl(t.Context(), "", "get", "secret", "causeway-admin", "--namespace="+namespace, "--output", `go-template={{index .data "admin.yaml" | base64decode}}`)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "admin.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	admin, err := pki.ReadAdmin(file)
	if err != nil {
		t.Fatal(err)
	}
	config, err := admin.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	address, err := i.plane.Kubectl(t.Context(), "", "get", "service", "clustermesh-apiserver", "--namespace="+namespace, "--output=jsonpath={.spec.clusterIP}:{.spec.ports[0].port}")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return i.node.Dial(ctx, "tcp", address) }))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	kubelab.Until(t, "the status", func(ctx context.Context) error {
		answer, err := adminpb.NewAdminClient(conn).Status(ctx, &adminpb.StatusRequest{})
		if err == nil && !answer.GetReady() {
			err = fmt.Errorf("not ready: %s", answer)
		}
		if agents := answer.GetAgents(); err == nil && (len(agents) != 1 || !agents[0].GetConnected()) {
			err = fmt.Errorf("without its agent: %s", answer)
		}
		return err
	})
}

// says waits until a log has these texts.
func says(t *testing.T, file string, texts ...string) {
	t.Helper()
	kubelab.Until(t, file, func(context.Context) error {
		log, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, text := range texts {
			if !strings.Contains(string(log), text) {
				return errors.New("does not say: " + text)
			}
		}
		return nil
	})
}

// checkRights compares what the chart lets our ServiceAccounts do with what they did.
func (i *installed) checkRights(t *testing.T) {
	t.Helper()
	uses := i.audit.uses(t)
	for _, u := range uses {
		if u.Response.Code == http.StatusForbidden {
			t.Errorf("%s may not %s %s %s/%s", u.User.Username, u.Verb, u.resource(), u.Object.Namespace, u.Object.Name)
		}
	}
	for _, object := range i.objects(t) {
		if kind := object["kind"]; kind != "ClusterRole" && kind != "Role" {
			continue
		}
		for _, r := range rulesOf(t, object) {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					if !used(uses, r, resource, verb) && !elsewhere(resource, verb) {
						t.Errorf("nobody used the right to %s %s", verb, resource)
					}
				}
			}
		}
	}
}

func rulesOf(t *testing.T, object map[string]any) []rule {
	t.Helper()
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	var role struct {
		Metadata struct {
			Namespace string `json:"namespace"`
		} `json:"metadata"`
		Rules []rule `json:"rules"`
	}
	if err := yaml.Unmarshal(text, &role); err != nil {
		t.Fatal(err)
	}
	if len(role.Rules) == 0 {
		t.Errorf("no rules in %s", text)
	}
	for i := range role.Rules {
		role.Rules[i].namespace = role.Metadata.Namespace
	}
	return role.Rules
}

func used(uses []use, r rule, resource, verb string) bool {
	for _, u := range uses {
		if r.lets(u, resource, verb) {
			return true
		}
	}
	return false
}

// elsewhere reports rights for which an installation alone shows no use: that of
// what nobody annotated yet, of other API servers, or in another's name.
func elsewhere(resource, verb string) bool {
	switch {
	case verb == "list": // of API servers that do not stream what there is
		return true
	case verb == "create" && resource != "tokenreviews": // a patch of what is not there, which is logged as a patch
		return true
	}
	// Remote backends, wrong annotations, and peers: tested with what writes them.
	written := []string{"endpointslices", "events", "clusterpeers/status"}
	return slices.Contains(written, resource) && verb != "watch"
}
