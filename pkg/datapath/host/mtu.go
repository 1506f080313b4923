package host

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// What a tunnel's headers take, in bytes: inner Ethernet 14, VXLAN 8, UDP 8, and
// IPv4 20 or IPv6 40.
const (
	overhead4 = 50
	overhead6 = 70
)

// defaultMTU is taken where no way to a node is known.
const defaultMTU = 1500

// minMTU6 is what IPv6 asks of every link; the kernel turns it off below.
const minMTU6 = 1280

// findMTU returns the MTU of the tunnel device.
func (w *work) findMTU() int {
	least := 0
	take := func(mtu int, v6 bool) {
		mtu -= overhead4
		if v6 {
			mtu -= overhead6 - overhead4
		}
		if least == 0 || mtu < least {
			least = mtu
		}
	}
	devices := map[int]int{}
	for _, node := range sample(w.desired.Nodes) {
		mtu := w.desired.MTU
		if mtu == 0 {
			mtu = w.pathMTU(node, devices)
		}
		if mtu != 0 {
			take(mtu, node.Is6())
		}
	}
	if least == 0 {
		mtu := w.desired.MTU
		if mtu == 0 {
			mtu = defaultMTU
		}
		take(mtu, false)
	}
	if w.hasFamily(true) && least < minMTU6 {
		w.noIPv6 = true
		w.problem(Problem{
			What:  fmt.Sprintf("the tunnel carries no IPv6: its MTU is %d, and IPv6 needs %d", least, minMTU6),
			Where: w.config.Device,
			Do:    fmt.Sprintf("raise the MTU of the network between the nodes to %d or more", minMTU6+overhead6),
		})
	}
	return max(least, 68) // the least that IPv4 has
}

// sample returns one address for each /24 or /64: nodes are many, and those of
// one network are reached by one device.
func sample(nodes []netip.Addr) []netip.Addr {
	seen := map[netip.Prefix]bool{}
	var some []netip.Addr
	for _, node := range nodes {
		bits := 24
		if node.Is6() {
			bits = 64
		}
		if network := netip.PrefixFrom(node, bits).Masked(); !seen[network] {
			seen[network] = true
			some = append(some, node)
		}
	}
	return some
}

// minLearned is the least that is believed of what was learnt by ICMP, which
// anybody can send: with it, the tunnel still carries IPv6.
const minLearned = minMTU6 + overhead6

// pathMTU returns the least MTU of the devices, and of the routes, by which a
// node is reached, and of what was learnt of the path; 0 when it is not reached.
// What was learnt counts for the whole tunnel: the kernel would tell the sender of
// a packet that is too large, but cannot where a program has chosen the tunnel,
// as the packet's own route is forgotten by then.
func (w *work) pathMTU(node netip.Addr, devices map[int]int) int {
	routes, err := w.kernel.links.RouteGetWithOptions(node.AsSlice(), &netlink.RouteGetOptions{FIBMatch: true})
	if err != nil {
		return 0
	}
	least := 0
	take := func(mtu int) {
		if mtu != 0 && (least == 0 || mtu < least) {
			least = mtu
		}
	}
	for _, r := range routes {
		take(r.MTU)
		take(w.deviceMTU(r.LinkIndex, devices))
		for _, hop := range r.MultiPath {
			take(w.deviceMTU(hop.LinkIndex, devices))
		}
	}
	paths, err := w.kernel.links.RouteGetWithOptions(node.AsSlice(), nil)
	if err != nil || least == 0 {
		return least
	}
	for _, r := range paths {
		if r.MTU >= minLearned {
			take(r.MTU)
		} else if r.MTU > 0 && r.MTU < least {
			w.problem(Problem{
				What:  fmt.Sprintf("packets of more than %d bytes do not reach a peer's node, by the word of a router: the tunnel needs %d", r.MTU, minLearned),
				Where: fmt.Sprintf("the path to %s", node),
				Do:    "raise the MTU of that path",
			})
		}
	}
	return least
}

// deviceMTU returns 0 for one that is gone, and for the loopback and the tunnel
// itself.
func (w *work) deviceMTU(index int, known map[int]int) int {
	if index == 0 {
		return 0
	}
	if mtu, ok := known[index]; ok {
		return mtu
	}
	mtu := 0
	if link, err := w.kernel.links.LinkByIndex(index); err == nil &&
		link.Type() != "loopback" && link.Attrs().Name != w.config.Device && link.Attrs().Name != "lo" {
		mtu = link.Attrs().MTU
	}
	known[index] = mtu
	return mtu
}
