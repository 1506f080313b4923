package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// The identities of probe pods of east and west.
const (
	eastProbe identity.Number = 65900
	westProbe identity.Number = 131500
)

// withProbes gives both clusters a probe pod, and east one on another node.
func withProbes(s *told) {
	for n, cluster := range map[identity.Number]string{eastProbe: "east", westProbe: "west"} {
		s.labels[n] = identity.Labels("k8s:" + probe.PodLabel + "=true;k8s:io.cilium.k8s.policy.cluster=" + cluster + ";")
	}
	for text, o := range map[string]endpoint.Owner{
		"10.1.0.20/32": {Cluster: "east", Identity: eastProbe, HostIP: netip.MustParseAddr("192.0.2.11")},
		"10.1.0.21/32": {Cluster: "east", Identity: eastProbe, HostIP: netip.MustParseAddr("192.0.2.12")},
		"10.2.0.20/32": {Cluster: "west", Identity: westProbe, HostIP: netip.MustParseAddr("192.0.2.21")},
	} {
		s.addresses[prefix(text)] = &o
	}
}

// TestProbes: probe pods are known by their label, and where the native way to their
// cluster is tried beside a tunnel, they are reached past it.
func TestProbes(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	around := func() bool { return strings.Contains(r.kernel.text(), "{10.2.0.20/32 native}") }
	search := func(mode route.Mode, s route.Search) {
		r.say(feed.Reach{Nodes: true}, func(told *told) {
			p := *told.peers["west"]
			p.Mode, p.Search = mode, s
			told.peers["west"] = &p
		})
	}
	r.say(feed.Reach{All: true, Whole: true}, func(s *told) { two(s); withProbes(s) })
	n := r.asked.Load()
	if !slices.Equal(n.Probes, []netip.Addr{netip.MustParseAddr("10.1.0.20")}) || n.ID != 1 ||
		!slices.Equal(n.Peers[0].Probes, []probe.ProbePod{{Node: "w1", Addr: netip.MustParseAddr("10.2.0.20")}}) {
		t.Errorf("%+v", n)
	}
	if around() {
		t.Error("nothing is to be tried, but a probe pod is reached past the tunnel")
	}
	for _, test := range []struct {
		mode   route.Mode
		search route.Search
		around bool
	}{{route.VXLAN, route.Unfit, true}, {route.Native, route.Fit, false}, {route.VXLAN, route.Fit, true}, {route.VXLAN, route.NoSearch, false}} {
		search(test.mode, test.search)
		if around() != test.around || r.asked.Load().Peers[0].Search != test.search {
			t.Errorf("%s, %s: %s; %+v", test.mode, test.search, r.kernel.text(), r.asked.Load().Peers[0])
		}
	}

	// One that goes, or is another pod's by now, is none any more.
	search(route.VXLAN, route.Unfit)
	away, other := prefix("10.2.0.20/32"), prefix("10.1.0.20/32")
	r.say(feed.Reach{Addresses: []netip.Prefix{away, other}}, func(s *told) {
		delete(s.addresses, away)
		s.addresses[other] = &endpoint.Owner{Cluster: "east", Identity: 65800, HostIP: netip.MustParseAddr("192.0.2.11")}
	})
	if n := r.asked.Load(); len(n.Probes)+len(n.Peers[0].Probes) != 0 || around() {
		t.Errorf("%+v, %s", n, r.kernel.text())
	}
}

// A probe pod with a range of its own, outside of its nodes' ranges, is one route.
func TestProbeOutside(t *testing.T) {
	r := newRig(t, newTold(), newKernel())
	r.say(feed.Reach{All: true, Whole: true}, func(s *told) {
		two(s)
		withProbes(s)
		s.peers["west"].Search = route.Unfit
		s.setRange("10.7.0.20/32", "west")
		s.addresses[prefix("10.7.0.20/32")] = &endpoint.Owner{Cluster: "west", Identity: westProbe, HostIP: netip.MustParseAddr("192.0.2.21")}
	})
	if got := r.kernel.text(); !strings.Contains(got, "{10.7.0.20/32 native}") || strings.Contains(got, "{10.7.0.20/32 vxlan}") {
		t.Error(got)
	}
}

// Of very many probe pods all nodes look at the same few.
func TestManyProbes(t *testing.T) {
	k := newKnown("east", "e1")
	k.peers = map[string]*route.Peer{"west": {Cluster: "west", Search: route.Unfit, Mode: route.VXLAN}}
	for i := range 2 * probe.MaxProbes {
		k.probe(netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), &endpoint.Owner{Cluster: "west"}, true)
	}
	got := k.peerProbes()["west"]
	if len(got) != probe.MaxProbes || got[0] != netip.MustParseAddr("10.2.0.0") || got[probe.MaxProbes-1] != netip.MustParseAddr("10.2.0.255") {
		t.Error(fmt.Sprint(len(got)), got[0])
	}
}
