package scenarios

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"testing"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// Where a Site's service, and its pods, answer.
const (
	sitePort    = 80
	webPort     = 8080
	hostPodPort = 8081
)

func siteServices() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::10")}
}

// TestCarried: pods and nodes of two clusters, whose pods are behind their nodes,
// reach each other by their own addresses, whatever the nodes are like.
func TestCarried(t *testing.T) {
	labtest.RequireRoot(t)
	type test struct {
		network  lab.Network
		underlay labtest.Underlay
	}
	tests := map[string]test{
		"IPv4 below":     {lab.Network{Kind: lab.Routed}, labtest.IPv4},
		"IPv6 below":     {lab.Network{Kind: lab.Routed}, labtest.IPv6},
		"large pods":     {lab.Network{Kind: lab.Routed, PodMTU: 9001}, labtest.Dual},
		"small underlay": {lab.Network{Kind: lab.Routed, MTU: 1400}, labtest.IPv6},
	}
	for name, network := range labtest.Faces() {
		tests[name] = test{network, labtest.Dual}
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, test.network, test.underlay)
			p.checkService(t)
			p.checkPods(t)
			if leaked := p.leaks(t); leaked > 0 {
				t.Errorf("%d packets with addresses of pods between the clusters, outside of the tunnels", leaked)
			}
		})
	}
}

// peers are two sites whose daemons run.
type peers struct {
	world      *world
	east, west *lab.Cluster
}

func newPeers(t *testing.T, network lab.Network, underlay labtest.Underlay) *peers {
	t.Helper()
	return newPeersWith(t, labtest.Site{Underlay: underlay, Network: network})
}

// newPeersWith makes both sites like the one given, whose name and so on are left
// out; what it has More of west has.
func newPeersWith(t *testing.T, like labtest.Site) *peers {
	t.Helper()
	p := &peers{world: newWorld(t, t.TempDir())}
	like.Mesh = true
	west := like
	like.Name, like.ID, like.More = "east", 1, 0
	west.Name, west.ID = "west", 2
	p.east, p.west = labtest.AddSite(t, p.world.lab, like), labtest.AddSite(t, p.world.lab, west)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for _, c := range p.clusters() {
		check(t, refuseServices(c))
	}
	check(t, p.world.lab.ConnectAll())
	check(t, p.world.lab.Up(ctx))
	for _, c := range p.clusters() {
		out, err := c.Causeway(ctx, "status", "--wait", "--timeout", patience.String())
		if err != nil {
			t.Fatalf("cluster %s is not ready: %v\n%s", c.Name, err, out)
		}
	}
	return p
}

func (p *peers) clusters() []*lab.Cluster { return []*lab.Cluster{p.east, p.west} }

// way is one direction between two clusters.
type way struct{ from, to *lab.Cluster }

func (p *peers) ways() []way { return []way{{p.east, p.west}, {p.west, p.east}} }

func sitePod(t *testing.T, c *lab.Cluster, name string) *lab.Pod {
	t.Helper()
	pod, err := c.Pod(shop, name)
	check(t, err)
	return pod
}

// checkService: the service of both is answered by both, in both, and the far
// server sees the client's own address.
func (p *peers) checkService(t *testing.T) {
	t.Helper()
	for _, way := range p.ways() {
		client := sitePod(t, way.from, "client")
		for i, service := range siteServices() {
			for _, protocol := range []string{workload.HTTP, workload.UDP} {
				awaitTrue(t, func(ctx context.Context) error {
					results, err := client.Get(ctx, protocol, at(service, sitePort), enough(2))
					if err != nil {
						return err
					}
					want := map[string]bool{"east/shop/web": true, "west/shop/web": true}
					return errors.Join(compare(want, results, false), seenFrom(results, way.to.Name, client.IPs[i]))
				})
			}
		}
	}
}

// seenFrom returns an error if a server of the cluster saw another source.
func seenFrom(results []workload.Result, cluster string, want netip.Addr) error {
	for _, r := range results {
		seen, err := netip.ParseAddrPort(r.Remote)
		if r.Cluster == cluster && (err != nil || seen.Addr().Unmap() != want) {
			return fmt.Errorf("a server of %s saw %s, want %s", cluster, r.Remote, want)
		}
	}
	return nil
}

// checkPods: pods, nodes and pods on their nodes' network reach pods, all with
// sources of their own; many bytes pass, and large datagrams.
func (p *peers) checkPods(t *testing.T) {
	t.Helper()
	for _, way := range p.ways() {
		client, host, to := sitePod(t, way.from, "client"), sitePod(t, way.from, "host"), sitePod(t, way.to, "web")
		for i, ip := range to.IPs {
			target := at(ip, webPort)
			wantPassed(t, client.Place, target, client.IPs[i])
			mesh := way.from.MeshRanges[i]
			for _, from := range []*lab.Place{client.On.Place, host.Place} {
				wantSourceIn(t, from, target, mesh)
			}
		}
		// A node's own addresses stay where they are.
		for _, ip := range sitePod(t, way.to, "host").IPs {
			wantSourceIn(t, client.Place, at(ip, hostPodPort), single(client.On.IP(ip.Is6())))
			wantSourceIn(t, client.On.Place, at(ip, hostPodPort), single(client.On.IP(ip.Is6())))
		}
	}
}

// leaks counts what was seen between the clusters with pods' addresses.
func (p *peers) leaks(t *testing.T) (total uint64) {
	t.Helper()
	for _, c := range p.clusters() {
		n, err := c.Leaks()
		check(t, err)
		total += n
	}
	return total
}

// wantPassed waits until 1 MiB passes both ways by TCP and 8 KiB by UDP, and the
// server sees source.
func wantPassed(t *testing.T, from *lab.Place, target string, source netip.Addr) {
	t.Helper()
	for protocol, size := range map[string]int{workload.TCP: 1 << 20, workload.UDP: 8 << 10} {
		awaitTrue(t, func(ctx context.Context) error { return passes(ctx, from, protocol, target, size, single(source)) })
	}
}

// wantSourceIn waits until an answer comes whose server saw a source of the range.
func wantSourceIn(t *testing.T, from *lab.Place, target string, source netip.Prefix) {
	t.Helper()
	awaitTrue(t, func(ctx context.Context) error { return passes(ctx, from, workload.TCP, target, 100, source) })
}

func passes(ctx context.Context, from *lab.Place, protocol, target string, size int, source netip.Prefix) error {
	result, err := from.Exchange(ctx, protocol, target, size)
	if err != nil {
		return err
	}
	if result.Error != "" {
		return fmt.Errorf("%d bytes from %s to %s by %s: %s", size, from, target, protocol, result.Error)
	}
	seen, err := netip.ParseAddrPort(result.Remote)
	if err != nil || !source.Contains(seen.Addr().Unmap()) {
		return fmt.Errorf("from %s to %s: the server saw %s, want %s", from, target, result.Remote, source)
	}
	return nil
}

func awaitTrue(t *testing.T, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := eventually(ctx, func() error { return check(ctx) }); err != nil {
		t.Error(err)
	}
}

func at(ip netip.Addr, port int) string { return net.JoinHostPort(ip.String(), strconv.Itoa(port)) }

func single(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }
