package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
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

// upgradedCapacity makes an agent's maps other ones: filled beside those that
// serve, as those of another layout are.
const upgradedCapacity = "--map-capacity=131072"

// TestCarriedThroughout: under 10,000 packets and 200 new connections a second
// between pods of two clusters none is lost and none fails, and no connection that
// stands ends, while agents and API servers are killed and come back, are replaced
// by those of another build, and while a node's address becomes another. No node is
// without a route or a program meanwhile, also when its routes have to stand
// elsewhere.
func TestCarriedThroughout(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	upgrade := labtest.Upgrade(t)
	p := newPeers(t, lab.Network{Kind: lab.Routed}, labtest.IPv4) // the family in which the node moves
	client, web := sitePod(t, p.east, "client"), sitePod(t, p.west, "web")
	loads := p.startLoads(t, client, web, 100)
	var streams []*stream
	for _, ip := range web.IPs {
		streams = append(streams, startStream(t, client, web, ip, 5000))
	}
	guards := map[*lab.Node]*guard{}
	for _, c := range p.clusters() {
		for _, n := range c.Nodes() {
			guards[n] = newGuard(t, n)
		}
	}
	on := func(what string) {
		t.Helper()
		loads.on(t, what)
		t.Logf("%s %s", time.Now().UTC().Format("15:04:05.000"), what)
		for _, g := range guards {
			g.check(t, what)
		}
	}
	for _, c := range p.clusters() {
		for _, n := range c.Nodes() {
			agent := n.Agent()
			check(t, agent.Kill())
			on(fmt.Sprintf("the agent of %s is dead", n))
			check(t, agent.Again(t.Context()), c.AwaitReady(t.Context()))
			on(fmt.Sprintf("the agent of %s is back", n))
			check(t, agent.Stop(t.Context()))
			agent.Become(filepath.Join(upgrade, "node-agent"), upgradedCapacity)
			check(t, agent.Again(t.Context()), c.AwaitReady(t.Context()))
			guards[n].dropped = 0 // the counters are new ones
			on(fmt.Sprintf("the agent of %s is upgraded", n))
		}
		api := c.APIServer()
		check(t, api.Kill())
		on(fmt.Sprintf("the API server of %s is dead", c.Name))
		check(t, api.Again(t.Context()))
		p.awaitReady(t)
		on(fmt.Sprintf("the API server of %s is back", c.Name))
		check(t, api.Stop(t.Context()))
		api.Become(filepath.Join(upgrade, "clustermesh-apiserver"))
		check(t, api.Again(t.Context()))
		p.awaitReady(t)
		on(fmt.Sprintf("the API server of %s is upgraded", c.Name))
	}
	// Somebody else's rule makes the routes move to a table of their own.
	var firstRules []span
	for _, n := range []*lab.Node{client.On, web.On} {
		for _, ip := range nobody() {
			made := firstRule(t, n.Space(), netspace.Rule{Priority: 3000, From: single(ip), Table: 77})
			if ip.Is4() {
				firstRules = append(firstRules, made)
			}
		}
		awaitTrue(t, func(context.Context) error { return hasRules(n) })
		loads.on(t, fmt.Sprintf("%s has rules of somebody's", n))
		t.Logf("%s %s has rules of somebody's", time.Now().UTC().Format("15:04:05.000"), n)
	}
	for _, s := range streams {
		s.check(t, firstRules)
	}
	if leaked := p.leaks(t); leaked > 0 {
		t.Errorf("%d packets went past the tunnels: a route was missing", leaked)
	}
	p.move(t, web.On, netip.MustParseAddr("192.0.2.28"))
	for range 5 {
		loads.on(t, "the server's node has another address")
	}
	loads.stop(t)
	for i, ip := range web.IPs {
		wantPassed(t, client.Place, at(ip, webPort), client.IPs[i])
	}
}

// loads go on between the same two pods, one for each family.
type loads []*lab.Load

// startLoads waits until the client reaches the server, and then makes so many new
// connections a second to each of its addresses, and holds ten more.
func (p *peers) startLoads(t *testing.T, client, server *lab.Pod, rate int) loads {
	t.Helper()
	var all loads
	for i, ip := range server.IPs {
		wantPassed(t, client.Place, at(ip, webPort), client.IPs[i])
		load, err := client.StartLoad(t.Context(), workload.LoadConfig{
			Target: at(ip, webPort), Protocol: workload.TCP, Rate: rate, Workers: 50, Long: 10,
			LongInterval: 20 * time.Millisecond, Timeout: 20 * time.Second, Interval: 50 * time.Millisecond,
		})
		check(t, err)
		all = append(all, load)
	}
	return all
}

// on wants that nothing failed until something was answered after the call.
func (l loads) on(t *testing.T, what string) {
	t.Helper()
	for _, load := range l {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		report, err := load.Next(ctx)
		cancel()
		check(t, err)
		if err := harm(report); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func (l loads) stop(t *testing.T) {
	t.Helper()
	for _, load := range l {
		report, err := load.Stop(t.Context())
		check(t, err)
		if err := harm(report); err != nil || report.New.OK == 0 || report.Long.OK == 0 {
			t.Errorf("%v: %+v", err, report)
		}
		t.Logf("%d new connections, the longest without one %.0f ms; %d exchanges on others, the longest without one %.0f ms",
			report.New.OK, report.New.MaxGapMillis, report.Long.OK, report.Long.MaxGapMillis)
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
	check(t, announce(n, []netip.Addr{to}))
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

// announce has the manifests say which addresses a node has.
func announce(n *lab.Node, ips []netip.Addr) error {
	var addresses []any
	for _, ip := range ips {
		addresses = append(addresses, map[string]any{"type": "InternalIP", "address": ip.String()})
	}
	return n.Cluster.Edit(func(o lab.Object) bool {
		if o.Kind() == "Node" && o.Name() == n.Name {
			o["status"] = map[string]any{"addresses": addresses}
		}
		return true
	})
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
