package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// journey is one mesh from nothing to nothing.
type journey struct {
	t    *testing.T
	bed  *Bed
	mesh *Mesh
	// before is what each node had before Causeway came, by its name.
	before  map[string]string
	figures figures
}

// TestMesh takes two clusters that know nothing of each other through all that is
// done with a mesh in its life. Each step needs those before it.
func TestMesh(t *testing.T) {
	j := &journey{t: t, bed: Start(t)}
	type step struct {
		name string
		do   func(context.Context)
	}
	steps := []step{
		{"without a mesh", j.alone},
		{"up", j.up},
		{"annotation", j.annotation},
		{"everybody asks", j.everybodyAsks},
		{"none and many", j.noneAndMany},
		{"pods come", j.podsCome},
		{"roll", j.roll},
		{"disconnect", j.disconnect},
		{"uninstall", j.uninstall},
		{"upgrade", j.upgrade},
		{"a node leaves", j.nodeLeaves},
	}
	if os.Getenv("CLUSTERS") == "3" {
		steps = append(steps, step{"a cluster comes", j.clusterComes})
	}
	for _, step := range steps {
		begun := time.Now()
		ok := t.Run(step.name, func(t *testing.T) {
			j.t = t
			step.do(t.Context())
			t.Logf("%s: %s", step.name, time.Since(begun).Round(100*time.Millisecond))
		})
		if !ok {
			t.FailNow()
		}
	}
	j.t = t
	j.must(j.figures.write())
}

func (j *journey) must(err error) {
	j.t.Helper()
	if err != nil {
		j.t.Fatal(err)
	}
}

// causeway runs the command line, which must do it.
func (j *journey) causeway(ctx context.Context, args ...string) string {
	j.t.Helper()
	out, err := j.mesh.Causeway(ctx, args...)
	j.must(err)
	return out
}

// kubectl runs it against a cluster, which must do it.
func (j *journey) kubectl(ctx context.Context, c *Cluster, args ...string) string {
	j.t.Helper()
	out, err := c.Kubectl(ctx, args...)
	j.must(err)
	return out
}

// contexts are those of all clusters, as the command line takes them.
func (j *journey) contexts() string {
	var names []string
	for _, c := range j.bed.Clusters() {
		names = append(names, c.Context())
	}
	return strings.Join(names, ",")
}

// alone holds the clusters themselves: a pod of each asks a service of its own
// cluster by name, on both nodes, and none reaches the other cluster's pods.
func (j *journey) alone(ctx context.Context) {
	begun := time.Now()
	j.must(j.bed.each(func(c *Cluster) error { return deployWeb(ctx, c, c.Name+"-worker") }))
	j.figures.PodsStart = time.Since(begun).Seconds()
	j.must(j.bed.each(func(c *Cluster) error { return giveStorage(ctx, c) }))
	for _, c := range j.bed.Clusters() {
		j.only(ctx, c, c.Name)
	}
	address := j.kubectl(ctx, j.bed.West(), "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}")
	if answers, err := ask(ctx, j.bed.East(), "client", address+":8080", 1); err == nil {
		j.t.Errorf("without the mesh a pod of east reached one of west: %v", answers)
	}
	j.before = j.onNodes(ctx)
}

// up is what docs/installation.md says, from nothing.
func (j *journey) up(ctx context.Context) {
	root, err := repository()
	j.must(err)
	j.mesh, err = j.bed.BuildMesh(ctx, root, "test")
	j.must(err)
	begun := time.Now()
	said := j.causeway(ctx, "up", "--contexts", j.contexts(), "--images", j.mesh.Images)
	j.figures.Up = time.Since(begun).Seconds()
	j.t.Log(said)
	for _, c := range j.bed.Clusters() {
		if status := j.causeway(ctx, "status", "--context", c.Context()); !strings.Contains(status, "Ready.") {
			j.t.Errorf("up has ended, and %s says:\n%s", c.Name, status)
		}
	}
}

