package host

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where our routes of a family stand. In a table of our own, which a rule before
// those of others asks, they count whatever is routed by others' rules. But the
// first rule that anybody makes takes a short cut from each lookup of the
// network namespace, and the kernel never gives it back. So where there are no
// rules but the kernel's own, ours stand in the main table, until there are.
//
// What is true is read from the kernel at each pass and nothing is remembered:
// what the last agent did is how the next one goes on. Once there was a rule
// there is nothing to gain, so nothing moves back.

// place decides in which table our routes stand, and what they are.
func (w *work) place(v6 bool, leads []netip.Prefix, device *netlink.Vxlan, routes []netlink.Route, rules []netlink.Rule) plan {
	pods := slices.DeleteFunc(slices.Clone(w.desired.LocalPods), func(p netip.Prefix) bool { return p.Addr().Is6() != v6 })
	in := func(table int) plan {
		p := planRoutes(leads, pods, w.desired.around(v6), w.others(v6, table, device, routes, rules))
		p.table = table
		return p
	}
	if !hasTable(routes) && onlyDefault(v6, rules) && !hasDaemon(routes) {
		// What is thrown in the main table has no table behind it to go on to.
		if p := in(unix.RT_TABLE_MAIN); len(p.throws) == 0 {
			return p
		}
	}
	if slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Protocol == Protocol && r.Table == unix.RT_TABLE_MAIN }) {
		w.moved = true
		w.config.Logger.Info("routes to peers move from the main table to our own", "table", w.config.Table, "family", familyName(v6))
	}
	return in(w.config.Table)
}

func familyName(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

// hasTable reports whether routes of ours stand in a table of our own.
func hasTable(routes []netlink.Route) bool {
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Protocol == Protocol && r.Table != unix.RT_TABLE_MAIN })
}

// onlyDefault reports whether the rules are those that the kernel begins with,
// each once and for all packets.
func onlyDefault(v6 bool, rules []netlink.Rule) bool {
	missing := map[int]int{0: unix.RT_TABLE_LOCAL, 32766: unix.RT_TABLE_MAIN, 32767: unix.RT_TABLE_DEFAULT}
	if v6 {
		delete(missing, 32767)
	}
	for i := range rules {
		rule := netlink.NewRule()
		rule.Priority, rule.Table, rule.Protocol = rules[i].Priority, missing[rules[i].Priority], rules[i].Protocol
		if rule.Table == 0 || rule.Protocol == Protocol || !isRule(&rules[i], rule) {
			return false
		}
		delete(missing, rules[i].Priority)
	}
	return len(missing) == 0
}

// hasDaemon reports whether a routing daemon has routes in the kernel. Such a one
// may learn what else stands in the main table and tell other routers of it.
func hasDaemon(routes []netlink.Route) bool {
	return slices.ContainsFunc(routes, func(r netlink.Route) bool {
		switch r.Protocol {
		case unix.RTPROT_GATED, unix.RTPROT_MRT, unix.RTPROT_ZEBRA, unix.RTPROT_BIRD, unix.RTPROT_DNROUTED,
			unix.RTPROT_XORP, unix.RTPROT_NTK, unix.RTPROT_MROUTED, unix.RTPROT_BABEL, unix.RTPROT_OPENR,
			unix.RTPROT_BGP, unix.RTPROT_ISIS, unix.RTPROT_OSPF, unix.RTPROT_RIP, unix.RTPROT_EIGRP:
			return true
		}
		return false
	})
}

// isFirst reports whether what is more exact counts before ours by itself: what
// stands in the same table, and, for the main table, the node's own addresses,
// whose table the kernel asks before or together with it.
func isFirst(table, ours int) bool {
	return table == ours || (ours == unix.RT_TABLE_MAIN && table == unix.RT_TABLE_LOCAL)
}
