package node_test

import (
	"net/netip"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/node"
)

func TestIP(t *testing.T) {
	ip := netip.MustParseAddr
	n := &node.Node{Addresses: []node.Address{
		{Type: node.ExternalIP, IP: ip("192.0.2.1")},
		{Type: node.InternalIP, IP: ip("fd00::1")},
		{Type: node.InternalIP, IP: ip("10.0.0.1")},
		{Type: node.InternalIP, IP: ip("10.0.0.2")},
	}}
	for _, c := range []struct {
		kind node.AddressType
		v6   bool
		want netip.Addr
	}{
		{node.InternalIP, false, ip("10.0.0.1")},
		{node.InternalIP, true, ip("fd00::1")},
		{node.ExternalIP, false, ip("192.0.2.1")},
		{node.ExternalIP, true, netip.Addr{}},
		{node.CiliumInternalIP, false, netip.Addr{}},
	} {
		if got := n.IP(c.kind, c.v6); got != c.want {
			t.Errorf("%s, IPv6 %t: %s, want %s", c.kind, c.v6, got, c.want)
		}
	}
	if got := (&node.Node{}).IP(node.InternalIP, false); got.IsValid() {
		t.Errorf("a node without addresses has %s", got)
	}
}
