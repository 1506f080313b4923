package scenarios

import (
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// TestCarriedNatively: where the network routes pods' addresses, it may be left to
// that; and going over from a tunnel, one cluster after the other, ends no connection.
func TestCarriedNatively(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	p := newPeers(t, lab.Network{Kind: lab.Flat}, labtest.IPv4)
	client, web := sitePod(t, p.east, "client"), sitePod(t, p.west, "web")
	loads := p.startLoads(t, client, web, 50)
	for _, mode := range []string{"native", "vxlan"} {
		for _, c := range p.clusters() {
			check(t, c.APIServer().Stop(t.Context()))
			_, err := c.StartAPIServer(t.Context(), "--route-mode", mode)
			check(t, err)
			p.awaitReady(t)
			out, err := c.Causeway(t.Context(), "status")
			check(t, err)
			if !strings.Contains(string(out), mode) {
				t.Errorf("status of %s does not say %s:\n%s", c.Name, mode, out)
			}
			for i, ip := range web.IPs {
				wantPassed(t, client.Place, at(ip, webPort), client.IPs[i])
			}
		}
	}
	loads.stop(t)
}
