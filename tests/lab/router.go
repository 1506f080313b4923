package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// The devices of a router: to its cluster's wire, and to the other router.
const (
	routerNear = "near"
	routerFar  = "far"
)

// router is one of two between the nodes of two clusters.
type router struct {
	space *netspace.Space
	index int // in the lab
	near  *Cluster
}

// Separate puts two routers between the nodes of two clusters, which are on one wire
// until then, and mtu bytes between the routers: what is larger they answer by ICMP.
// The clusters must have all their nodes, whose MTU stays as it is from then on.
func (l *Lab) Separate(a, b *Cluster, mtu int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var pair [2]*router
	for i, c := range []*Cluster{a, b} {
		r, err := l.addRouter(c)
		if err != nil {
			return fmt.Errorf("make a router of cluster %s: %w", c.Name, err)
		}
		pair[i] = r
	}
	err := pair[0].space.AddPair(routerFar, pair[1].space, routerFar)
	if err != nil {
		return err
	}
	for i, r := range pair {
		other := pair[1-i]
		err = errors.Join(err, r.address(routerFar), r.space.SetMTU(routerFar, mtu))
		for _, n := range r.near.members() {
			err = errors.Join(err, r.routeTo(n), n.routeBy(r, other.near))
		}
		for _, n := range other.near.members() {
			err = errors.Join(err, r.routeBy(other, n))
		}
	}
	return err
}

// addRouter makes a router on the cluster's wire; the lab's lock is held.
func (l *Lab) addRouter(c *Cluster) (*router, error) {
	r := &router{index: len(l.routers), near: c}
	name := fmt.Sprintf("router-%d", r.index)
	space, err := netspace.New(l.spacePath(name))
	if err != nil {
		return nil, err
	}
	r.space = space
	l.routers = append(l.routers, r)
	port := fmt.Sprintf("r%d", r.index)
	// Both routers hear whoever asks for either: only who is asked for answers. What
	// they say of themselves they say with addresses that anybody may have.
	err = errors.Join(space.Set("ipv4/conf/all/arp_ignore", "1"),
		space.AddAddress("lo", single(netip.AddrFrom4([4]byte{198, 51, 100, byte(1 + r.index)}))),
		space.AddAddress("lo", single(netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 4: 0xff, 15: byte(1 + r.index)}))))
	if err == nil {
		err = l.root.AddPair(port, space, routerNear)
	}
	if err == nil {
		err = errors.Join(l.root.Enslave(port, c.bridge()), r.address(routerNear))
	}
	return r, err
}

// address gives a device of the router those that others route to.
func (r *router) address(device string) error {
	return errors.Join(r.space.AddAddress(device, single(r.hop(device, false))), r.space.AddAddress(device, single(r.hop(device, true))))
}

func (r *router) hop(device string, v6 bool) netip.Addr {
	n := byte(1 + 2*r.index)
	if device == routerFar {
		n++
	}
	if v6 {
		return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 13: 0x62, 15: n})
	}
	return netip.AddrFrom4([4]byte{169, 254, 62, n})
}

func (r *router) routeTo(n *Node) error {
	var errs []error
	for _, ip := range n.IPs {
		errs = append(errs, r.space.AddRoute(netspace.Route{To: single(ip), Device: routerNear}))
	}
	return errors.Join(errs...)
}

func (r *router) routeBy(other *router, n *Node) error {
	var errs []error
	for _, ip := range n.IPs {
		errs = append(errs, r.space.AddRoute(netspace.Route{To: single(ip), Via: other.hop(routerFar, ip.Is6()), Device: routerFar}))
	}
	return errors.Join(errs...)
}

// routeBy leads what is for the far cluster's nodes to the router.
func (n *Node) routeBy(r *router, far *Cluster) error {
	var errs []error
	for _, other := range far.members() {
		for _, ip := range other.IPs {
			errs = append(errs, n.addRoute(netspace.Route{
				To: single(ip), Via: r.hop(routerNear, ip.Is6()), Device: uplinkDevice, From: n.IP(ip.Is6()),
			}))
		}
	}
	return errors.Join(errs...)
}
