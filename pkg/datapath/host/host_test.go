package host_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
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

// TestFamilies has nodes with mesh addresses of one family only, over underlays
// of either: what is a peer's in the other family is told.
func TestFamilies(t *testing.T) {
	for _, family := range []int{0, 1} {
		for _, underlay := range []int{0, 1} {
			t.Run(fmt.Sprintf("family %d, underlay %d", family, underlay), func(t *testing.T) {
				w := newWorld(t)
				for _, s := range []*side{w.a, w.b} {
					d := w.desired(s, underlay == 1)
					d.Mesh = []netip.Addr{s.mesh[family]}
					h := s.open(w.other(s).underlay[underlay])
					must(t, h.Apply(d))
					if problems := h.Problems(); len(problems) != 1 || !strings.Contains(problems[0].What, "no mesh address") {
						t.Errorf("problems %v", problems)
					}
				}
				for _, from := range []*netspace.Space{w.a.pod, w.a.node} {
					want := w.a.addr[family]
					if from == w.a.node {
						want = w.a.mesh[family]
					}
					if got, err := ask(from, w.b.pod, w.b.addr[family], netip.Addr{}); err != nil || got != want {
						t.Errorf("client %v, %v; want %v", got, err, want)
					}
				}
				flag := []string{"-6", "-4"}[family] // the other family
				if text := w.a.run(w.a.node, "ip", flag, "rule"); strings.Contains(text, "8473") {
					t.Errorf("rules %s", text)
				}
				if text := w.a.run(w.a.node, "ip", flag, "addr", "show", "dev", "mesh0", "scope", "global"); text != "" {
					t.Errorf("addresses %s", text)
				}
			})
		}
	}
}

// TestMeshAddress gives a node other mesh addresses under traffic of its pods:
// they notice nothing, and the node itself speaks from the new ones.
func TestMeshAddress(t *testing.T) {
	w := newWorld(t)
	a, b := w.join(false)
	stop := stream(t, w.a.pod, w.b.pod, w.b.addr[0])
	old := w.a.mesh
	w.a.mesh = []netip.Addr{netip.MustParseAddr("10.200.7.7"), netip.MustParseAddr("fd00:200:7::7")}
	// The peers learn of the new ones before the node has them.
	must(t, b.Apply(w.desired(w.b, false)), a.Apply(w.desired(w.a, false)))
	for i := range 2 {
		if got, err := ask(w.a.node, w.b.pod, w.b.addr[i], netip.Addr{}); err != nil || got != w.a.mesh[i] {
			t.Errorf("client %v, %v; want %v", got, err, w.a.mesh[i])
		}
	}
	if stop() == 0 {
		t.Error("nothing was asked")
	}
	state := w.a.state()
	for _, address := range old {
		if strings.Contains(state, address.String()+" ") || strings.Contains(state, address.String()+"/") {
			t.Errorf("%s is left:\n%s", address, state)
		}
	}
	if problems := a.Problems(); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
}

// BenchmarkPass is what a look costs that finds nothing to do, on a node of a
// large mesh.
func BenchmarkPass(b *testing.B) {
	for _, ranges := range []int{10, 5000} {
		b.Run(fmt.Sprintf("%d ranges", ranges), func(b *testing.B) {
			labtest.RequireRoot(b)
			path := filepath.Join(b.TempDir(), "node")
			space, err := netspace.New(path)
			must(b, err)
			defer func() { must(b, space.Close(), netspace.Remove(path)) }()
			var h *host.Host
			must(b, space.Do(func() (err error) { h, err = host.Open(host.Config{}); return err }))
			defer h.Close()
			d := host.Desired{Mesh: []netip.Addr{netip.MustParseAddr("10.200.0.1")}}
			for i := range ranges {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24)
				d.Routes = append(d.Routes, host.Route{Prefix: p, Mode: route.VXLAN})
			}
			must(b, h.Apply(d), h.Apply(d))
			for b.Loop() {
				must(b, h.Apply(d))
			}
		})
	}
}
