package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/causeway-mesh/causeway/tests/lab/netfilter"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// sourceTable is what pods' packets are routed by where SourceTables is set. The
// priorities are those of a cloud's CNI, too.
const (
	sourceTable   = 2
	priorityToPod = 512
	priorityPod   = 1536
)

// openCore gives the core its gateway, and the cluster a table that keeps its
// pods' addresses off the core. The lab's lock is held.
func (l *Lab) openCore(c *Cluster) error {
	if !slices.ContainsFunc(l.clusters, func(other *Cluster) bool { return other.Network.Kind == Routed }) {
		for _, address := range []netip.Prefix{coreGateway4(), coreGateway6()} {
			if err := l.root.AddAddress(coreBridge, address); err != nil {
				return err
			}
		}
		// Or the clusters' bridges would answer for the core's.
		if err := l.root.Set("ipv4/conf/all/arp_ignore", "1"); err != nil {
			return err
		}
	}
	return netfilter.Write(l.root, c.leakTable())
}

// leakChain is the chain of a cluster's leakTable.
const leakChain = "leak"

func (c *Cluster) leakTable() netfilter.Table {
	return netfilter.Table{Family: netfilter.FamilyBridge, Name: "leak-" + c.bridge(), Chains: []netfilter.Chain{{
		Name: leakChain, Type: nftables.ChainTypeFilter,
		Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityFilter,
	}}}
}

// Leaks returns how many packets from or to pod addresses of a routed cluster
// were seen, and dropped, on the wire between the clusters.
func (c *Cluster) Leaks() (uint64, error) {
	if c.Network.Kind != Routed {
		return 0, fmt.Errorf("count leaks of cluster %s: it is not routed", c.Name)
	}
	return netfilter.Count(c.lab.root, c.leakTable(), leakChain)
}

// learn makes ranges known as pods' of the node: nobody else's addresses, and
// none for the core. The lab's lock is held; the node may not be listed yet.
func (n *Node) learn(ranges []netip.Prefix) error {
	n.ranges = append(n.ranges, ranges...)
	var rules []netfilter.Rule
	for _, r := range ranges {
		frame := netfilter.Join(netfilter.In("core-"), netfilter.EtherType(r.Addr().Is6()))
		refuse := netfilter.Join(netfilter.Counted(), netfilter.Drop())
		rules = append(rules,
			netfilter.Join(frame, netfilter.Source(r), refuse),
			netfilter.Join(frame, netfilter.Target(r), refuse))
	}
	if err := netfilter.Append(n.lab.root, n.Cluster.leakTable(), leakChain, rules...); err != nil {
		return err
	}
	members := n.Cluster.members()
	if !slices.Contains(members, n) {
		members = append(members, n)
	}
	var known []netip.Prefix
	for _, member := range members {
		known = append(known, member.ranges...)
	}
	for _, member := range members {
		if err := member.filter(known); err != nil {
			return err
		}
	}
	return nil
}

// members are the cluster's nodes; the lab's lock is held.
func (c *Cluster) members() []*Node {
	var members []*Node
	for _, n := range c.lab.nodes {
		if n.Cluster == c {
			members = append(members, n)
		}
	}
	return members
}

// leave gives a node of a routed cluster its way out, and its face.
func (n *Node) leave() error {
	if n.Cluster.Network.StrictReturnPath {
		for _, of := range []string{"all", "default"} {
			if err := n.space.Set("ipv4/conf/"+of+"/rp_filter", "1"); err != nil {
				return err
			}
		}
	}
	if err := n.routeOut(); err != nil {
		return err
	}
	return n.learn(n.PodCIDRs)
}

// routeOut leads what the node has no other route for to the core's gateway.
func (n *Node) routeOut() error {
	for _, way := range []struct{ to, gateway netip.Prefix }{{all4(), coreGateway4()}, {all6(), coreGateway6()}} {
		own := n.IP(way.to.Addr().Is6())
		if !own.IsValid() {
			continue // no underlay of this family
		}
		route := netspace.Route{To: way.to, Via: way.gateway.Addr(), Device: uplinkDevice, From: own}
		if err := n.addRoute(route); err != nil {
			return err
		}
	}
	return nil
}

// addRoute adds a route for what the node and its pods send.
func (n *Node) addRoute(route netspace.Route) error {
	err := n.space.AddRoute(route)
	if err == nil && n.Cluster.Network.SourceTables {
		route.Table = sourceTable
		err = n.space.AddRoute(route)
	}
	return err
}

