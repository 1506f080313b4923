package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netfilter"
)

// found is how long it may take until packets go another way: some 20 s, and much more
// on a machine that has no time.
const found = 4 * time.Minute

// probePods are those of a Site, one a node.
const probePods = `apiVersion: v1
kind: Pod
metadata: {name: probe-1, namespace: causeway, labels: {causeway.io/probe-pod: "true"}}
spec: {nodeName: n1, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.%[1]d.1.20, podIPs: [{ip: 10.%[1]d.1.20}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: probe-2, namespace: causeway, labels: {causeway.io/probe-pod: "true"}}
spec: {nodeName: n2, containers: [{name: c, image: c}]}
status: {phase: Running, podIP: 10.%[1]d.2.20, podIPs: [{ip: 10.%[1]d.2.20}], conditions: [{type: Ready, status: "True"}]}
`

// TestAutoRoutes: packets are left to the network where that carries them both ways
// with their own source, and go by tunnel where it does not, with a reason that is
// said; going over, by itself, ends no connection.
func TestAutoRoutes(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	a := autoRoutes{t, newPeers(t, lab.Network{Kind: lab.Routed}, labtest.IPv4)}
	a.await("vxlan", "no probe pod in ")
	a.startProbes()
	a.await("vxlan", "the network does not carry packets between the clusters' pods")
	load := a.load()

	check(t, a.world.lab.RoutePods(a.east, a.west))
	a.await("native", "packets arrive unchanged both ways")
	a.diagnosed("native", "ok")
	a.passed()

	a.write(a.west.Nodes(), severed())
	a.await("vxlan", "the network does not carry packets between the clusters' pods")
	a.passed()

	// With the source of one node's packets changed the network is of no use.
	node := sitePod(t, a.east, "client").On
	a.write([]*lab.Node{node}, nativeNAT())
	a.write(a.west.Nodes(), empty(severed()))
	a.await("vxlan", "the source address of packets is changed on the network's own way")
	a.passed()
	report, err := load.Stop(t.Context())
	check(t, err)
	if n := report.New.Failed + report.Long.Failed; n > 0 || report.New.OK == 0 || report.Long.OK == 0 {
		t.Errorf("while packets went over to the other way: %+v", report)
	}
}

// autoRoutes are two clusters that find out how to reach each other.
type autoRoutes struct {
	t *testing.T
	*peers
}

// startProbes gives each node a probe pod.
func (a autoRoutes) startProbes() {
	a.t.Helper()
	for _, c := range a.clusters() {
		check(a.t, c.WriteManifest("probes.yaml", fmt.Appendf(nil, probePods, c.ID)))
		check(a.t, c.Sync(a.t.Context()))
		for _, name := range []string{"probe-1", "probe-2"} {
			pod, err := c.Pod("causeway", name)
			check(a.t, err)
			_, err = pod.StartProbe(a.t.Context())
			check(a.t, err)
		}
	}
}

// await waits until both clusters have that mode, for that reason.
func (a autoRoutes) await(mode, reason string) {
	a.t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(a.t.Context(), found)
	defer cancel()
	err := eventually(ctx, func() error {
		var errs []error
		for _, c := range a.clusters() {
			out, err := c.Causeway(ctx, "status")
			if err != nil || !strings.Contains(string(out), ": auto: "+mode+", ") || !strings.Contains(string(out), reason) {
				errs = append(errs, fmt.Errorf("%s: %w, want %s, %s:\n%s", c.Name, err, mode, reason, out))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Logf("%s, %s: after %s", mode, reason, time.Since(start).Round(100*time.Millisecond))
}

// diagnosed waits until a node says that of the way in use.
func (a autoRoutes) diagnosed(mode, state string) {
	a.t.Helper()
	node := sitePod(a.t, a.east, "client").On
	awaitTrue(a.t, func(ctx context.Context) error {
		got, err := diagnose(ctx, node, a.west)
		if err != nil {
			return err
		}
		if p := got.Nodes[0].Peers[0]; p.Mode != mode || p.State != state || p.Source != "ok" || p.Paths != 2 || p.Reachable != 2 || p.MTU != 1500 || p.RTTMedian == "" {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
}

// passed waits until pods of both clusters reach each other with their own addresses.
func (a autoRoutes) passed() {
	a.t.Helper()
	for _, way := range a.ways() {
		client, web := sitePod(a.t, way.from, "client"), sitePod(a.t, way.to, "web")
		wantPassed(a.t, client.Place, at(web.IPs[0], webPort), client.IPs[0])
	}
}

func (a autoRoutes) load() *lab.Load {
	a.t.Helper()
	load, err := sitePod(a.t, a.east, "client").StartLoad(a.t.Context(), workload.LoadConfig{
		Target: at(sitePod(a.t, a.west, "web").IPs[0], webPort), Protocol: workload.TCP, Rate: 20, Workers: 50, Long: 10,
		LongInterval: 50 * time.Millisecond, Timeout: 2 * time.Minute, Interval: 50 * time.Millisecond,
	})
	check(a.t, err)
	return load
}

func (a autoRoutes) write(nodes []*lab.Node, table netfilter.Table) {
	a.t.Helper()
	for _, n := range nodes {
		check(a.t, netfilter.Write(n.Space(), table))
	}
}

func empty(table netfilter.Table) netfilter.Table {
	return netfilter.Table{Family: table.Family, Name: table.Name}
}

// uplink is a node's device to the network.
const uplink = "eth0"

// severed drops what comes from the other cluster's pods by the network.
func severed() netfilter.Table {
	return filterTable(netfilter.FamilyIPv4, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -250, netfilter.Join(
		netfilter.In(netfilter.Device(uplink)), netfilter.Source(netip.MustParsePrefix("10.1.0.0/16")), netfilter.Drop()))
}

// nativeNAT changes the source of what goes to the other cluster's pods by the network,
// before ours keeps it.
func nativeNAT() netfilter.Table {
	return filterTable(netfilter.FamilyIPv4, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 50, netfilter.Join(
		netfilter.Out(netfilter.Device(uplink)), netfilter.Target(netip.MustParsePrefix("10.2.0.0/16")), netfilter.Rule{&expr.Masq{}}))
}
