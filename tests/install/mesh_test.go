package install

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/tests/kubelab"
)

// contexts are those of both clusters.
const contexts = "kind-east,kind-west"

// journey is what is done with two clusters, from nothing to nothing, twice.
type journey struct {
	east, west *site
	config     string
}

// TestMesh takes two clusters through all that is done with them by the command line.
// Each step needs those before it.
func TestMesh(t *testing.T) {
	t.Parallel()
	kubelab.RequireNode(t)
	j := &journey{east: newSite(t, "east", 0), west: newSite(t, "west", 1)}
	kubelab.JoinNodes(t, j.east.node, j.west.node)
	j.config = kubeconfig(t, map[string]*kubelab.ControlPlane{"kind-east": j.east.plane, "kind-west": j.west.plane})
	for _, step := range []struct {
		name string
		do   func(*testing.T)
	}{
		{"look", j.look},
		{"up", j.up},
		{"share", j.share},
		{"upgrade", j.upgrade},
		{"broken upgrade", j.brokenUpgrade},
		{"keep data", j.keepData},
		{"uninstall", j.uninstall},
		{"install", j.install},
		{"connect", j.connect},
	} {
		begun := time.Now()
		ok := t.Run(step.name, func(t *testing.T) {
			step.do(t)
			t.Logf("%s: %s", step.name, time.Since(begun).Round(100*time.Millisecond))
		})
		if !ok {
			t.FailNow()
		}
	}
}

// on runs the command line for one cluster, with a time to wait; it must succeed.
func (j *journey) on(t *testing.T, context, command string, args ...string) string {
	t.Helper()
	return causeway(t, j.args(context, command, args...)...)
}

func (j *journey) args(context, command string, args ...string) []string {
	return append([]string{command, "--kubeconfig", j.config, "--context", context}, args...)
}

// uninstall leaves nothing behind.
func (j *journey) uninstall(t *testing.T) {
	before := j.everything(t, "generation")
	said := causeway(t, "uninstall", "--kubeconfig", j.config, "--contexts", contexts, "--dry-run")
	says(t, said, "- StatefulSet causeway-system/clustermesh-apiserver", "Secrets causeway-state")
	if diff := cmp.Diff(before, j.everything(t, "generation")); diff != "" {
		t.Errorf("what was only shown changed something:\n%s", diff)
	}
	causeway(t, "uninstall", "--kubeconfig", j.config, "--contexts", contexts, "--timeout", patience.String())
	j.nothing(t)
}

// nothing holds that nothing of Causeway is in the Kubernetes API and on the nodes.
func (j *journey) nothing(t *testing.T) {
	t.Helper()
	for name, s := range map[string]*site{"east": j.east, "west": j.west} {
		if left := objects(t, s.plane); left != "" {
			t.Errorf("left in the API of %s:\n%s", name, left)
		}
		if left := s.kernel(t); left != "" {
			t.Errorf("left in the kernel of the node of %s:\n%s", name, left)
		}
	}
}

// joined holds that all is ready and either cluster reads the other.
func (j *journey) joined(t *testing.T) {
	t.Helper()
	for context, want := range map[string]string{"kind-east": `(?s)Cluster east, id 1 .*\nwest +2 +synced .*Ready\.`, "kind-west": `(?s)Cluster west, id 2 .*\neast +1 +synced .*Ready\.`} {
		// Who is joined from elsewhere begins to read by itself.
		for limit := time.Now().Add(patience); ; {
			said, err := start(t, j.args(context, "status", "--wait")...).wait(t)
			if err == nil && regexp.MustCompile(want).MatchString(said) {
				break
			}
			if time.Now().After(limit) {
				t.Fatalf("not joined: %v:\n%s", err, said)
			}
		}
	}
}

// objects returns what there is of Causeway in the Kubernetes API.
func objects(t *testing.T, plane *kubelab.ControlPlane) string {
	t.Helper()
	var ours []string
	for _, line := range listing(t, plane, "") {
		if strings.Contains(line, "causeway") {
			ours = append(ours, line)
		}
	}
	return strings.Join(ours, "\n")
}

// everything returns what there is in both clusters, with one field of the metadata.
func (j *journey) everything(t *testing.T, field string) (all []string) {
	t.Helper()
	for cluster, s := range map[string]*site{"east": j.east, "west": j.west} {
		for _, line := range listing(t, s.plane, field) {
			all = append(all, cluster+" "+line)
		}
	}
	slices.Sort(all)
	return all
}

// moving are kinds that change by themselves, or follow others by and by.
const moving = "events events.events.k8s.io leases.coordination.k8s.io nodes componentstatuses apiservices.apiregistration.k8s.io endpoints"

// listing returns all objects of a cluster, sorted, with one field of the metadata.
func listing(t *testing.T, plane *kubelab.ControlPlane, field string) []string {
	t.Helper()
	kubectl := func(args ...string) string {
		text, err := plane.Kubectl(t.Context(), "", args...)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	var kinds []string
	for kind := range strings.FieldsSeq(kubectl("api-resources", "--verbs=list", "--output=name")) {
		if !slices.Contains(strings.Fields(moving), kind) {
			kinds = append(kinds, kind)
		}
	}
	form := `jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.` + field + `}{"\n"}{end}`
	if field == "" {
		form = `jsonpath={range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name}{"\n"}{end}`
	}
	lines := strings.Split(strings.TrimSpace(kubectl("get", strings.Join(kinds, ","), "--all-namespaces", "--output", form)), "\n")
	slices.Sort(lines)
	return lines
}
