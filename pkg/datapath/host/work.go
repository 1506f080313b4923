package host

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// work is one pass: the kernel is compared with what is desired, and changed
// where it differs. The host's lock is held.
type work struct {
	host     *Host
	config   *Config
	kernel   *kernel
	desired  *Desired
	mtu      int
	noIPv6   bool // though it is desired
	moved    bool // from the main table to our own
	changes  []Item
	problems []Problem
}

func (w *work) hasFamily(v6 bool) bool {
	return route.Family(w.desired.Mesh, v6).IsValid() && (!v6 || !w.noIPv6)
}

func (w *work) changed(kind Kind, name string) {
	w.config.Logger.Debug("node network item changed", "kind", string(kind), "item", name)
	w.changes = append(w.changes, Item{Kind: kind, Name: name, Mark: markOf(kind)})
}

func (w *work) problem(p Problem) { w.problems = append(w.problems, p) }

// converge makes one pass and notes what it found. What had to be changed though
// nothing else was desired is somebody else's doing.
func (h *Host) converge() error {
	w := &work{host: h, config: &h.config, kernel: h.kernel, desired: &h.desired}
	var err error
	if len(h.desired.Mesh) == 0 {
		w.changes, err = h.remove()
	} else {
		err = w.pass()
	}
	if err != nil {
		w.problem(Problem{What: "the node's network could not be made as it should be", Where: err.Error(), Do: "it is tried again; if it stays, the text says what is in the way"})
	}
	h.problems = append(w.problems, h.metrics.refusals(h.kernel, h.desired.Port)...)
	// IPv6 comes and goes as a whole, by a setting or an MTU; routes move because
	// of others, and nobody touched them.
	if h.settled && w.noIPv6 == h.noIPv6 && !w.moved {
		h.repaired(w.changes)
	} else if slices.ContainsFunc(w.changes, func(i Item) bool { return i.Kind != TableRoute }) {
		h.config.Logger.Info("node network changed", "changes", len(w.changes))
	} // routes come and go with peers' pods: each is in the log at Debug
	h.settled, h.noIPv6 = err == nil, w.noIPv6
	return err
}

// pass goes in an order in which no packet meets half of it: first what a packet
// needs on its way, then what leads it there; what goes, goes last.
func (w *work) pass() error {
	w.mtu = w.findMTU()
	device, err := w.device()
	if err != nil {
		return err
	}
	w.host.mtu = w.mtu
	stale, err := w.addresses(device)
	if err != nil {
		return err
	}
	if err := w.filter(); err != nil {
		return err
	}
	w.legacyRules()
	if err := w.attach(device); err != nil {
		return err
	}
	if err := w.up(device); err != nil {
		return err
	}
	for _, v6 := range []bool{false, true} {
		if err := w.route(v6, device); err != nil {
			return err
		}
	}
	if err := w.forwarding(); err != nil {
		return err
	}
	return w.dropAddresses(device, stale)
}

// attach has the programs put onto a device that is new to us.
func (w *work) attach(device *netlink.Vxlan) error {
	if w.host.attached == device.Index || w.config.Attach == nil {
		return nil
	}
	if err := w.config.Attach(device.Name, device.Index); err != nil {
		return fmt.Errorf("put programs onto device %s: %w", device.Name, err)
	}
	w.host.attached = device.Index
	return nil
}

// filter makes sure of our netfilter table and of our rules in others'. As long
// as no netfilter table changed, there is nothing to look at.
func (w *work) filter() error {
	generation, err := w.kernel.generation()
	if err != nil {
		return err
	}
	wanted := newRuleset(w.config.Device, w.desired)
	h := w.host
	if h.ruleset != nil && h.ruleset.equal(&wanted) && h.generation == generation {
		return nil
	}
	h.ruleset = nil
	same, err := w.writeFilter(&wanted)
	if err != nil {
		return err
	}
	if err := w.forwardRules(); err != nil {
		return err
	}
	// What changed meanwhile is looked at the next time: the number was read first.
	if same && len(w.changes) == 0 {
		h.ruleset, h.generation = &wanted, generation
	}
	return nil
}

// writeFilter makes our table what is wanted and reports whether it was. Where
// only pods and peers came and went, its counters and all else stay.
func (w *work) writeFilter(wanted *ruleset) (same bool, err error) {
	fits, changes, err := w.kernel.compare(wanted)
	if err != nil || fits && len(changes) == 0 {
		return fits, err
	}
	if fits {
		if err := w.kernel.changeSets(changes); err != nil {
			// Somebody left what ours does not fit beside: all of it is made anew.
			w.config.Logger.Debug("nftables sets could not be changed in place", "error", err)
			fits = false
		}
	}
	if !fits {
		w.host.metrics.keep(w.kernel)
		if err := w.kernel.writeRuleset(wanted); err != nil {
			return false, err
		}
	}
	w.changed(FilterTable, "inet "+Mark)
	return false, nil
}

// route makes sure of one family's routes, then of the rule that asks them, and
// last takes away what both have taken the place of.
func (w *work) route(v6 bool, device *netlink.Vxlan) error {
	rules, err := w.kernel.rules(v6)
	if err != nil {
		return err
	}
	routes, err := w.kernel.routes(v6)
	if err != nil {
		return err
	}
	p := plan{table: w.config.Table}
	leads := w.desired.leading(v6)
	if w.hasFamily(v6) {
		p = w.place(v6, leads, device, routes, rules)
	} else if len(leads) > 0 && !w.noIPv6 {
		w.problem(Problem{
			What:  fmt.Sprintf("peers have pods of a family in which this node has no mesh address: they are not reached (%d ranges)", len(leads)),
			Where: leads[0].String(), Do: "give this cluster a mesh range of that family (--mesh-cidr)",
		})
	}
	w.problems = append(w.problems, p.problems...)
	w.asked(v6, p.leads, routes, rules)
	gone, err := w.routes(v6, device, p, routes)
	if err != nil {
		return err
	}
	if err := w.rules(v6, w.hasFamily(v6) && p.table != unix.RT_TABLE_MAIN, rules); err != nil {
		return err
	}
	for i := range gone {
		if err := w.deleteRoute(&gone[i], v6); err != nil {
			return err
		}
	}
	return nil
}
