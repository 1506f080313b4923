package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// meshDevice is the agents' tunnel device.
const meshDevice = "mesh0"

// TestCarriedThroughout: no connection between pods of two clusters fails, and none
// that stands ends, while agents and API servers are killed and come back, and while
// a node's address becomes another.
func TestCarriedThroughout(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	p := newPeers(t, lab.Network{Kind: lab.Routed}, labtest.IPv4) // the family in which the node moves
	client, web := sitePod(t, p.east, "client"), sitePod(t, p.west, "web")
	var loads []*lab.Load
	for i, ip := range web.IPs {
		wantPassed(t, client.Place, at(ip, webPort), client.IPs[i])
		load, err := client.StartLoad(t.Context(), workload.LoadConfig{
			Target: at(ip, webPort), Protocol: workload.TCP, Rate: 50, Workers: 50, Long: 10,
			LongInterval: 20 * time.Millisecond, Timeout: 20 * time.Second, Interval: 50 * time.Millisecond,
		})
		check(t, err)
		loads = append(loads, load)
	}
	on := func(what string) {
		t.Helper()
		for _, load := range loads {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			report, err := load.Next(ctx)
			cancel()
			check(t, err)
			if n := report.New.Failed + report.Long.Failed; n > 0 {
				t.Errorf("%s: %d failures %v %v", what, n, report.New.Errors, report.Long.Errors)
			}
		}
	}
	for _, c := range p.clusters() {
		for _, n := range c.Nodes() {
			check(t, n.Agent().Kill())
			on(fmt.Sprintf("the agent of %s is dead", n))
			check(t, n.Agent().Again(t.Context()))
			check(t, c.AwaitReady(t.Context()))
			on(fmt.Sprintf("the agent of %s is back", n))
		}
		check(t, c.APIServer().Kill())
		on(fmt.Sprintf("the API server of %s is dead", c.Name))
		check(t, c.APIServer().Again(t.Context()))
		p.awaitReady(t)
		on(fmt.Sprintf("the API server of %s is back", c.Name))
	}
	p.move(t, web.On, netip.MustParseAddr("192.0.2.28"))
	for range 5 {
		on("the server's node has another address")
	}
	for i, load := range loads {
		report, err := load.Stop(t.Context())
		check(t, err)
		if n := report.New.Failed + report.Long.Failed; n > 0 || report.New.OK == 0 || report.Long.OK == 0 {
			t.Errorf("to %s: %+v", web.IPs[i], report)
		}
		t.Logf("to %s: %d new connections, the longest without one %.0f ms; %d exchanges on %d others, the longest without one %.0f ms",
			web.IPs[i], report.New.OK, report.New.MaxGapMillis, report.Long.OK, 10, report.Long.MaxGapMillis)
	}
	for i, ip := range web.IPs {
		wantPassed(t, client.Place, at(ip, webPort), client.IPs[i])
	}
}

// awaitReady waits until all that the clusters say is in effect.
func (p *peers) awaitReady(t *testing.T) {
	t.Helper()
	for _, c := range p.clusters() {
		out, err := c.Causeway(t.Context(), "status", "--wait", "--timeout", patience.String())
		if err != nil {
			t.Fatalf("cluster %s is not ready: %v\n%s", c.Name, err, out)
		}
	}
}

// move gives a node another IPv4 address. Other clusters' nodes know no way to the old
// one any more then.
func (p *peers) move(t *testing.T, n *lab.Node, to netip.Addr) {
	t.Helper()
	const uplink = "eth0"
	check(t, n.Space().AddAddress(uplink, single(to)))
	for _, c := range p.clusters() {
		for _, other := range c.Nodes() {
			if other != n {
				check(t, other.Space().AddRoute(netspace.Route{To: single(to), Device: uplink, From: other.IP(false)}))
			}
		}
	}
	from := n.IP(false)
	check(t, n.Cluster.Edit(func(o lab.Object) bool {
		if o.Kind() != "Node" || o.Name() != n.Name {
			return true
		}
		status, _ := o["status"].(map[string]any)
		addresses, _ := status["addresses"].([]any)
		for _, a := range addresses {
			if a, ok := a.(map[string]any); ok && a["address"] == from.String() {
				a["address"] = to.String()
			}
		}
		return true
	}))
	// The far side knows when it tells that address of the node.
	for _, c := range p.clusters() {
		awaitTrue(t, func(ctx context.Context) error {
			out, err := c.Causeway(ctx, "status", "--addresses", "--within", to.String(), "--node", n.Name)
			if err == nil && !strings.Contains(string(out), to.String()) {
				err = fmt.Errorf("cluster %s does not know it: %s", c.Name, out)
			}
			return err
		})
	}
	p.awaitReady(t)
	for _, c := range p.clusters() {
		for _, other := range c.Nodes() {
			if c != n.Cluster {
				check(t, other.Space().DeleteRoute(netspace.Route{To: single(from), Device: uplink, From: other.IP(false)}))
			}
		}
	}
}

// TestCarriedNoMore: what carries packets goes from the nodes when the API server
// gives no mesh addresses any more, and comes back with them.
func TestCarriedNoMore(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	p := newPeers(t, lab.Network{Kind: lab.Routed}, labtest.IPv4)
	client, web := sitePod(t, p.east, "client"), sitePod(t, p.west, "web")
	wantPassed(t, client.Place, at(web.IPs[0], webPort), client.IPs[0])

	ranges := p.west.MeshRanges
	for _, given := range [][]netip.Prefix{nil, ranges} {
		check(t, p.west.APIServer().Stop(t.Context()))
		p.west.MeshRanges = given
		_, err := p.west.StartAPIServer(t.Context())
		check(t, err)
		p.awaitReady(t)
		for _, n := range p.west.Nodes() {
			awaitTrue(t, func(context.Context) error { return hasDevice(n, given != nil) })
		}
	}
	wantPassed(t, client.Place, at(web.IPs[0], webPort), client.IPs[0])
}

func hasDevice(n *lab.Node, want bool) error {
	return n.Space().Do(func() error {
		_, err := net.InterfaceByName(meshDevice)
		if err != nil && want {
			return fmt.Errorf("node %s: %w", n, err)
		}
		if err == nil && !want {
			return errors.New(n.Name + " still has the device")
		}
		return nil
	})
}
