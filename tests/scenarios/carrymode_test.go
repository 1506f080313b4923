package scenarios

import (
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
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
	for i, load := range loads {
		report, err := load.Stop(t.Context())
		check(t, err)
		if n := report.New.Failed + report.Long.Failed; n > 0 || report.New.OK == 0 || report.Long.OK == 0 {
			t.Errorf("to %s: %+v", web.IPs[i], report)
		}
	}
}
