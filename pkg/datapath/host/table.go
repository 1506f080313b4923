package host

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// The next hops of our routes. Nobody has them: without one, each address behind
// the tunnel would take an entry of the neighbour table, which the CNI shares
// and which holds 1,024.
func nextHop(v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr("fe80::8473")
	}
	return netip.MustParseAddr("169.254.84.73")
}

func number(v6 bool) int {
	if v6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

// rule is the one rule of ours in a family.
func (c *Config) rule(v6 bool) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table, rule.Protocol = number(v6), RulePriority, c.Table, Protocol
	return rule
}

func isRule(is, wanted *netlink.Rule) bool {
	return is.Priority == wanted.Priority && is.Table == wanted.Table && is.Protocol == wanted.Protocol && !is.Invert &&
		is.Src == nil && is.Dst == nil && is.IifName == "" && is.OifName == "" && is.Mark == 0 && is.Mask == nil &&
		is.SuppressPrefixlen < 0 && is.SuppressIfgroup < 0 && is.Tos == 0 && is.IPProto == 0
}

// ruleName is how ip rule shows it.
func ruleName(r *netlink.Rule) string {
	text := fmt.Sprintf("%d:\tfrom ", r.Priority)
	if r.Src != nil {
		text += r.Src.String()
	} else {
		text += "all"
	}
	if r.Dst != nil {
		text += " to " + r.Dst.String()
	}
	if r.IifName != "" {
		text += " iif " + r.IifName
	}
	if r.Family == netlink.FAMILY_V6 {
		return text + fmt.Sprintf(" lookup %d (IPv6)", r.Table)
	}
	return text + fmt.Sprintf(" lookup %d (IPv4)", r.Table)
}

func (k *kernel) rules(v6 bool) ([]netlink.Rule, error) {
	rules, err := dump(func() ([]netlink.Rule, error) { return k.links.RuleList(number(v6)) })
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil // a kernel without IPv6
	}
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	return rules, nil
}

// rules makes sure that our table is asked, once, where our routes are in it.
func (w *work) rules(v6, asks bool, is []netlink.Rule) error {
	wanted, found := w.config.rule(v6), false
	for i := range is {
		if is[i].Protocol != Protocol {
			continue
		}
		if !found && asks && isRule(&is[i], wanted) {
			found = true
			continue
		}
		if err := w.kernel.links.RuleDel(&is[i]); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete rule %s: %w", ruleName(&is[i]), err)
		}
		w.changed(Rule, ruleName(&is[i]))
	}
	if found || !asks {
		return nil
	}
	if err := w.kernel.links.RuleAdd(wanted); err != nil {
		return fmt.Errorf("add rule %s: %w", ruleName(wanted), err)
	}
	w.changed(Rule, ruleName(wanted))
	return nil
}

