package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netfilter"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// What a test's own tunnel is made of: a VXLAN device of the kernel, as far from
// ours as possible.
const (
	tunnelDevice = "tunnel0"
	tunnelTable  = 77
)

// end is one node's end of a tunnel between two.
type end struct {
	node, far *lab.Node
	v6        bool // of the underlay
}

// mesh is an address of the node in the tunnel.
func (e end) mesh(v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprint("fd00:99::", e.node.Cluster.ID))
	}
	return netip.MustParseAddr(fmt.Sprint("10.99.0.", e.node.Cluster.ID))
}

// open makes the device, which sends everything to the far node, and gives it
// the node's mesh addresses.
func (e end) open(t *testing.T) {
	t.Helper()
	attributes := netlink.NewLinkAttrs()
	attributes.Name = tunnelDevice
	overhead := 50
	if e.v6 {
		overhead = 70
	}
	attributes.MTU = 1500 - overhead
	must(t, e.node.Space().Do(func() error {
		link := &netlink.Vxlan{
			LinkAttrs: attributes, VxlanId: 7, Port: 8473, Learning: false,
			SrcAddr: e.node.IP(e.v6).AsSlice(), Group: e.far.IP(e.v6).AsSlice(),
		}
		return netlink.LinkAdd(link)
	}), e.node.Space().SetUp(tunnelDevice))
	for _, v6 := range []bool{false, true} {
		must(t, e.node.Space().AddAddress(tunnelDevice, netip.PrefixFrom(e.mesh(v6), e.mesh(v6).BitLen())))
	}
}

// route sends what is for the far cluster's pods, and for its mesh address, into
// the tunnel, by a table of its own or by the main one.
func (e end) route(t *testing.T, table int, source bool) {
	t.Helper()
	far := end{node: e.far}
	for _, v6 := range []bool{false, true} {
		from := e.mesh(v6)
		if !source {
			from = e.node.IP(v6)
		}
		via := far.mesh(v6)
		direct := netspace.Route{To: netip.PrefixFrom(via, via.BitLen()), Device: tunnelDevice, From: from, Table: table}
		must(t, e.node.Space().AddRoute(direct))
		for _, n := range e.far.Cluster.Nodes() {
			for _, r := range n.PodCIDRs {
				if r.Addr().Is6() == v6 {
					must(t, e.node.Space().AddRoute(netspace.Route{To: r, Via: via, Device: tunnelDevice, From: from, Table: table}))
				}
			}
		}
	}
	if table == 0 {
		return
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		must(t, e.node.Space().AddRule(netspace.Rule{Priority: 100, To: netip.MustParsePrefix(all), Table: table}))
	}
}

// keepSources stops the CNI's masquerade for what goes into the tunnel.
func (e end) keepSources(t *testing.T) {
	t.Helper()
	for _, family := range []nftables.TableFamily{netfilter.FamilyIPv4, netfilter.FamilyIPv6} {
		var rules []netfilter.Rule
		for _, r := range e.node.PodCIDRs {
			if r.Addr().Is6() == (family == netfilter.FamilyIPv6) {
				rules = append(rules, netfilter.Join(netfilter.Out(tunnelDevice), netfilter.KeepSource(r)))
			}
		}
		must(t, netfilter.Write(e.node.Space(), netfilter.Table{Family: family, Name: "tunnel", Chains: []netfilter.Chain{{
			Name: "postrouting", Type: nftables.ChainTypeNAT,
			Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(90), Rules: rules,
		}}}))
	}
}

// acceptForward adds to the host's own chain: another chain's accept is not
// enough where this one drops.
func (e end) acceptForward(t *testing.T) {
	t.Helper()
	for _, family := range []nftables.TableFamily{netfilter.FamilyIPv4, netfilter.FamilyIPv6} {
		table := netfilter.Table{Family: family, Name: "filter"}
		must(t, netfilter.Append(e.node.Space(), table, "FORWARD",
			netfilter.Join(netfilter.In(tunnelDevice), netfilter.Accept()),
			netfilter.Join(netfilter.Out(tunnelDevice), netfilter.Accept())))
	}
}

