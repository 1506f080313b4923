package scenarios

import (
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestCarriedByRouters: what routers between the clusters' nodes do not carry they
// tell by ICMP, and the tunnels learn it while connections go on.
func TestCarriedByRouters(t *testing.T) {
	labtest.RequireRoot(t)
	const carried = 1400
	for underlay, overhead := range map[labtest.Underlay]int{labtest.IPv4: 50, labtest.IPv6: 70} {
		t.Run(string(underlay), func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, lab.Network{Kind: lab.Routed}, underlay)
			client, web := sitePod(t, p.east, "client"), sitePod(t, p.west, "web")
			loads := p.startLoads(t, client, web, 50)
			wantMetric(t, client.On.Agent(), "causeway_host_mtu_bytes", float64(1500-overhead))
			check(t, p.world.lab.Separate(p.east, p.west, carried))
			p.checkPods(t)
			for _, n := range []*lab.Node{client.On, web.On} {
				wantMetric(t, n.Agent(), "causeway_host_mtu_bytes", float64(carried-overhead))
			}
			p.checkPods(t)
			loads.stop(t)
		})
	}
}
