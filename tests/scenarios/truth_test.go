package scenarios

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// side is what one cluster says of a service, and whether a pod of it is ready.
type side struct {
	global, shared, pod bool
	affinity            string
}

// row is one service of the table: a side for each of the three clusters.
type row map[string]side

// members are the clusters of the table.
func members() []string { return []string{"east", "west", "north"} }

// expected is who answers clients in the cluster me, by the words of the
// documentation alone.
func (r row) expected(me string) map[string]bool {
	local, remote := map[string]bool{}, map[string]bool{}
	for name, s := range r {
		switch {
		case !s.pod:
		case name == me:
			local[name] = true
		case s.global && s.shared:
			remote[name] = true
		}
	}
	switch own := r[me]; {
	case !own.global: // left to kube-proxy, of which the lab has none
		return nil
	case own.affinity == "local" && len(local) > 0:
		return local
	case own.affinity == "remote" && len(remote) > 0:
		return remote
	}
	maps.Copy(local, remote)
	return local
}

// table is every combination of what matters to east's clients: its own
// global, affinity and pod with the others' global, shared and pod. What does
// not matter to them is filled in turn, and matters to the others' clients.
func table() []row {
	flags := []bool{true, false}
	affinities := []string{"none", "local", "remote"}
	var rows []row
	for i := range 2 * 2 * 3 * 8 * 8 {
		n := i
		pick := func() bool { b := flags[n%2]; n /= 2; return b }
		own := side{global: pick(), pod: pick()}
		west := side{global: pick(), shared: pick(), pod: pick(), affinity: affinities[i%3]}
		north := side{global: pick(), shared: pick(), pod: pick(), affinity: affinities[i/3%3]}
		own.affinity, own.shared = affinities[n], i%5 < 3
		rows = append(rows, row{"east": own, "west": west, "north": north})
	}
	return rows
}

// manifest is the service numbered i as the cluster has it. The names of the
// annotations are ours and the reference's in turn.
func (s side) manifest(i int) string {
	prefix := []string{"causeway.io", "service.cilium.io"}[i%2]
	annotations := []string{fmt.Sprintf("%s/global: %q", prefix, fmt.Sprint(s.global))}
	if !s.shared || i%3 > 0 {
		annotations = append(annotations, fmt.Sprintf("%s/shared: %q", prefix, fmt.Sprint(s.shared)))
	}
	if s.affinity != "none" || i%7 > 0 {
		annotations = append(annotations, fmt.Sprintf("%s/affinity: %s", prefix, s.affinity))
	}
	app := "web"
	if !s.pod {
		app = "idle" // its pod is not ready
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Service
metadata: {name: row-%d, namespace: shop, annotations: {%s}}
spec: {clusterIP: %[3]s, clusterIPs: [%[3]s], selector: {app: %[4]s}, ports: [{port: 80, targetPort: 8080}]}
`, i, strings.Join(annotations, ", "), address(i), app)
}

func address(i int) string { return fmt.Sprintf("10.96.%d.%d", 100+i/200, 1+i%200) }

// pods is a node with a client, a pod that is ready and one that is not.
func pods(cluster string, id int) string {
	out := fmt.Sprintf(`
apiVersion: v1
kind: Node
metadata: {name: %s-1}
spec: {podCIDRs: [10.%d.0.0/24]}
status: {addresses: [{type: InternalIP, address: 10.77.0.%[2]d}]}
`, cluster, id)
	for i, pod := range []struct{ name, ready string }{{"client", "True"}, {"web", "True"}, {"idle", "False"}} {
		out += fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: shop, labels: {app: %[1]s}}
spec: {nodeName: %s-1, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.%d.0.%d, conditions: [{type: Ready, status: %q}]}
`, pod.name, cluster, id, 10+i, pod.ready)
	}
	return out
}

// TestTruthTable asks, in each of three clusters, for a service of each
// combination of global, shared, affinity and pods; then every service becomes
// another combination, and it asks again.
func TestTruthTable(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	l := labtest.New(t)
	rows := table()
	var group errgroup.Group
	for i, name := range members() {
		c := labtest.AddCluster(t, l, name, i+1, "")
		check(t, c.WriteManifest("pods.yaml", []byte(pods(name, i+1))), writeTable(c, rows), c.Sync(ctx), refuseServices(c))
	}
	check(t, l.ConnectAll())
	for _, c := range l.Clusters() {
		group.Go(func() error { return c.Up(ctx) })
	}
	check(t, group.Wait())
	expectTable(ctx, t, l, rows)

	rows = append(slices.Clone(rows[301:]), rows[:301]...)
	for _, c := range l.Clusters() {
		check(t, writeTable(c, rows))
	}
	expectTable(ctx, t, l, rows)
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func writeTable(c *lab.Cluster, rows []row) error {
	var text strings.Builder
	for i, r := range rows {
		text.WriteString(r[c.Name].manifest(i))
	}
	return c.WriteManifest("table.yaml", []byte(text.String()))
}

func expectTable(ctx context.Context, t *testing.T, l *lab.Lab, rows []row) {
	t.Helper()
	var group errgroup.Group
	for _, c := range l.Clusters() {
		group.Go(func() error { return expectRows(ctx, c, rows) })
	}
	check(t, group.Wait())
}

// expectRows waits until every service is answered in the cluster by whom the
// model says. What was right once is not asked again.
func expectRows(ctx context.Context, c *lab.Cluster, rows []row) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	client, err := c.Pod(shop, "client")
	if err != nil {
		return err
	}
	open := map[int]bool{}
	for i := range rows {
		open[i] = true
	}
	return eventually(ctx, func() error {
		// Services with as many pods are asked as often.
		for size := range len(members()) + 1 {
			var ask []int
			for i := range open {
				if len(rows[i].expected(c.Name)) == size {
					ask = append(ask, i)
				}
			}
			slices.Sort(ask)
			wrong, err := askRows(ctx, client, rows, ask, enough(size))
			if err != nil {
				return err
			}
			for _, i := range ask {
				if wrong[i] == nil {
					delete(open, i)
				}
			}
			if len(wrong) > 0 {
				first := slices.Sorted(maps.Keys(wrong))[0]
				err = fmt.Errorf("in %s %d of %d services are wrong; row %d, %+v: %w", c.Name, len(wrong), len(rows), first, rows[first], wrong[first])
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// askRows asks for some services and returns what is wrong, by number of row.
func askRows(ctx context.Context, client *lab.Pod, rows []row, ask []int, count int) (map[int]error, error) {
	if len(ask) == 0 {
		return nil, nil
	}
	targets := make([]string, 0, len(ask))
	for _, i := range ask {
		targets = append(targets, address(i)+":80")
	}
	results, err := client.GetAll(ctx, workload.TCP, targets, count)
	if err != nil {
		return nil, err
	}
	wrong := map[int]error{}
	for n, i := range ask {
		want := map[string]bool{}
		for cluster := range rows[i].expected(client.On.Cluster.Name) {
			want[cluster+"/shop/web"] = true
		}
		if err := compare(want, results[n*count:(n+1)*count], false); err != nil {
			wrong[i] = err
		}
	}
	return wrong, nil
}

// TestTableIsWhole counts the combinations that the table has for each cluster.
func TestTableIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range table() {
		own, west, north := r["east"], r["west"], r["north"]
		own.shared, west.affinity, north.affinity = false, "", ""
		seen[fmt.Sprint(own, west, north)] = true
	}
	if len(seen) != 12*8*8 {
		t.Errorf("%d combinations for east, want %d", len(seen), 12*8*8)
	}
}