// everybodyAsks asks by name from pods and from pods of the nodes' network, and from
// the nodes themselves.
func (j *journey) everybodyAsks(ctx context.Context) {
	for _, c := range j.bed.Clusters() {
		pods := j.kubectl(ctx, c, "get", "pods", "-l", "app in (client, host)", "-o", `jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}`)
		for pod := range strings.FieldsSeq(pods) {
			j.all(ctx, c, pod)
		}
		address := j.kubectl(ctx, c, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
		nodes, err := c.Nodes(ctx)
		j.must(err)
		for _, node := range nodes {
			err := await(ctx, patience, func(ctx context.Context) error { return askFromNode(ctx, c, node.Name, address) })
			if err != nil {
				j.t.Errorf("node %s: %v", node.Name, err)
			}
		}
	}
}

// all waits until a pod gets answers of all clusters, by the service's name.
func (j *journey) all(ctx context.Context, c *Cluster, pod string) {
	j.t.Helper()
	err := await(ctx, patience, func(ctx context.Context) error {
		got, err := ask(ctx, c, pod, webName, 40)
		if err == nil && len(got) < len(j.bed.Clusters()) {
			err = fmt.Errorf("40 requests were answered by %v", got)
		}
		return err
	})
	if err != nil {
		j.t.Errorf("%s of %s: %v", pod, c.Name, err)
	}
}

// only waits until one cluster alone answers the client of another.
func (j *journey) only(ctx context.Context, c *Cluster, want string) {
	j.t.Helper()
	err := await(ctx, patience, func(ctx context.Context) error {
		got, err := ask(ctx, c, "client", webName, 40)
		if err == nil && got[want] != 40 {
			err = fmt.Errorf("40 requests were answered by %v, want %s alone", got, want)
		}
		return err
	})
	if err != nil {
		j.t.Errorf("the client of %s: %v", c.Name, err)
	}
}

// askFromNode fails unless both clusters answer a node within some requests.
func askFromNode(ctx context.Context, c *Cluster, node, address string) error {
	out, err := c.OnNode(ctx, node, "sh", "-ec", "for i in $(seq 40); do curl -sS --max-time 5 http://"+address+"/; done")
	if err != nil {
		return err
	}
	for _, name := range []string{"east", "west"} {
		if !strings.Contains(out, `"cluster":"`+name+`"`) {
			return fmt.Errorf("40 requests had no answer of %s: %s", name, tail(out, 3))
		}
	}
	return nil
}

// noneAndMany takes all backends of east away, and then makes many of them.
func (j *journey) noneAndMany(ctx context.Context) {
	east, west := j.bed.East(), j.bed.West()
	const many = 20
	scale := func(n int) {
		j.t.Helper()
		j.kubectl(ctx, east, "scale", "deployment/web", "--replicas", strconv.Itoa(n))
		j.kubectl(ctx, east, "rollout", "status", "deployment/web", "--timeout=5m")
	}
	scale(0)
	j.only(ctx, east, "west")
	j.only(ctx, west, "west")
	scale(many)
	err := await(ctx, patience, func(ctx context.Context) error {
		results, err := exchange(ctx, west, "client", webName, 20*many)
		pods := map[string]bool{}
		for _, r := range results {
			if r.Cluster == "east" {
				pods[r.Pod] = true
			}
		}
		if err == nil && len(pods) != many {
			err = fmt.Errorf("of %d pods of east %d answered", many, len(pods))
		}
		return err
	})
	if err != nil {
		j.t.Errorf("a pod of west: %v", err)
	}
	scale(2)
}

// disconnect ends what was joined: each cluster asks its own pods again.
func (j *journey) disconnect(ctx context.Context) {
	j.causeway(ctx, "disconnect", "west", "--context", j.bed.East().Context())
	j.causeway(ctx, "disconnect", "east", "--context", j.bed.West().Context())
	for _, c := range j.bed.Clusters() {
		j.only(ctx, c, c.Name)
	}
}

// nodeLeaves takes a node of east out, with what runs there.
func (j *journey) nodeLeaves(ctx context.Context) {
	east, west := j.bed.East(), j.bed.West()
	const node = "east-worker"
	nodes, err := east.Nodes(ctx)
	j.must(err)
	address := nodes[slices.IndexFunc(nodes, func(n Node) bool { return n.Name == node })].Address
	if reached := j.causeway(ctx, "peers", "east", "--context", west.Context()); !strings.Contains(reached, "https://"+address+":") {
		j.t.Fatalf("west does not know the gateway by the node %s at %s:\n%s", node, address, reached)
	}
	j.kubectl(ctx, east, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=3m")
	j.kubectl(ctx, east, "delete", "node", node)
	_, err = j.bed.docker(ctx, "rm", "--force", "--volumes", node)
	j.must(err)
	j.must(deployWeb(ctx, east, "east-control-plane"))
	j.all(ctx, east, "client")
	j.all(ctx, west, "client")
	err = await(ctx, patience, func(ctx context.Context) error {
		status, err := j.mesh.Causeway(ctx, "status", "--context", east.Context())
		if err == nil && (strings.Contains(status, node) || !strings.Contains(status, "Ready.")) {
			err = fmt.Errorf("status says:\n%s", status)
		}
		return err
	})
	j.must(err)
	err = await(ctx, patience, func(ctx context.Context) error {
		reached, err := j.mesh.Causeway(ctx, "peers", "east", "--context", west.Context())
		if err == nil && strings.Contains(reached, "https://"+address+":") {
			err = fmt.Errorf("west still knows the gateway by the node %s, which is gone:\n%s", node, reached)
		}
		return err
	})
	j.must(err)
}

// clusterComes has a third cluster join the two, by the command that made them a mesh.
func (j *journey) clusterComes(ctx context.Context) {
	j.must(j.bed.AddNorth(ctx, j.mesh.Images))
	north := j.bed.North()
	j.must(deployWeb(ctx, north, "north-control-plane"))
	j.kubectl(ctx, north, "annotate", "service", "web", "causeway.io/global=true")
	j.t.Log(j.causeway(ctx, "up", "--contexts", j.contexts(), "--images", j.mesh.Images))
	for _, c := range j.bed.Clusters() {
		j.all(ctx, c, "client")
	}
}

// writeOut keeps a file for people below out/.
func writeOut(name string, value any) error {
	root, err := repository()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(root, "out", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}
