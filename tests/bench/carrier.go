package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/causeway-mesh/causeway/tests/lab/netfilter"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// The two sides of a carrier; the client is on the first one.
const sides = 2

// What a side's addresses are. Each side is a cluster of its own.
func nodeAddress(side int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + side)}) }
func meshAddress(side int) netip.Addr { return netip.AddrFrom4([4]byte{10, 32, 0, byte(1 + side)}) }
func podRange(side int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(64 * (1 + side)), 0, 0}), 10)
}
func podAddress(side int) netip.Addr { return podRange(side).Addr().Next() }

const (
	uplink     = "eth0"
	plainVXLAN = "vxlan0"
)

// carrier is two nodes on one wire with a pod behind each, and what carries
// packets between the pods.
type carrier struct {
	nodes, pods [sides]*netspace.Space
	server      *part
	client      *part
}

// newCarrier makes the namespaces, below dir, and the routes that any node has.
func newCarrier(dir string) (c *carrier, err error) {
	c = &carrier{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	for side := range sides {
		if c.nodes[side], err = netspace.New(filepath.Join(dir, fmt.Sprint("node-", side))); err != nil {
			return c, err
		}
		if c.pods[side], err = netspace.New(filepath.Join(dir, fmt.Sprint("pod-", side))); err != nil {
			return c, err
		}
	}
	if err := c.nodes[0].AddPair(uplink, c.nodes[1], uplink); err != nil {
		return c, err
	}
	for side := range sides {
		if err := c.wire(side); err != nil {
			return c, err
		}
	}
	return c, nil
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// wire gives a node its address and its pod.
func (c *carrier) wire(side int) error {
	node, pod := c.nodes[side], c.pods[side]
	gateway := netip.MustParseAddr("169.254.1.1")
	if err := node.AddPair("pod0", pod, uplink); err != nil {
		return err
	}
	return errors.Join(
		node.AddAddress(uplink, single(nodeAddress(side))),
		node.AddRoute(netspace.Route{To: single(nodeAddress(1 - side)), Device: uplink, From: nodeAddress(side)}),
		node.AddAddress("pod0", single(gateway)),
		node.AddRoute(netspace.Route{To: single(podAddress(side)), Device: "pod0", From: nodeAddress(side)}),
		pod.AddAddress(uplink, single(podAddress(side))),
		pod.AddRoute(netspace.Route{To: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway, Device: uplink}),
	)
}

// masquerade makes the nodes do what a CNI does: what pods send gets the node's
// address, unless it goes to one of the ranges that are pods'.
func (c *carrier) masquerade(knows func(side int) []netip.Prefix) error {
	for side, node := range c.nodes {
		var rules []netfilter.Rule
		for _, known := range knows(side) {
			rules = append(rules, netfilter.Join(netfilter.Target(known), netfilter.Accept()))
		}
		rules = append(rules, netfilter.Join(netfilter.Source(podRange(side)), netfilter.Masquerade()))
		err := netfilter.Write(node, netfilter.Table{Family: netfilter.FamilyIPv4, Name: "cni", Chains: []netfilter.Chain{{
			Name: "postrouting", Type: nftables.ChainTypeNAT,
			Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Rules: rules,
		}}})
		if err != nil {
			return err
		}
	}
	return nil
}

func everybody(int) []netip.Prefix      { return []netip.Prefix{podRange(0), podRange(1)} }
func itself(side int) []netip.Prefix    { return []netip.Prefix{podRange(side)} }
func (c *carrier) knowEverybody() error { return c.masquerade(everybody) }
func (c *carrier) knowThemselves() error {
	return c.masquerade(itself)
}

// routeDirect sends pods' packets over the wire as they are.
func (c *carrier) routeDirect() error {
	var errs []error
	for side, node := range c.nodes {
		errs = append(errs, node.AddRoute(netspace.Route{To: podRange(1 - side), Via: nodeAddress(1 - side), Device: uplink}))
	}
	return errors.Join(errs...)
}

// routeVXLAN sends them through a tunnel of the kernel's own.
func (c *carrier) routeVXLAN() error {
	for side, node := range c.nodes {
		attributes := netlink.NewLinkAttrs()
		attributes.Name, attributes.MTU = plainVXLAN, 1450
		link := &netlink.Vxlan{
			LinkAttrs: attributes, VxlanId: 7, Port: 8472, Learning: true,
			SrcAddr: nodeAddress(side).AsSlice(), Group: nodeAddress(1 - side).AsSlice(),
		}
		err := node.Do(func() error { return netlink.LinkAdd(link) })
		if err == nil {
			err = node.SetUp(plainVXLAN)
		}
		if err == nil {
			err = node.AddAddress(plainVXLAN, single(meshAddress(side)))
		}
		if err == nil {
			route := netspace.Route{To: podRange(1 - side), Via: meshAddress(1 - side), Device: plainVXLAN}
			err = errors.Join(node.AddRoute(netspace.Route{To: single(route.Via), Device: plainVXLAN}), node.AddRoute(route))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// open starts the server and the client.
func (c *carrier) open(ctx context.Context) (err error) {
	if c.server, err = startIn(ctx, c.pods[1], partSink); err != nil {
		return err
	}
	if _, err := c.server.stdout.ReadString('\n'); err != nil {
		return fmt.Errorf("the server ended: %w", err)
	}
	c.client, err = startIn(ctx, c.pods[0], partSource, podAddress(1).String())
	return err
}

// startIn starts a part in a namespace.
func startIn(ctx context.Context, space *netspace.Space, args ...string) (*part, error) {
	return startPart(ctx, func(command *exec.Cmd) error { return space.Do(command.Start) }, nil, args...)
}

func (c *carrier) close() error {
	var errs []error
	for _, p := range []*part{c.client, c.server} {
		if p != nil {
			_ = p.stdin.Close() // it may have ended already
			errs = append(errs, p.command.Wait())
		}
	}
	for _, space := range append(c.nodes[:], c.pods[:]...) {
		if space != nil {
			errs = append(errs, space.Close(), netspace.Remove(space.Path()))
		}
	}
	return errors.Join(errs...)
}

// ask sends a line and returns the numbers of the one that comes back.
func (p *part) ask(line string, numbers ...any) error {
	if _, err := fmt.Fprintln(p.stdin, line); err != nil {
		return err
	}
	answer, err := p.stdout.ReadString('\n')
	if err != nil {
		return fmt.Errorf("a process of the benchmark ended: %w", err)
	}
	if _, err := fmt.Sscan(answer, numbers...); err != nil {
		return fmt.Errorf("answer %q: %w", answer, err)
	}
	return nil
}
