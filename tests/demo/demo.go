package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
)

// The service that is shown, and how long a change of it may take.
const (
	namespace = "shop"
	name      = "web"
	soon      = 5 * time.Second
	requests  = 60
)

// demo is the mesh and what is looked at in it.
type demo struct {
	*screen
	lab        *lab.Lab
	dumps      string
	east, west *lab.Cluster
	client     *lab.Pod
	target     string
	carried    bool // packets between the clusters go through Causeway's tunnels
}

func (d *demo) all(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.start, d.both, d.local, d.unshared, d.deleted, d.killed, d.commands,
	} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("step %d: %w", d.step, err)
		}
	}
	return nil
}

// start brings the two clusters up from their dumps and joins them.
func (d *demo) start(ctx context.Context) error {
	var err error
	if d.carried, err = carries(); err != nil {
		return err
	}
	if !d.carried {
		d.line("this kernel is older than 6.0: the clusters get one flat network instead of tunnels between their nodes")
	}
	for i, c := range []**lab.Cluster{&d.east, &d.west} {
		clusterName := []string{"east", "west"}[i]
		d.now("starting cluster %s", clusterName)
		spec := lab.ClusterSpec{Name: clusterName, ID: i + 1, Manifests: d.dumps + "/" + clusterName + ".yaml"}
		d.network(&spec)
		if *c, err = d.lab.AddCluster(ctx, spec); err != nil {
			return err
		}
		if err := (*c).Up(ctx); err != nil {
			return err
		}
		d.line("cluster %s is up: API server with its own etcd and CA, agents on %s, %d pods",
			clusterName, names((*c).Nodes()), len((*c).Pods()))
	}
	if err := d.lab.ConnectAll(); err != nil {
		return err
	}
	for _, c := range d.lab.Clusters() {
		if _, err := c.Causeway(ctx, "status", "--wait", "--timeout", "30s"); err != nil {
			return err
		}
	}
	d.line("east and west read each other, over mutual TLS")
	if d.carried {
		d.line("their pods are behind their nodes; packets between them go through tunnels from node to node")
	}
	if d.client, err = d.east.Pod("data", "db-0"); err != nil {
		return err
	}
	d.target, err = address(d.east)
	return err
}

func names(nodes []*lab.Node) string {
	var out []string
	for _, n := range nodes {
		out = append(out, n.Name)
	}
	return strings.Join(out, " and ")
}

// both: the running, ready pods of both clusters answer, and nobody else.
func (d *demo) both(ctx context.Context) error {
	d.begin(fmt.Sprintf("a pod in east, %s, asks %s/%s at %s: pods of both clusters answer", d.client, namespace, name, d.target))
	if err := d.expect(ctx, d.east, d.west); err != nil {
		return err
	}
	d.line("each of them saw the client by its own address, %s", d.client.IPs[0])
	return nil
}

func (d *demo) local(ctx context.Context) error {
	d.begin(`causeway.io/affinity: "local" on east's Service: only east's pods answer`)
	if err := d.east.Annotate(namespace, name, map[string]string{"causeway.io/affinity": "local"}); err != nil {
		return err
	}
	if err := d.expect(ctx, d.east); err != nil {
		return err
	}
	if err := d.east.Annotate(namespace, name, map[string]string{"causeway.io/affinity": ""}); err != nil {
		return err
	}
	return d.expect(ctx, d.east, d.west)
}

func (d *demo) unshared(ctx context.Context) error {
	d.begin(`causeway.io/shared: "false" on west's Service: only east's pods answer`)
	if err := d.west.Annotate(namespace, name, map[string]string{"causeway.io/shared": "false"}); err != nil {
		return err
	}
	if err := d.expect(ctx, d.east); err != nil {
		return err
	}
	if err := d.west.Annotate(namespace, name, map[string]string{"causeway.io/shared": ""}); err != nil {
		return err
	}
	return d.expect(ctx, d.east, d.west)
}

func (d *demo) deleted(ctx context.Context) error {
	ready, err := readyPods(d.west)
	if err != nil {
		return err
	}
	gone := ready[0]
	d.begin(fmt.Sprintf("pod %s is being deleted in west: no new connection goes to it", gone))
	if err := d.west.EndPod(namespace, gone); err != nil {
		return err
	}
	if err := d.expect(ctx, d.east, d.west); err != nil {
		return err
	}
	if err := d.west.DeletePod(namespace, gone); err != nil {
		return err
	}
	return d.west.Sync(ctx) // its processes end
}

// killed: the data plane needs none of our processes.
func (d *demo) killed(ctx context.Context) error {
	d.begin("every agent and every API server is killed (SIGKILL) and started again, while requests go on")
	load, err := d.client.StartLoad(ctx, workload.LoadConfig{Target: d.target, Protocol: workload.HTTP, Rate: 200, Long: 10})
	if err != nil {
		return err
	}
	enough := func(after int) func(workload.Report) bool {
		return func(r workload.Report) bool {
			d.now("%d requests answered, %d failed", r.New.OK, r.New.Failed+r.Long.Failed)
			return r.New.OK >= after
		}
	}
	var daemons []*lab.Process
	for _, c := range d.lab.Clusters() {
		daemons = append(daemons, c.Daemons()...)
	}
	before, err := load.Await(ctx, enough(100))
	if err != nil {
		return err
	}
	for _, p := range daemons {
		if err := p.Kill(); err != nil {
			return err
		}
	}
	d.line("%d processes killed after %d requests", len(daemons), before.New.OK)
	down, err := load.Await(ctx, enough(before.New.OK+400))
	if err != nil {
		return err
	}
	d.line("%d requests were answered while none of them ran", down.New.OK-before.New.OK)
	for _, p := range daemons {
		if err := p.Again(ctx); err != nil {
			return err
		}
	}
	for _, c := range d.lab.Clusters() {
		if _, err := c.Causeway(ctx, "status", "--wait", "--timeout", "30s"); err != nil {
			return err
		}
	}
	d.line("all are up again and ready")
	up := load.Report().New.OK
	if _, err := load.Await(ctx, enough(up+200)); err != nil {
		return err
	}
	end, err := load.Stop(ctx)
	if err != nil {
		return err
	}
	if failed := end.New.Failed + end.Long.Failed; failed > 0 || end.Long.OK == 0 {
		return fmt.Errorf("%d of %d requests failed: %v %v", failed, end.New.OK+end.Long.OK+failed, end.New.Errors, end.Long.Errors)
	}
	d.line("%d new connections and %d exchanges on long ones: none failed", end.New.OK, end.Long.OK)
	return nil
}