// admit makes the addresses of a pod of a routed cluster reached from the
// cluster's other nodes, and what it sends routed by the node's face.
func (n *Node) admit(ips []netip.Addr) error {
	var outside []netip.Prefix
	for _, ip := range ips {
		if !slices.ContainsFunc(n.ranges, func(r netip.Prefix) bool { return r.Contains(ip) }) {
			outside = append(outside, single(ip))
		}
	}
	var errs []error
	if len(outside) > 0 {
		errs = append(errs, n.learn(outside))
		for _, other := range n.Cluster.members() {
			if other != n {
				errs = append(errs, other.routeRanges(n, outside))
			}
		}
	}
	for _, rule := range n.podRules(ips) {
		errs = append(errs, n.space.AddRule(rule))
	}
	return errors.Join(errs...)
}

// podRules are those by which a pod's packets find the table of the node's face.
func (n *Node) podRules(ips []netip.Addr) []netspace.Rule {
	if !n.Cluster.Network.SourceTables {
		return nil
	}
	var rules []netspace.Rule
	for _, ip := range ips {
		rules = append(rules,
			netspace.Rule{Priority: priorityToPod, To: single(ip)},
			netspace.Rule{Priority: priorityPod, From: single(ip), Table: sourceTable})
	}
	return rules
}

// filter writes what a routed cluster's node filters and translates; known are
// the pod ranges of all of the cluster.
func (n *Node) filter(known []netip.Prefix) error {
	network := n.Cluster.Network
	var tables []netfilter.Table
	for _, v6 := range []bool{false, true} {
		own, all := ofFamily(n.ranges, v6), ofFamily(known, v6)
		if network.Plugin == "" {
			tables = append(tables, masquerade(v6, own, all))
		}
		if network.DropForward {
			tables = append(tables, dropForward(v6, own, all))
		}
		if network.StrictReturnPath && v6 {
			tables = append(tables, strictReturnPath6())
		}
	}
	for _, table := range tables {
		if err := netfilter.Write(n.space, table); err != nil {
			return err
		}
	}
	return nil
}

func ofFamily(prefixes []netip.Prefix, v6 bool) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 })
}

func family(v6 bool) nftables.TableFamily {
	if v6 {
		return netfilter.FamilyIPv6
	}
	return netfilter.FamilyIPv4
}

// masquerade gives what own pods send out of the cluster the node's address.
func masquerade(v6 bool, own, all []netip.Prefix) netfilter.Table {
	var rules []netfilter.Rule
	for _, r := range all {
		rules = append(rules, netfilter.Join(netfilter.Target(r), netfilter.Accept()))
	}
	for _, r := range own {
		rules = append(rules, netfilter.Join(netfilter.Source(r), netfilter.Masquerade()))
	}
	return netfilter.Table{Family: family(v6), Name: "cni", Chains: []netfilter.Chain{{
		Name: "postrouting", Type: nftables.ChainTypeNAT,
		Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, Rules: rules,
	}}}
}

// dropForward is the table of iptables, with the policy that Docker sets and
// what a CNI has accepted: its pods by the devices that it knows.
func dropForward(v6 bool, own, all []netip.Prefix) netfilter.Table {
	rules := []netfilter.Rule{netfilter.Join(netfilter.Established(), netfilter.Accept())}
	uplink := netfilter.Device(uplinkDevice)
	for _, r := range own {
		rules = append(rules,
			netfilter.Join(netfilter.In(uplink), netfilter.Target(r), netfilter.Accept()),
			netfilter.Join(netfilter.Source(r), netfilter.Out(uplink), netfilter.Accept()))
		for _, from := range all {
			rules = append(rules, netfilter.Join(netfilter.Source(from), netfilter.Target(r), netfilter.Accept()))
		}
	}
	return netfilter.Table{Family: family(v6), Name: "filter", Chains: []netfilter.Chain{{
		Name: "FORWARD", Type: nftables.ChainTypeFilter, Drop: true,
		Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Rules: rules,
	}}}
}

// strictReturnPath6 is what firewalld does for IPv6, for which the kernel has no
// setting.
func strictReturnPath6() netfilter.Table {
	var rules []netfilter.Rule
	for kind := byte(133); kind <= 136; kind++ { // neighbours and routers are found before there are routes
		rules = append(rules, netfilter.Join(netfilter.ICMPv6(kind), netfilter.Accept()))
	}
	rules = append(rules, netfilter.Join(netfilter.NoWayBack(), netfilter.Counted(), netfilter.Drop()))
	return netfilter.Table{Family: netfilter.FamilyIPv6, Name: "firewalld", Chains: []netfilter.Chain{{
		Name: "rpfilter", Type: nftables.ChainTypeFilter,
		Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle, Rules: rules,
	}}}
}
