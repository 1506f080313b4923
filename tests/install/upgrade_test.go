package install

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// upgrade changes one value of east, and nothing else.
func (j *journey) upgrade(t *testing.T) {
	upgrade := j.args("kind-east", "upgrade", "--timeout", patience.String(), "--set", "apiServer.resources.requests.cpu=20m")
	const change = "StatefulSet causeway-system/clustermesh-apiserver: spec.template.spec.containers[clustermesh-apiserver].resources.requests.cpu: 10m becomes 20m"
	args := j.east.arguments(t)
	before := j.everything(t, "generation")
	shown := causeway(t, append(upgrade, "--dry-run")...)
	says(t, shown, change)
	if strings.Count(shown, "~ ") != 1 {
		t.Errorf("one value is to change, and it says:\n%s", shown)
	}
	if diff := cmp.Diff(before, j.everything(t, "generation")); diff != "" {
		t.Errorf("what was only shown changed something:\n%s", diff)
	}
	says(t, causeway(t, upgrade...), change)
	says(t, causeway(t, upgrade...), "is as it should be")
	if diff := cmp.Diff(args, j.east.arguments(t)); diff != "" {
		t.Errorf("values that were given before:\n%s", diff)
	}
	j.joined(t)
}

// arguments are those of the daemons.
func (s *site) arguments(t *testing.T) string {
	t.Helper()
	return s.kubectl(t, "get", "statefulsets,daemonsets", "--namespace=causeway-system", "--output",
		`jsonpath={range .items[*]}{.spec.template.spec.containers[*].args}{"\n"}{end}`)
}

// brokenUpgrade takes east to images that nobody has: what serves goes on, and the same
// command with others brings all back.
func (j *journey) brokenUpgrade(t *testing.T) {
	const missing = "localhost/causeway/missing:none"
	kept := j.east.state(t)
	agents := j.args("kind-east", "upgrade", "--timeout", "5s", "--node-agent-image", missing)
	refused(t, []string{"no agents on all nodes within 5s: 0 of 1 ready", "image " + missing + " is not to be had", "causeway upgrade --context kind-east"}, agents...)
	server := j.args("kind-east", "upgrade", "--timeout", "5s", "--api-server-image", missing)
	refused(t, []string{"no API server within 5s: pod clustermesh-apiserver-0 on east-1: image " + missing + " is not to be had", "causeway upgrade --context kind-east"}, server...)
	refused(t, []string{"no pod of the API server runs", missing}, j.args("kind-east", "status")...)
	j.asks(t)
	j.on(t, "kind-east", "upgrade", "--timeout", patience.String(), "--api-server-image", apiServerImage, "--node-agent-image", nodeAgentImage)
	j.joined(t)
	j.asks(t)
	j.east.keeps(t, kept)
}
