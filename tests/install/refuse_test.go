package install

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// readyNode is a node of which nobody runs anything: nothing gets ready there.
const readyNode = `apiVersion: v1
kind: Node
metadata: {name: paper, labels: {kubernetes.io/os: linux}}
`

const nodeStatus = `{"status":{"conditions":[{"type":"Ready","status":"True"}],"addresses":[{"type":"InternalIP","address":"10.77.9.9"}]}}`

// paper returns a control plane whose node is on paper alone.
func paper(t *testing.T) *kubelab.ControlPlane {
	t.Helper()
	plane := shared.Start(t)
	if err := plane.Apply(t.Context(), readyNode); err != nil {
		t.Fatal(err)
	}
	if _, err := plane.Kubectl(t.Context(), "", "patch", "node", "paper", "--subresource=status", "--type=merge", "-p", nodeStatus); err != nil {
		t.Fatal(err)
	}
	return plane
}

// TestImages holds what is said of an archive that is not what --images takes.
func TestImages(t *testing.T) {
	plane := shared.Start(t)
	config := kubeconfig(t, map[string]*kubelab.ControlPlane{"kind-east": plane})
	notes := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(notes, []byte(strings.Repeat("no archive\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := listing(t, plane, "resourceVersion")
	for _, test := range []struct {
		file string
		want []string
	}{
		{"/nowhere/images.tar", []string{"--images /nowhere/images.tar: no such file or directory: give the archive that `make images` writes"}},
		{notes, []string{"--images " + notes + ": it is no archive of images ", "`make images`"}},
		{archive(t, echoImage), []string{"it has no image of clustermesh-apiserver and of node-agent, but localhost/causeway/echo:test: give"}},
		{archive(t, apiServerImage, echoImage), []string{"it has no image of node-agent, but localhost/causeway/clustermesh-apiserver:test, localhost/causeway/echo:test: give"}},
	} {
		for _, command := range [][]string{{"up", "--contexts", "kind-east"}, {"install", "--context", "kind-east", "--cluster-name", "east", "--cluster-id", "1"}} {
			refused(t, test.want, append(command, "--kubeconfig", config, "--images", test.file)...)
		}
	}
	refused(t, []string{"--image and --images", "give one of them"}, "install", "--kubeconfig", config, "--context", "kind-east", "--image", "a/b:c", "--images", notes)
	if diff := cmp.Diff(before, listing(t, plane, "resourceVersion")); diff != "" {
		t.Errorf("what was refused changed something:\n%s", diff)
	}
}

// limited writes a kubeconfig of a user with no rights but those of the role limited.
func limited(t *testing.T, plane *kubelab.ControlPlane) string {
	t.Helper()
	text, err := plane.Kubectl(t.Context(), "", "config", "view", "--raw", "--minify")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text = strings.Replace(text, "user: lab\n  name: lab", "user: limited\n  name: kind-east", 1)
	token, err := plane.Kubectl(t.Context(), "", "create", "token", "default", "--namespace=default")
	if err != nil {
		t.Fatal(err)
	}
	users := strings.Index(text, "users:")
	text = strings.Replace(text[:users], "current-context: lab", "current-context: kind-east", 1) +
		"users: [{name: limited, user: {token: " + strings.TrimSpace(token) + "}}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// rules are those of roles, by namespace; "" for the cluster.
type rules map[string][]string

// rulesOf makes rules of what an error says that a user may not do.
func rulesOf(t *testing.T, said string) rules {
	t.Helper()
	_, list, _ := strings.Cut(said, " may not ")
	list, _, ok := strings.Cut(list, ": ask for these rights")
	if !ok {
		t.Fatalf("it names no rights:\n%s", said)
	}
	all := rules{}
	for one := range strings.SplitSeq(list, "; ") {
		what, space, _ := strings.Cut(one, " in ")
		verbs, kind, ok := strings.Cut(what, " ")
		if !ok {
			t.Fatalf("%q is no right", one)
		}
		kind, sub, _ := strings.Cut(kind, "/")
		resource, group, _ := strings.Cut(kind, ".")
		if sub != "" {
			resource += "/" + sub
		}
		all[space] = append(all[space], fmt.Sprintf("{apiGroups: [%q], resources: [%q], verbs: [%s]}", group, resource, verbs))
	}
	return all
}

// grant gives the account of limited these rights, as roles with this name.
func grant(t *testing.T, plane *kubelab.ControlPlane, name string, all rules) {
	t.Helper()
	for space, list := range all {
		kind, meta := "ClusterRole", "{name: "+name+"}"
		if space != "" {
			kind, meta = "Role", "{name: "+name+", namespace: "+space+"}"
		}
		manifest := "apiVersion: rbac.authorization.k8s.io/v1\nkind: " + kind + "\nmetadata: " + meta + "\nrules: [" + strings.Join(list, ", ") + `]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ` + kind + `Binding
metadata: ` + meta + `
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ` + kind + `, name: ` + name + `}
subjects: [{kind: ServiceAccount, name: default, namespace: default}]
`
		if err := plane.Apply(t.Context(), manifest); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRights holds that a user who lacks rights hears at once which, before anything
// changes; and that these are all that it takes.
func TestRights(t *testing.T) {
	plane := paper(t)
	config := limited(t, plane)
	install := []string{
		"install", "--kubeconfig", config, "--context", "kind-east", "--cluster-name", "east", "--cluster-id", "1", "--timeout", "1s",
		"--api-server-image", apiServerImage, "--node-agent-image", nodeAgentImage, "--set", "etcd.mode=memory",
	}
	up := append([]string{"up", "--contexts", "kind-east"}, install[1:3]...)
	up = append(up, "--api-server-image", apiServerImage, "--node-agent-image", nodeAgentImage)
	before := listing(t, plane, "resourceVersion")
	want := []string{
		"the user of context kind-east may not list nodes; ", "; get,create namespaces: ask", "; get,create,patch,delete daemonsets.apps in causeway-system; ",
		"; create pods/portforward in causeway-system; ", "ask for these rights, or take another context",
	}
	said := refused(t, want, install...)
	refused(t, append(want, "nothing was changed"), up...)
	for _, command := range []string{"upgrade", "uninstall"} {
		refused(t, []string{"kind-east: the user of context kind-east may not list nodes; "}, command, "--kubeconfig", config, "--context", "kind-east")
	}
	if diff := cmp.Diff(before, listing(t, plane, "resourceVersion")); diff != "" {
		t.Errorf("what was refused changed something:\n%s", diff)
	}

	// In a namespace that somebody made no right to make one is needed.
	if _, err := plane.Kubectl(t.Context(), "", "create", "namespace", "causeway-system"); err != nil {
		t.Fatal(err)
	}
	all := rulesOf(t, said)
	some := maps.Clone(all)
	some["causeway-system"] = slices.DeleteFunc(slices.Clone(all["causeway-system"]), func(r string) bool { return strings.Contains(r, "daemonsets") })
	some[""] = slices.DeleteFunc(slices.Clone(all[""]), func(r string) bool { return strings.Contains(r, `"namespaces"`) })
	some[""] = append(some[""], `{apiGroups: [""], resources: [namespaces], verbs: [get]}`)
	grant(t, plane, "some", some)
	before = listing(t, plane, "resourceVersion")
	refused(t, []string{"may not get,create,patch,delete daemonsets.apps in causeway-system: ask"}, install...)
	if diff := cmp.Diff(before, listing(t, plane, "resourceVersion")); diff != "" {
		t.Errorf("what was refused changed something:\n%s", diff)
	}
	all[""] = some[""]
	grant(t, plane, "some", all)
	before = listing(t, plane, "resourceVersion")
	refused(t, []string{"may not give Causeway the rights that it needs", "escalate,bind of clusterroles and roles"}, install...)
	if diff := cmp.Diff(before, listing(t, plane, "resourceVersion")); diff != "" {
		t.Errorf("what was refused changed something:\n%s", diff)
	}
	grant(t, plane, "escalate", rules{"": {`{apiGroups: ["rbac.authorization.k8s.io"], resources: [clusterroles, roles], verbs: [escalate, bind]}`}})
	before = listing(t, plane, "")
	refused(t, []string{"release causeway of version", "no API server within 1s"}, install...)

	said = refused(t, []string{"may not delete namespaces; delete clusterroles"}, "uninstall", "--kubeconfig", config, "--context", "kind-east")
	grant(t, plane, "uninstall", rulesOf(t, said))
	if _, err := plane.Kubectl(t.Context(), "", "delete", "node", "paper"); err != nil { // which nobody cleans
		t.Fatal(err)
	}
	says(t, causeway(t, "uninstall", "--kubeconfig", config, "--context", "kind-east", "--timeout", patience.String()), "namespace causeway-system stays: somebody else made it")
	after := slices.DeleteFunc(listing(t, plane, ""), func(line string) bool { return strings.HasSuffix(line, "/uninstall") })
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("it left something, or took something away:\n%s", diff)
	}
}