func (d *demo) commands(ctx context.Context) error {
	d.begin("causeway status and causeway services, asked of east")
	for _, command := range []string{"status", "services"} {
		out, err := d.east.Causeway(ctx, command)
		if err != nil {
			return err
		}
		d.line("$ causeway %s", command)
		d.block(out)
		d.blank()
		if command == "services" {
			if err := d.listed(string(out)); err != nil {
				return err
			}
		}
	}
	return nil
}

// listed checks that causeway services says of exactly the ready pods of both
// clusters that they are used.
func (d *demo) listed(out string) error {
	_, section, _ := strings.Cut(out, namespace+"/"+name+": ")
	section, _, _ = strings.Cut(section, "\n\n")
	used := map[string]bool{}
	for line := range strings.Lines(section) {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[1] != "yes" {
			continue
		}
		pod := fields[0] + "/" + fields[len(fields)-2] // before the node
		used[pod] = true
	}
	want := map[string]bool{}
	for _, c := range d.lab.Clusters() {
		ready, err := readyPods(c)
		if err != nil {
			return err
		}
		for _, pod := range ready {
			want[c.Name+"/"+pod] = true
		}
	}
	if !maps.Equal(want, used) {
		return fmt.Errorf("causeway services says that %v are used, not %v", slices.Sorted(maps.Keys(used)), slices.Sorted(maps.Keys(want)))
	}
	return nil
}

// expect waits until the ready pods of the clusters answer, then asks on and
// checks that all of them do, and nobody else.
func (d *demo) expect(ctx context.Context, clusters ...*lab.Cluster) error {
	want := map[string]bool{}
	for _, c := range clusters {
		ready, err := readyPods(c)
		if err != nil {
			return err
		}
		for _, pod := range ready {
			want[c.Name+"/"+namespace+"/"+pod] = true
		}
	}
	began := time.Now()
	for {
		got, err := d.ask(ctx, requests)
		if err != nil {
			return err
		}
		if wrong := difference(want, got); wrong == nil {
			d.line("%s", tally(got))
			return nil
		} else if time.Since(began) > soon {
			return fmt.Errorf("after %s: %w", soon, wrong)
		}
	}
}

// ask returns how many answers came from each pod; a failed request is an error.
func (d *demo) ask(ctx context.Context, count int) (map[string]int, error) {
	results, err := d.client.Get(ctx, workload.HTTP, d.target, count)
	if err != nil {
		return nil, err
	}
	got, failures := lab.Count(results)
	if len(failures) > 0 {
		return nil, fmt.Errorf("requests failed: %v", failures)
	}
	d.now("%s", tally(got))
	return got, d.seen(results)
}

func difference(want map[string]bool, got map[string]int) error {
	var wrong []error
	for _, pod := range slices.Sorted(maps.Keys(got)) {
		if !want[pod] {
			wrong = append(wrong, fmt.Errorf("%s answered and should not have", pod))
		}
	}
	for _, pod := range slices.Sorted(maps.Keys(want)) {
		if got[pod] == 0 {
			wrong = append(wrong, fmt.Errorf("%s did not answer", pod))
		}
	}
	return errors.Join(wrong...)
}

// tally is one line of who answered how often, by cluster; of a pod's name it
// shows the last part.
func tally(got map[string]int) string {
	byCluster := map[string][]string{}
	sums := map[string]int{}
	for _, pod := range slices.Sorted(maps.Keys(got)) {
		cluster, _, _ := strings.Cut(pod, "/")
		byCluster[cluster] = append(byCluster[cluster], fmt.Sprintf("%s %d", pod[strings.LastIndexAny(pod, "/-")+1:], got[pod]))
		sums[cluster] += got[pod]
	}
	var out []string
	for _, c := range slices.Sorted(maps.Keys(byCluster)) {
		out = append(out, fmt.Sprintf("%s %d (%s)", c, sums[c], strings.Join(byCluster[c], ", ")))
	}
	return "answers from " + strings.Join(out, ", ")
}

func (d *demo) lookAround(binaries string) {
	d.blank()
	d.line("left up; make demo DOWN=%s takes it down. To look around, as root:", d.lab.ID())
	home, err := d.east.Home()
	if err != nil {
		return
	}
	d.line("  %s", home.Shell(binaries+"/causeway", "--admin-file", d.east.AdminFile(), "status"))
	d.line("  %s", d.client.Shell(binaries+"/echo", "get", "--count", "10", d.target))
	d.line("  edit %s and ask again", d.east.ManifestsDir())
}
