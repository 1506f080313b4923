package main

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/observe"
)

func TestEventOf(t *testing.T) {
	source, destination := netip.MustParseAddrPort("10.2.0.1:4711"), netip.MustParseAddrPort("[fd00::1]:80")
	tunnel := netip.MustParseAddr("192.0.2.1")
	at := time.Unix(1700000000, 7)
	got := eventOf(packet.Event{
		Time: at, Direction: packet.FromMesh, Reason: packet.Identity, Source: source, Destination: destination,
		Protocol: 17, Tunnel: tunnel, Cluster: 2, Identity: 131328, Known: 131329, Length: 74,
	})
	want := observe.Event{
		Time: at, Direction: observe.FromMesh, Reason: "identity", Source: source, Destination: destination,
		Protocol: 17, Tunnel: tunnel, ClusterID: 2, Identity: 131328, Known: 131329, Length: 74,
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
