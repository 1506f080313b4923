package scenarios

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestCarriedReaddressed: nodes swap their addresses while they run; one dies, comes
// back with another address and without anything of ours, and another one takes the
// address that it had. Their pods are reached, each by its own address, and nobody
// else notices.
func TestCarriedReaddressed(t *testing.T) {
	labtest.RequireRoot(t)
	for underlay, spare := range map[labtest.Underlay]string{labtest.IPv4: "192.0.2.29", labtest.IPv6: "2001:db8::29"} {
		t.Run(string(underlay), func(t *testing.T) {
			t.Parallel()
			p := newPeersWith(t, labtest.Site{Network: lab.Network{Kind: lab.Routed}, Underlay: underlay, More: 2})
			client := sitePod(t, p.east, "client")
			third, fourth := sitePod(t, p.west, "web-3"), sitePod(t, p.west, "web-4")
			loads := p.startLoads(t, client, sitePod(t, p.west, "web"), 50)
			p.reached(t, "before", third, fourth)

			p.readdress(t, map[*lab.Node][]netip.Addr{third.On: fourth.On.IPs, fourth.On: third.On.IPs})
			p.reached(t, "two nodes swapped their addresses", third, fourth)

			check(t, third.On.Agent().Kill(), third.On.Cut())
			_, err := third.On.Run(t.Context(), filepath.Join(labtest.Binaries(t), "node-agent"), "cleanup", "--bpffs-dir", third.On.BPFFS())
			check(t, err)
			p.readdress(t, map[*lab.Node][]netip.Addr{third.On: {netip.MustParseAddr(spare)}, fourth.On: third.On.IPs})
			p.reached(t, "a node has the address of one that is dead", fourth)
			check(t, third.On.Heal(), third.On.Agent().Again(t.Context()))
			p.reached(t, "a node is back with another address", third, fourth)
			loads.stop(t)
		})
	}
}

// readdress gives nodes other addresses, and has the manifests say so.
func (p *peers) readdress(t *testing.T, to map[*lab.Node][]netip.Addr) {
	t.Helper()
	check(t, p.world.lab.Readdress(to))
	for n := range to {
		check(t, announce(n, n.IPs))
	}
}

// reached waits until pods of west are, and reach others, by their own addresses.
func (p *peers) reached(t *testing.T, when string, pods ...*lab.Pod) {
	t.Helper()
	client, far := sitePod(t, p.east, "client"), sitePod(t, p.east, "web")
	for _, pod := range pods {
		for i, ip := range pod.IPs {
			awaitTrue(t, func(ctx context.Context) error {
				result, err := client.Exchange(ctx, workload.TCP, at(ip, webPort), 1<<20)
				if err == nil && (result.Error != "" || result.Identity.Pod != pod.Name) {
					err = fmt.Errorf("%s: %s answers at %s of %s: %s", when, result.Identity, ip, pod, result.Error)
				}
				return err
			})
			wantPassed(t, pod.Place, at(far.IPs[i], webPort), ip)
		}
	}
}
