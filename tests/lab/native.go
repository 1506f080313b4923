package lab

import (
	"context"
	"errors"
	"net/netip"

	"github.com/causeway-mesh/causeway/tests/lab/netfilter"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// RoutePods makes the network between two routed clusters carry their pods' packets:
// nothing of it is dropped or counted any more, and a node's pod ranges, which shall
// be no neighbours of another node's, are reached by routes that are one bit shorter,
// as those of a network are. Their nodes go on giving what leaves the cluster their
// own address.
func (l *Lab) RoutePods(a, b *Cluster) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, way := range [][2]*Cluster{{a, b}, {b, a}} {
		errs = append(errs, netfilter.Write(l.root, way[0].leakTable()))
		for _, from := range way[0].members() {
			for _, to := range way[1].members() {
				errs = append(errs, from.routeWide(to))
			}
		}
	}
	return errors.Join(errs...)
}

// routeWide sends what is for the other node's ranges there.
func (n *Node) routeWide(other *Node) error {
	var errs []error
	for _, cidr := range other.PodCIDRs {
		wide := netip.PrefixFrom(cidr.Addr(), cidr.Bits()-1).Masked()
		route := netspace.Route{To: wide, Via: other.wire4(), Device: uplinkDevice, From: n.IP(cidr.Addr().Is6()), MTU: n.pathMTU(other)}
		if cidr.Addr().Is6() {
			route.Via = other.wire6()
		}
		errs = append(errs, n.addRoute(route))
	}
	return errors.Join(errs...)
}

// StartProbe starts the pod's part in finding out which way packets between clusters
// can take.
func (p *Pod) StartProbe(ctx context.Context) (*Process, error) {
	return p.Start(ctx, Command{
		Name: "probe-pod", Path: p.lab.binary("node-agent"), Args: []string{"probe-pod", "--log-level", "debug", "--log-format", "text"},
	})
}
