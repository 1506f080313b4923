package hostile

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// second changes a node's value into that of a second one, with addresses of its own.
func (p *peer) second(n *node.Node) {
	n.Name = "n2"
	n.Addresses = []node.Address{{Type: node.InternalIP, IP: p.v4(12, 0, 2)}, {Type: node.CiliumInternalIP, IP: p.v4(14, 0, 2)}}
	n.PodCIDRs, n.HealthIPs = []netip.Prefix{netip.PrefixFrom(p.v4(11, 2, 0), 24)}, []netip.Addr{p.v4(11, 2, 200)}
}

// nodeCase is a case of a second node that is changed.
func nodeCase(name string, why trust.Reason, change func(*peer, *node.Node)) semantic {
	return one("node "+name, func(p *peer) saying {
		value := p.nodeValue(func(n *node.Node) {
			p.second(n)
			change(p, n)
		})
		return saying{key: p.layout().NodeKey("n2"), value: value, why: why}
	})
}

// losing is the same of a node that is believed but for some of it.
func losing(name string, loses trust.Reason, change func(*peer, *node.Node)) semantic {
	c := nodeCase(name, trimmed, change)
	says := c.says
	c.says = func(p *peer) []saying {
		all := says(p)
		all[0].loses = loses
		return all
	}
	return c
}

func nodes() []semantic {
	internal := func(name string, why trust.Reason, ip netip.Addr) semantic {
		return nodeCase("at "+name, why, func(_ *peer, n *node.Node) { n.Addresses[0].IP = ip })
	}
	mesh := func(name string, why trust.Reason, ip netip.Addr) semantic {
		return nodeCase("in the mesh at "+name, why, func(_ *peer, n *node.Node) { n.Addresses[1].IP = ip })
	}
	health := func(name string, why trust.Reason, ip netip.Addr) semantic {
		return nodeCase("with the health address of "+name, why, func(_ *peer, n *node.Node) { n.HealthIPs = []netip.Addr{ip} })
	}
	pods := func(name string, loses trust.Reason, text string) semantic {
		return losing("with the pod range "+name, loses, func(_ *peer, n *node.Node) {
			n.PodCIDRs = append(n.PodCIDRs, netip.MustParsePrefix(text))
		})
	}
	raw := func(name string, why trust.Reason, old, now string) semantic {
		return one("node "+name, func(p *peer) saying {
			return saying{key: p.layout().NodeKey("n2"), why: why, value: bytes.ReplaceAll(p.nodeValue(p.second), []byte(old), []byte(now))}
		})
	}
	return []semantic{
		nodeCase("that is its own", "", func(*peer, *node.Node) {}),
		internal("our node's address", trust.AddressConflict, ourNode()),
		internal("our pod's", trust.AddressConflict, ourPod()),
		internal("another peer's pod's", trust.AddressConflict, honestPod()),
		internal("another peer's node's", trust.AddressRange, honestNode()),
		internal("nobody's", trust.AddressRange, netip.MustParseAddr("100.64.0.1")),
		internal("loopback", trust.AddressRange, netip.MustParseAddr("127.0.0.1")),
		internal("link-local", trust.AddressRange, netip.MustParseAddr("169.254.0.1")),
		internal("multicast", trust.AddressRange, netip.MustParseAddr("239.0.0.1")),
		internal("unspecified", trust.AddressRange, netip.MustParseAddr("0.0.0.0")),
		mesh("our mesh address", trust.AddressConflict, ourMesh()),
		mesh("another peer's", trust.AddressConflict, honestMesh()),
		mesh("a node's address", trust.AddressRange, netip.MustParseAddr("100.64.0.2")),
		health("another peer's node", trust.AddressConflict, honestHealth()),
		health("our pod", trust.AddressConflict, ourPod()),
		health("nobody", trust.AddressRange, netip.MustParseAddr("100.64.0.3")),
		pods("0.0.0.0/0", trust.AddressRange, "0.0.0.0/0"),
		pods("::/0", trust.AddressRange, "::/0"),
		pods("of ours", trust.AddressConflict, "10.1.1.0/24"),
		pods("around ours", trust.AddressConflict, "10.1.0.0/16"),
		pods("of another peer", trust.AddressConflict, "11.2.1.0/24"),
		pods("around all peers", trust.AddressConflict, "11.0.0.0/8"),
		pods("of loopback", trust.AddressRange, "127.0.0.0/8"),
		pods("of multicast", trust.AddressRange, "224.0.0.0/4"),
		pods("of link-local", trust.AddressRange, "169.254.0.0/16"),
		losing("with our ingress address", trust.AddressConflict, func(_ *peer, n *node.Node) { n.IngressIPs = []netip.Addr{ourPod()} }),
		losing("with another peer's ingress address", trust.AddressConflict, func(_ *peer, n *node.Node) { n.IngressIPs = []netip.Addr{honestPod()} }),
		nodeCase("with another cluster id", trust.WrongCluster, func(_ *peer, n *node.Node) { n.ClusterID = 1 }),
		nodeCase("of another cluster", trust.WrongCluster, func(_ *peer, n *node.Node) { n.Cluster = "east" }),
		nodeCase("of another name", trust.WrongCluster, func(_ *peer, n *node.Node) { n.Name = "n3" }),
		nodeCase("with a cluster id that no mesh has", trust.WrongCluster, func(_ *peer, n *node.Node) { n.ClusterID = cluster.ID(511) }),
		raw("with invalid UTF-8", trust.Malformed, `"custom-resource"`, "\"\xff\xfe\""),
		raw("with a label of 100,000 bytes, which counts as bytes alone", "", `"Labels":null`, `"Labels":{"a":"`+strings.Repeat("l", 100_000)+`"}`),
		raw("with 5,000 labels", trust.TooLarge, `"Labels":null`, `"Labels":{`+manyLabels(5000)+`}`),
		raw("at mapped IPv4", trust.Malformed, `"IP":"12.`, `"IP":"::ffff:12.`),
		raw("with a wrong mask", trust.Malformed, `"Mask":"////AA=="`, `"Mask":"/wD/AA=="`),
		one("node key that is empty", func(p *peer) saying { return refuse(trust.Malformed, p.layout().NodeKey(""), p.nodeValue(p.second)) }),
		one("node key with a slash", func(p *peer) saying {
			return refuse(trust.Malformed, p.layout().NodeKey("n2/n3"), p.nodeValue(p.second))
		}),
		one("node key of another cluster", func(p *peer) saying {
			return saying{key: wire.Layout{Cluster: "east"}.NodeKey("n1"), value: p.nodeValue(nil), why: unheard}
		}),
	}
}

// manyLabels are the insides of a JSON object of labels.
func manyLabels(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, `"l%d":"v",`, i)
	}
	return strings.TrimSuffix(out.String(), ",")
}
