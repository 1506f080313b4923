package host

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// An address of a peer that the network is tried with goes past the tunnel that its
// range leads into, and keeps the source of packets.
func TestAround(t *testing.T) {
	d := Desired{
		Nodes: addrs("192.0.2.21 2001:db8::21"),
		Routes: []Route{
			{netip.MustParsePrefix("10.2.0.0/16"), route.VXLAN},
			{netip.MustParsePrefix("10.2.1.20/32"), route.Native},
			{netip.MustParsePrefix("10.3.0.0/16"), route.Native},
			{netip.MustParsePrefix("fd00:2::20/128"), route.Native},
		},
	}
	if got, want := d.around(false), addrs("192.0.2.21 10.2.1.20"); !slices.Equal(got, want) {
		t.Errorf("around %v, want %v", got, want)
	}
	if got, want := d.around(true), addrs("2001:db8::21 fd00:2::20"); !slices.Equal(got, want) {
		t.Errorf("around %v, want %v", got, want)
	}
	p := planRoutes(d.leading(false), nil, d.around(false), nil)
	if got, want := p.throws, prefixes("10.2.1.20/32"); !slices.Equal(got, want) || len(p.problems) > 0 {
		t.Errorf("throws %v, want %v; %v", got, want, p.problems)
	}
	if got, want := d.native(false), prefixes("10.2.1.20/32 10.3.0.0/16"); !slices.Equal(got, want) {
		t.Errorf("native %v, want %v", got, want)
	}
}
