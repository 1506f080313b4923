package host_test

import (
	"fmt"
	"net/netip"
	"testing"
)

// TestTraffic carries TCP between all that shall reach each other, in both
// families over both families: the server sees the pod's own address, or the
// node's mesh address.
func TestTraffic(t *testing.T) {
	for _, underlay := range []bool{false, true} {
		t.Run(fmt.Sprintf("underlay IPv6 %t", underlay), func(t *testing.T) {
			w := newWorld(t)
			w.join(underlay)
			for i := range 2 {
				for _, tc := range []struct {
					name         string
					from, to     *side
					fromPod      bool
					client, want netip.Addr
				}{
					{"pod to pod", w.a, w.b, true, netip.Addr{}, w.a.addr[i]},
					{"pod to pod, back", w.b, w.a, true, netip.Addr{}, w.b.addr[i]},
					{"host to pod", w.a, w.b, false, netip.Addr{}, w.a.mesh[i]},
					{"host to pod from its own address", w.a, w.b, false, w.a.underlay[i], w.a.mesh[i]},
				} {
					from := tc.from.node
					if tc.fromPod {
						from = tc.from.pod
					}
					got, err := ask(from, tc.to.pod, tc.to.addr[i], tc.client)
					if err != nil || got != tc.want {
						t.Errorf("%s to %s: client %v, %v; want %v", tc.name, tc.to.addr[i], got, err, tc.want)
					}
				}
				got, err := ask(w.a.pod, w.b.node, w.b.mesh[i], netip.Addr{})
				if err != nil || got != w.a.addr[i] {
					t.Errorf("pod to host %s: client %v, %v", w.b.mesh[i], got, err)
				}
			}
		})
	}
}
