package merge

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// BenchmarkReach is what an address that comes and goes costs among 250,000, in
// ranges of their nodes or outside of them, and without any routing.
func BenchmarkReach(b *testing.B) {
	for _, kind := range []string{"off", "inside", "outside"} {
		b.Run(kind, func(b *testing.B) {
			s := New("east")
			if kind != "off" {
				s.Route(Routing{Way: func(string) (route.Mode, route.Search) { return route.VXLAN, route.NoSearch }})
			}
			const addresses = 250_000
			at := func(i int) netip.Prefix {
				return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
			}
			u := Update{Nodes: map[string]*node.Node{}, Addresses: map[netip.Prefix]*endpoint.Address{}}
			for i := range addresses {
				u.Addresses[at(i)] = &endpoint.Address{Identity: identity.Unmanaged}
				if i%256 == 0 && kind != "outside" {
					n := machine(at(i).Addr().String() + "/24")
					u.Nodes[fmt.Sprint("n", i)] = n
				}
			}
			s.Apply("west", u)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p := at(i % addresses)
				s.Apply("west", Update{Addresses: map[netip.Prefix]*endpoint.Address{p: nil}})
				s.Apply("west", Update{Addresses: map[netip.Prefix]*endpoint.Address{p: u.Addresses[p]}})
			}
		})
	}
}