// pair is two clusters with a pod each on the tunnel's two nodes.
type pair struct {
	near, far   end
	client, web *lab.Pod
}

func newPair(t *testing.T, network lab.Network, underlay labtest.Underlay) pair {
	t.Helper()
	l := labtest.New(t)
	east := labtest.AddSite(t, l, labtest.Site{Name: "east", ID: 1, Underlay: underlay, Network: network})
	west := labtest.AddSite(t, l, labtest.Site{Name: "west", ID: 2, Underlay: underlay, Network: network})
	p := pair{client: shopPod(t, east, "client"), web: shopPod(t, west, "web")}
	v6 := underlay == labtest.IPv6
	p.near, p.far = end{p.client.On, p.web.On, v6}, end{p.web.On, p.client.On, v6}
	for _, e := range p.ends() {
		e.open(t)
	}
	return p
}

func (p pair) ends() []end { return []end{p.near, p.far} }

// TestTunnel shows that a routed lab is one that a tunnel helps: with it pods and
// nodes reach the other cluster's pods, on each face and with each family below,
// and the pods' own addresses are seen, if what a tunnel has to do is done.
func TestTunnel(t *testing.T) {
	labtest.RequireRoot(t)
	for name, network := range labtest.Faces() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, underlay := range []labtest.Underlay{labtest.IPv4, labtest.IPv6} {
				p := newPair(t, network, underlay)
				for _, e := range p.ends() {
					e.route(t, tunnelTable, true)
					e.keepSources(t)
					if network.DropForward {
						e.acceptForward(t)
					}
				}
				for i, ip := range p.web.IPs {
					wantSource(t, p.client.Place, ip, 8080, p.client.IPs[i])
					wantSource(t, p.client.On.Place, ip, 8080, p.near.mesh(ip.Is6()))
					wantBytes(t, p.client.Place, ip)
				}
				for _, c := range []*lab.Cluster{p.client.On.Cluster, p.web.On.Cluster} {
					if n := leaks(t, c); n > 0 {
						t.Errorf("%d packets of %s leaked", n, c.Name)
					}
				}
			}
		})
	}
}

// wantBytes sends 1 MiB by TCP, which must come back, and 8 KiB by UDP.
func wantBytes(t *testing.T, from *lab.Place, ip netip.Addr) {
	t.Helper()
	for protocol, size := range map[string]int{workload.TCP: 1 << 20, workload.UDP: 8 << 10} {
		result, err := from.Exchange(t.Context(), protocol, at(ip, 8080), size)
		must(t, err)
		if result.Error != "" || result.Bytes != size {
			t.Errorf("%d bytes from %s to %s by %s: %s", size, from, ip, protocol, result.Error)
		}
	}
}

// TestFaces leaves out what each face asks of a tunnel: then it is in the way.
func TestFaces(t *testing.T) {
	labtest.RequireRoot(t)
	tests := map[string]struct {
		network lab.Network
		open    func(*testing.T, pair)
		check   func(*testing.T, pair, netip.Addr)
	}{
		"masquerade hides the pod": {
			network: lab.Network{Kind: lab.Routed},
			open:    func(*testing.T, pair) {},
			check: func(t *testing.T, p pair, ip netip.Addr) {
				wantSource(t, p.client.Place, ip, 8080, p.near.mesh(ip.Is6()))
			},
		},
		"so does a plugin's": {
			network: lab.Network{Kind: lab.Routed, Plugin: "bridge"},
			open:    func(*testing.T, pair) {},
			check: func(t *testing.T, p pair, ip netip.Addr) {
				wantSource(t, p.client.Place, ip, 8080, p.near.mesh(ip.Is6()))
			},
		},
		"strict return path drops a node's own address": {
			network: lab.Network{Kind: lab.Routed, StrictReturnPath: true},
			open: func(t *testing.T, p pair) {
				p.near.route(t, tunnelTable, false)
			},
			check: func(t *testing.T, p pair, ip netip.Addr) {
				wantNothing(t, p.client.On.Place, ip, 8080)
			},
		},
		"source tables do not ask the main one": {
			network: lab.Network{Kind: lab.Routed, SourceTables: true},
			open: func(t *testing.T, p pair) {
				for _, e := range p.ends() {
					must(t, e.unrule())
					e.route(t, 0, true)
				}
			},
			check: func(t *testing.T, p pair, ip netip.Addr) {
				wantNothing(t, p.client.Place, ip, 8080)
			},
		},
		"forward drop drops": {
			network: lab.Network{Kind: lab.Routed, DropForward: true},
			open:    func(*testing.T, pair) {},
			check: func(t *testing.T, p pair, ip netip.Addr) {
				wantNothing(t, p.client.Place, ip, 8080)
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, test.network, labtest.Dual)
			for _, e := range p.ends() {
				e.route(t, tunnelTable, true)
			}
			test.open(t, p)
			for _, ip := range p.web.IPs {
				test.check(t, p, ip)
			}
		})
	}
}

