package host_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// TestRouteOrder: at no moment does a packet to a peer find no route into the
// tunnel while one range takes the place of others, or one where somebody else's
// route counts.
func TestRouteOrder(t *testing.T) {
	s := newSide(t, "a", 1)
	s.cloudRules()
	s.run(s.node, "ip", "route", "add", "blackhole", "10.2.7.0/24")
	h := s.openHost(host.Config{})
	desired := func(ranges ...string) host.Desired {
		d := host.Desired{Mesh: s.mesh}
		for _, r := range ranges {
			d.Routes = append(d.Routes, host.Route{Prefix: netip.MustParsePrefix(r), Mode: route.VXLAN})
		}
		return d
	}
	narrow, wide := []string{"10.2.1.0/24", "10.2.2.0/24", "10.2.200.0/24"}, []string{"10.2.0.0/16"}
	must(t, h.Apply(desired(narrow...)))
	updates, done := make(chan netlink.RouteUpdate, 100), make(chan struct{})
	must(t, s.node.Do(func() error {
		return netlink.RouteSubscribeWithOptions(updates, done, netlink.RouteSubscribeOptions{})
	}))
	defer func() {
		close(done)
		for range updates { // until it is given up
		}
	}()
	seen := func(n int) (all []string) {
		for len(all) < n {
			select {
			case u := <-updates:
				if u.Protocol != host.Protocol {
					continue
				}
				text := map[uint16]string{unix.RTM_NEWROUTE: "+", unix.RTM_DELROUTE: "-"}[u.Type]
				if u.Route.Type == unix.RTN_THROW {
					text += "throw "
				}
				all = append(all, text+u.Dst.String())
			case <-time.After(60 * time.Second):
				t.Fatalf("after %q nothing more", all)
			}
		}
		return all
	}
	must(t, h.Apply(desired(wide...)))
	if got, want := seen(5), []string{"+throw 10.2.7.0/24", "+10.2.0.0/16", "-10.2.1.0/24", "-10.2.2.0/24", "-10.2.200.0/24"}; !slices.Equal(got, want) {
		t.Errorf("wider: %q, want %q", got, want)
	}
	must(t, h.Apply(desired(narrow...)))
	if got, want := seen(5), []string{"+10.2.1.0/24", "+10.2.2.0/24", "+10.2.200.0/24", "-10.2.0.0/16", "-throw 10.2.7.0/24"}; !slices.Equal(got, want) {
		t.Errorf("narrower: %q, want %q", got, want)
	}
}
