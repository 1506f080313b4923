package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// uplinkDevice is a node's and a pod's way out.
const uplinkDevice = "eth0"

// maxNodes is what the range of wire addresses has room for.
const maxNodes = 16_000

// NodeSpec says what a node has.
type NodeSpec struct {
	Name string
	// IPs are its InternalIPs, PodCIDRs the ranges that other nodes route to it.
	IPs      []netip.Addr
	PodCIDRs []netip.Prefix
}

// Node is a network namespace on its cluster's bridge with a cgroup of its own,
// under which its pods' lie. As a Place it is the node's system processes.
//
// Besides its IPs a node has an address of each family for the wire, which only
// routes name: so nodes may have any IPs, of one family or of both, and the
// pods' ranges of either family are reached all the same.
type Node struct {
	*Place
	NodeSpec
	Cluster *Cluster

	index  int
	bpffs  string
	mtu    int // of its uplink
	nextID int // of a pod's device
	pods   []*Pod
	// ranges are the PodCIDRs and, in a routed cluster, the addresses of pods
	// outside them.
	ranges []netip.Prefix
}

// AddNode makes a node that reaches, and is reached by, all others of the lab.
func (c *Cluster) AddNode(_ context.Context, spec NodeSpec) (*Node, error) {
	l := c.lab
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("the lab is closed")
	}
	if len(l.nodes) >= maxNodes {
		return nil, fmt.Errorf("the lab has %d nodes, no more fit", maxNodes)
	}
	root := filepath.Join(l.group, c.Name, fileName(spec.Name))
	place, err := l.newPlace(c.Name+"/"+spec.Name, filepath.Join(root, "system"))
	if err != nil {
		return nil, err
	}
	n := &Node{
		Place: place, NodeSpec: spec, Cluster: c, index: len(l.nodes), mtu: c.Network.mtu(),
		bpffs: filepath.Join(l.dir, bpfDir, fileName(c.Name, spec.Name)),
	}
	if err := n.connect(l.nodes); err != nil {
		return nil, errors.Join(fmt.Errorf("wire node %s: %w", place, err), place.space.Close())
	}
	l.nodes = append(l.nodes, n)
	return n, nil
}

func (n *Node) connect(others []*Node) error {
	if err := os.MkdirAll(n.bpffs, 0o700); err != nil {
		return fmt.Errorf("make its bpffs folder: %w", err)
	}
	root := n.lab.root
	if err := root.AddPair(n.port(), n.space, uplinkDevice); err != nil {
		return err
	}
	if err := root.Enslave(n.port(), n.Cluster.bridge()); err != nil {
		return err
	}
	if n.mtu != defaultMTU {
		if err := n.resize(n.mtu); err != nil {
			return err
		}
	}
	addresses := []netip.Prefix{netip.PrefixFrom(n.wire4(), 16), netip.PrefixFrom(n.wire6(), 64)}
	for _, ip := range n.IPs {
		addresses = append(addresses, single(ip))
	}
	for _, address := range addresses {
		if err := n.space.AddAddress(uplinkDevice, address); err != nil {
			return err
		}
	}
	for _, other := range others {
		if err := errors.Join(n.routeTo(other), other.routeTo(n)); err != nil {
			return err
		}
	}
	if n.Cluster.Network.Kind == Routed {
		return n.leave()
	}
	return nil
}

// routeTo makes the other node known to n, and its pods' ranges, unless one of
// their clusters keeps its own to itself.
func (n *Node) routeTo(other *Node) error {
	for _, ip := range other.IPs {
		route := netspace.Route{To: single(ip), Device: uplinkDevice, From: n.IP(ip.Is6()), MTU: n.pathMTU(other)}
		if err := n.addRoute(route); err != nil {
			return err
		}
	}
	flat := n.Cluster.Network.Kind == Flat && other.Cluster.Network.Kind == Flat
	if n.Cluster != other.Cluster && !flat {
		return nil
	}
	return n.routeRanges(other, other.PodCIDRs)
}

// routeRanges sends what is for ranges to the other node.
func (n *Node) routeRanges(other *Node, ranges []netip.Prefix) error {
	for _, cidr := range ranges {
		route := netspace.Route{
			To: cidr, Via: other.wire4(), Device: uplinkDevice, From: n.IP(cidr.Addr().Is6()), MTU: n.pathMTU(other),
		}
		if cidr.Addr().Is6() {
			route.Via = other.wire6()
		}
		if err := n.addRoute(route); err != nil {
			return err
		}
	}
	return nil
}

// pathMTU is what fits to the other node, 0 where that is all that n can send.
func (n *Node) pathMTU(other *Node) int {
	if other.mtu < n.mtu {
		return other.mtu
	}
	return 0
}

// SetMTU changes what fits on the node's wire, in bytes. All nodes know at once:
// the wire between them is no router that could tell.
func (n *Node) SetMTU(mtu int) error {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.mtu = mtu
	err := n.resize(mtu)
	for _, other := range n.lab.nodes {
		if other != n {
			err = errors.Join(err, n.routeTo(other), other.routeTo(n))
		}
	}
	return err
}

// resize sets the MTU at both ends of the node's wire.
func (n *Node) resize(mtu int) error {
	return errors.Join(n.lab.root.SetMTU(n.port(), mtu), n.space.SetMTU(uplinkDevice, mtu))
}

// IP returns the node's first address of a family, or the zero Addr.
func (n *Node) IP(v6 bool) netip.Addr {
	for _, ip := range n.IPs {
		if ip.Is6() == v6 {
			return ip
		}
	}
	return netip.Addr{}
}

// CgroupRoot is the node's whole part of the cgroup tree: what a data plane of
// this node attaches to.
func (n *Node) CgroupRoot() string { return filepath.Dir(n.group) }

// BPFFS is the node's folder of the lab's bpffs.
func (n *Node) BPFFS() string { return n.bpffs }

// StateDir is the folder for the agent's last state.
func (n *Node) StateDir() string { return filepath.Join(n.Cluster.dir(), "state", fileName(n.Name)) }

// Pods returns the node's pods in the order in which they were made.
func (n *Node) Pods() []*Pod {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	return append([]*Pod(nil), n.pods...)
}

// Cut takes the node, and its pods with it, off the network.
func (n *Node) Cut() error { return n.lab.root.SetDown(n.port()) }

// Heal ends what Cut did.
func (n *Node) Heal() error { return n.lab.root.SetUp(n.port()) }

func (n *Node) port() string { return fmt.Sprintf("n%d", n.index) }

// wire4 and wire6 are the node's addresses on the wire: link-local ones.
func (n *Node) wire4() netip.Addr {
	k := n.index + 1
	return netip.AddrFrom4([4]byte{169, 254, byte(64 + k>>8), byte(k)})
}

func (n *Node) wire6() netip.Addr {
	k := n.index + 1
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 12: 1, 14: byte(k >> 8), 15: byte(k)})
}