// routes returns the routes of all tables of a family, without those that the
// kernel made for broadcast and the like, and those of devices that are down.
func (k *kernel) routes(v6 bool) ([]netlink.Route, error) {
	routes, err := dump(func() ([]netlink.Route, error) {
		return k.links.RouteListFiltered(number(v6), &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	})
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	return slices.DeleteFunc(routes, func(r netlink.Route) bool {
		return r.Type == unix.RTN_BROADCAST || r.Type == unix.RTN_ANYCAST || r.Type == unix.RTN_MULTICAST || r.Flags&unix.RTNH_F_DEAD != 0
	}), nil
}

// routes makes our routes of one family what the plan says, and returns those
// that go when the rule is there as well. A route comes after those that take
// parts of it back, and goes when what stands for it is there: a connection whose
// first packet went elsewhere would stay with the NAT it met.
func (w *work) routes(v6 bool, device *netlink.Vxlan, p plan, is []netlink.Route) (gone []netlink.Route, err error) {
	wanted := w.wantedRoutes(v6, device, p)
	for i := range is {
		if is[i].Protocol != Protocol {
			continue
		}
		prefix := prefixOf(is[i].Dst, v6)
		want, ok := wanted[prefix]
		switch {
		case ok && sameRoute(&is[i], &want):
			delete(wanted, prefix)
		case !ok || is[i].Table != want.Table:
			gone = append(gone, is[i])
		case is[i].Type == want.Type && samePriority(&is[i], &want):
			// What only has another source or device is replaced in one step.
		default: // IPv6 would keep both
			if err := w.deleteRoute(&is[i], v6); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range inOrder(slices.Collect(maps.Values(wanted)), v6, true) {
		if err := w.kernel.links.RouteReplace(&r); err != nil {
			return nil, fmt.Errorf("add route %s: %w", routeName(&r, v6), err)
		}
		w.changed(TableRoute, routeName(&r, v6))
	}
	return inOrder(gone, v6, false), nil
}

func (w *work) wantedRoutes(v6 bool, device *netlink.Vxlan, p plan) map[netip.Prefix]netlink.Route {
	wanted := map[netip.Prefix]netlink.Route{}
	base := netlink.Route{Table: p.table, Protocol: Protocol, Family: number(v6)}
	if p.table == unix.RT_TABLE_MAIN {
		base.Priority = MainMetric
	}
	for _, prefix := range p.leads {
		r := base
		r.Dst, r.LinkIndex, r.Type, r.Flags = ipNet(prefix), device.Index, unix.RTN_UNICAST, int(netlink.FLAG_ONLINK)
		r.Gw, r.Src = nextHop(v6).AsSlice(), route.Family(w.desired.Mesh, v6).AsSlice()
		wanted[prefix] = r
	}
	for _, prefix := range p.throws {
		r := base
		r.Dst, r.Type = ipNet(prefix), unix.RTN_THROW
		wanted[prefix] = r
	}
	return wanted
}

// inOrder sorts routes so that those that take parts back are the first, or the last.
func inOrder(routes []netlink.Route, v6, first bool) []netlink.Route {
	slices.SortFunc(routes, func(a, b netlink.Route) int {
		if (a.Type == unix.RTN_THROW) != (b.Type == unix.RTN_THROW) {
			if (a.Type == unix.RTN_THROW) == first {
				return -1
			}
			return 1
		}
		return route.Compare(prefixOf(a.Dst, v6), prefixOf(b.Dst, v6))
	})
	return routes
}

func (w *work) deleteRoute(r *netlink.Route, v6 bool) error {
	if err := w.kernel.links.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("delete route %s: %w", routeName(r, v6), err)
	}
	w.changed(TableRoute, routeName(r, v6))
	return nil
}

func sameRoute(is, want *netlink.Route) bool {
	if is.Table != want.Table || is.Type != want.Type || !samePriority(is, want) {
		return false
	}
	return is.Type != unix.RTN_UNICAST ||
		(is.LinkIndex == want.LinkIndex && is.Gw.Equal(want.Gw) && is.Src.Equal(want.Src) && is.MTU == 0)
}

// samePriority compares where it matters: in our own table nothing else has the
// same prefix.
func samePriority(is, want *netlink.Route) bool {
	return want.Priority == 0 || is.Priority == want.Priority
}

// routeName is how ip route shows it, as far as it says which one it is.
func routeName(r *netlink.Route, v6 bool) string {
	text := prefixOf(r.Dst, v6).String()
	if kind := typeName(r.Type); kind != "" {
		text = kind + " " + text
	}
	if len(r.Gw) > 0 && !net.IP(nextHop(v6).AsSlice()).Equal(r.Gw) {
		text += " via " + r.Gw.String()
	}
	return text + " table " + tableName(r.Table)
}

func typeName(kind int) string {
	switch kind {
	case unix.RTN_UNICAST:
		return ""
	case unix.RTN_LOCAL:
		return "local"
	case unix.RTN_BLACKHOLE:
		return "blackhole"
	case unix.RTN_UNREACHABLE:
		return "unreachable"
	case unix.RTN_PROHIBIT:
		return "prohibit"
	case unix.RTN_THROW:
		return "throw"
	}
	return fmt.Sprintf("type %d", kind)
}

func tableName(table int) string {
	switch table {
	case unix.RT_TABLE_LOCAL:
		return "local"
	case unix.RT_TABLE_MAIN:
		return "main"
	case unix.RT_TABLE_DEFAULT:
		return "default"
	}
	return fmt.Sprint(table)
}

// others returns what somebody else routes, in tables that a rule asks, where
// ours stand in that table. Default routes contradict nobody.
func (w *work) others(v6 bool, table int, device *netlink.Vxlan, routes []netlink.Route, rules []netlink.Rule) []foreign {
	asked := map[int]bool{table: true}
	for _, rule := range rules {
		// A rule of ours for another table goes with this pass.
		asked[rule.Table] = asked[rule.Table] || rule.Protocol != Protocol
	}
	var others []foreign
	for i := range routes {
		r := &routes[i]
		prefix := prefixOf(r.Dst, v6)
		tunnel := r.LinkIndex == device.Index
		if r.Protocol == Protocol || r.Type == unix.RTN_THROW || prefix.Bits() == 0 || !asked[r.Table] ||
			(tunnel && r.Type != unix.RTN_LOCAL) {
			continue
		}
		others = append(others, foreign{
			prefix: prefix, own: r.Type == unix.RTN_LOCAL, tunnel: tunnel, first: isFirst(r.Table, table),
			text: routeName(r, v6),
		})
	}
	return others
}

// asked reports rules before ours whose tables have an answer for what is to go
// into the tunnel. Rules for marked packets are left out: they are for proxies
// and tunnels of a CNI's own.
func (w *work) asked(v6 bool, leads []netip.Prefix, routes []netlink.Route, rules []netlink.Rule) {
	for i := range rules {
		rule := &rules[i]
		if rule.Protocol == Protocol || rule.Priority > RulePriority || rule.Mark != 0 ||
			rule.Table == unix.RT_TABLE_LOCAL || rule.Table == unix.RT_TABLE_UNSPEC {
			continue
		}
		for j := range routes {
			r := &routes[j]
			prefix := prefixOf(r.Dst, v6)
			if r.Table != rule.Table || r.Type == unix.RTN_THROW || prefix.Bits() <= rule.SuppressPrefixlen ||
				!slices.ContainsFunc(leads, prefix.Overlaps) {
				continue
			}
			w.problem(Problem{
				What:  "a rule before ours routes packets to a peer elsewhere",
				Where: fmt.Sprintf("rule %s, route %s", ruleName(rule), routeName(r, v6)),
				Do:    fmt.Sprintf("give that rule a priority above %d, or take peers' ranges out of its table", RulePriority),
			})
			break
		}
	}
}
