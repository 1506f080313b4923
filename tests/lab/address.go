package lab

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// Readdress gives nodes other addresses, all at once: so they may swap them. Every
// node knows the ways to the new ones, and none to those that nobody has any more;
// what the manifests say is the caller's. The pods of these nodes must be of the
// lab's own wiring, and none on its node's network.
func (l *Lab) Readdress(to map[*Node][]netip.Addr) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	var former []netip.Addr
	for n, ips := range to {
		for _, ip := range n.IPs {
			errs = append(errs, n.space.DeleteAddress(uplinkDevice, single(ip)))
		}
		former = append(former, n.IPs...)
		n.IPs = slices.Clone(ips)
	}
	for n := range to {
		for _, ip := range n.IPs {
			errs = append(errs, n.space.AddAddress(uplinkDevice, single(ip)))
		}
	}
	for _, n := range l.nodes {
		errs = append(errs, n.forget(former), n.space.ForgetNeighbours(uplinkDevice))
	}
	for n := range to {
		errs = append(errs, n.reconnect())
	}
	return errors.Join(errs...)
}

// forget takes away the routes to addresses of other nodes.
func (n *Node) forget(ips []netip.Addr) error {
	var errs []error
	for _, ip := range ips {
		route := netspace.Route{To: single(ip), Device: uplinkDevice}
		errs = append(errs, n.space.ForgetRoute(route))
		if n.Cluster.Network.SourceTables {
			route.Table = sourceTable
			errs = append(errs, n.space.ForgetRoute(route))
		}
	}
	return errors.Join(errs...)
}

// reconnect makes all routes again that come from or lead to the node: with a source
// that goes away the kernel takes those away that name it.
func (n *Node) reconnect() error {
	var errs []error
	for _, other := range n.lab.nodes {
		if other != n {
			errs = append(errs, n.routeTo(other), other.routeTo(n))
		}
	}
	if n.Cluster.Network.Kind == Routed {
		errs = append(errs, n.routeOut())
	}
	for _, pod := range n.pods {
		for _, ip := range pod.IPs {
			errs = append(errs, pod.route(ip))
		}
	}
	return errors.Join(errs...)
}
