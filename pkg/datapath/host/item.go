package host

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The marks of what is ours. They are as good as a format: a later version finds
// by them what an earlier one left.
const (
	// Mark is the alias of the tunnel device, the name of the netfilter table,
	// and the first word of the comment of each netfilter rule.
	Mark = "causeway"
	// Protocol is the protocol number of our rules and routes.
	Protocol = 203
	// RulePriority is where our rules stand: behind the table of the node's own
	// addresses, before those of cloud CNIs that choose by a pod's address.
	RulePriority = 100
	// MainMetric is that of our routes where they stand in the main table, so that
	// they take nobody's place there.
	MainMetric = 8473
)

// Kind says what an Item is.
type Kind string

// The kinds of what is ours on a node.
const (
	Device       Kind = "device"
	Address      Kind = "address"
	Rule         Kind = "rule"
	TableRoute   Kind = "route"
	FilterTable  Kind = "nftables table"
	ForwardRule  Kind = "forward rule"
	DeviceConfig Kind = "setting"
)

// Item is one thing in the kernel that is ours.
type Item struct {
	Kind Kind
	// Name is what the kernel's own tools call it.
	Name string
	// Mark is how it is known to be ours.
	Mark string
}

// Problem is what a person should know, or act upon.
type Problem struct {
	// What is wrong, Where it is, and what to Do about it.
	What, Where, Do string
}

// markOf is how an item of that kind is known to be ours.
func markOf(kind Kind) string {
	switch kind {
	case Device:
		return "alias " + Mark
	case Rule, TableRoute:
		return fmt.Sprintf("protocol %d", Protocol)
	case FilterTable:
		return "name " + Mark
	case ForwardRule:
		return "comment " + Mark
	}
	return "device's alias " + Mark
}

// Items returns all that is ours in the kernel, whether it is desired or not, in
// a fixed order.
func (h *Host) Items() ([]Item, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var items []Item
	add := func(kind Kind, name string) { items = append(items, Item{kind, name, markOf(kind)}) }
	devices, err := h.kernel.ours()
	if err != nil {
		return nil, err
	}
	for _, device := range devices {
		add(Device, device.Attrs().Name)
		addresses, err := h.kernel.addresses(device)
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			add(Address, fmt.Sprintf("%s dev %s", a.IPNet, device.Attrs().Name))
		}
	}
	err = h.kernel.eachRoute(func(r *netlink.Rule) error { add(Rule, ruleName(r)); return nil },
		func(r *netlink.Route, v6 bool) error { add(TableRoute, routeName(r, v6)); return nil })
	if err != nil {
		return nil, err
	}
	err = h.kernel.eachFilter(func() error { add(FilterTable, "inet "+Mark); return nil },
		func(c *nftables.Chain, rules []readRule) error {
			for _, rule := range rules {
				add(ForwardRule, chainName(c)+": "+rule.comment)
			}
			return nil
		})
	return items, errors.Join(err, h.kernel.eachLegacy(func(l *legacy, rules []string) error {
		for _, rule := range rules {
			add(ForwardRule, l.program+" "+rule)
		}
		return nil
	}))
}

// eachRoute calls the functions for our rules and routes.
func (k *kernel) eachRoute(onRule func(*netlink.Rule) error, onRoute func(*netlink.Route, bool) error) error {
	for _, v6 := range []bool{false, true} {
		rules, err := k.rules(v6)
		if err != nil {
			return err
		}
		for i := range rules {
			if rules[i].Protocol == Protocol {
				err = errors.Join(err, onRule(&rules[i]))
			}
		}
		routes, listErr := k.routes(v6)
		for i := range routes {
			if routes[i].Protocol == Protocol {
				err = errors.Join(err, onRoute(&routes[i], v6))
			}
		}
		if err = errors.Join(err, listErr); err != nil {
			return err
		}
	}
	return nil
}

// eachFilter calls the functions for our netfilter table, and for our rules in
// others' chains.
func (k *kernel) eachFilter(onTable func() error, onRules func(*nftables.Chain, []readRule) error) error {
	chains, err := k.forwardChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		rules, err := k.filterRules(c.Table.Family, c.Table.Name, c.Name)
		if err == nil && len(marked(rules)) > 0 {
			err = onRules(c, marked(rules))
		}
		if err != nil {
			return err
		}
	}
	tables, err := k.filter.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == Mark }) {
		return onTable()
	}
	return nil
}

// Remove takes all that is ours out of the kernel, by the marks, whoever made it,
// and returns what it took: the verb for a node that leaves. It may be repeated.
// Connections to peers end with it. Apply makes everything anew.
func (h *Host) Remove() ([]Item, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.applied, h.settled, h.problems = false, false, nil
	return h.remove()
}

// remove goes the way back: first what leads packets into the tunnel.
func (h *Host) remove() (removed []Item, err error) {
	k := h.kernel
	h.mtu, h.index, h.attached, h.ruleset = 0, 0, 0, nil
	took := func(kind Kind, name string) { removed = append(removed, Item{kind, name, markOf(kind)}) }
	err = k.eachRoute(func(r *netlink.Rule) error {
		if err := k.links.RuleDel(r); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete rule %s: %w", ruleName(r), err)
		}
		took(Rule, ruleName(r))
		return nil
	}, func(r *netlink.Route, v6 bool) error {
		if err := k.links.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("delete route %s: %w", routeName(r, v6), err)
		}
		took(TableRoute, routeName(r, v6))
		return nil
	})
	devices, listErr := k.ours()
	err = errors.Join(err, listErr)
	for _, device := range devices {
		name := device.Attrs().Name
		if delErr := k.links.LinkDel(device); delErr != nil && !errors.Is(delErr, unix.ENODEV) {
			err = errors.Join(err, fmt.Errorf("delete device %s: %w", name, delErr))
			continue
		}
		took(Device, name)
	}
	return removed, errors.Join(err, k.eachFilter(func() error {
		h.metrics.keep(k)
		k.filter.DelTable(filterTable())
		if err := k.filter.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("delete nftables table %s: %w", Mark, err)
		}
		took(FilterTable, "inet "+Mark)
		return nil
	}, func(c *nftables.Chain, rules []readRule) error {
		if err := k.deleteRules(c, rules); err != nil {
			return err
		}
		for _, rule := range rules {
			took(ForwardRule, chainName(c)+": "+rule.comment)
		}
		return nil
	}), k.eachLegacy(func(l *legacy, rules []string) error {
		if err := l.remove(rules); err != nil {
			return err
		}
		for _, rule := range rules {
			took(ForwardRule, l.program+" "+rule)
		}
		return nil
	}))
}