// unrule takes the rule of route back.
func (e end) unrule() error {
	var err error
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		rule := netspace.Rule{Priority: 100, To: netip.MustParsePrefix(all), Table: tunnelTable}
		err = errors.Join(err, e.node.Space().DeleteRule(rule))
	}
	return err
}

// TestMTU gives pods an MTU that no way has room for, and the nodes another one
// while they talk.
func TestMTU(t *testing.T) {
	network := lab.Network{Kind: lab.Routed, MTU: 1400, PodMTU: 9001}
	p := newPair(t, network, labtest.Dual)
	far := shopPod(t, p.web.On.Cluster, "host")
	wantSegments(t, p.client.On, far, 1400)
	near := shopPod(t, p.client.On.Cluster, "web")
	for _, ip := range near.IPs {
		wantBytes(t, p.client.Place, ip) // the node tells the pod what fits
	}
	must(t, p.far.node.SetMTU(1300))
	wantSegments(t, p.client.On, far, 1300) // the others know
	must(t, p.near.node.SetMTU(1280))
	wantSegments(t, p.client.On, far, 1280)
	must(t, p.near.node.SetMTU(1500), p.far.node.SetMTU(9000))
	wantSegments(t, p.client.On, far, 1500)
}

// TestSeparate puts routers between two clusters, which tell what does not fit.
func TestSeparate(t *testing.T) {
	labtest.RequireRoot(t)
	l := labtest.New(t)
	network := lab.Network{Kind: lab.Routed}
	east := labtest.AddSite(t, l, labtest.Site{Name: "east", ID: 1, Network: network})
	west := labtest.AddSite(t, l, labtest.Site{Name: "west", ID: 2, Network: network})
	ends := []*lab.Pod{shopPod(t, east, "host"), shopPod(t, west, "host")}
	wantSegments(t, ends[0].On, ends[1], 1500)
	must(t, l.Separate(east, west, 1400))
	for i, from := range ends {
		to := ends[1-i]
		for _, ip := range to.IPs {
			result, err := from.Exchange(t.Context(), workload.TCP, at(ip, 8081), 1<<20)
			must(t, err)
			if result.Error != "" {
				t.Errorf("from %s to %s: %s", from, ip, result.Error)
			}
		}
		wantSegments(t, from.On, to, 1400)
	}
}

// wantSegments checks what TCP puts in a packet from a node to a pod on the
// other node's network.
func wantSegments(t *testing.T, from *lab.Node, to *lab.Pod, mtu int) {
	t.Helper()
	for _, ip := range to.IPs {
		want := mtu - 20 - 20 - 12 // headers and time stamps
		if ip.Is6() {
			want -= 20
		}
		result, err := from.Exchange(t.Context(), workload.TCP, at(ip, 8081), 100_000)
		must(t, err)
		if result.Error != "" || result.MSS != want {
			t.Errorf("to %s with an MTU of %d: want segments of %d, got %d (%s)", ip, mtu, want, result.MSS, result.Error)
		}
	}
}
