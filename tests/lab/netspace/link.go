package netspace

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Route is one entry of a namespace's table, the main one when Table is 0.
type Route struct {
	To netip.Prefix
	// Via is the next hop, taken to be on Device without a look at its
	// addresses; the zero Addr when To itself is on Device.
	Via    netip.Addr
	Device string
	// From is the source address of the namespace's own packets; the zero Addr
	// leaves the choice to the kernel.
	From netip.Addr
	// MTU is what fits through the whole of the way, in bytes, where that is less
	// than what the device takes; 0 where it is not.
	MTU   int
	Table int
}

// Rule is one entry of a namespace's list of which table says what; lower
// priorities come first.
type Rule struct {
	Priority int
	// From and To are whose packets it is about; one may be left out.
	From, To netip.Prefix
	// Table is looked up; the main one when 0.
	Table int
}

// AddBridge makes a bridge and sets it up. It learns at once and forwards all
// multicast, so that nothing waits for a first neighbour to be found.
func (s *Space) AddBridge(name string) error {
	snoop := false
	bridge := &netlink.Bridge{LinkAttrs: attributes(name), MulticastSnooping: &snoop}
	if err := s.links.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make bridge %s in %s: %w", name, s.path, err)
	}
	return s.SetUp(name)
}

// AddPair makes a pair of devices that are each other's wire, one here and one
// in far, which may be the same namespace, and sets both up.
func (s *Space) AddPair(name string, far *Space, farName string) error {
	pair := &netlink.Veth{
		LinkAttrs:     attributes(name),
		PeerName:      farName,
		PeerNamespace: netlink.NsFd(int(far.file.Fd())),
	}
	if err := s.links.LinkAdd(pair); err != nil {
		return fmt.Errorf("make devices %s in %s and %s in %s: %w", name, s.path, farName, far.path, err)
	}
	if err := far.SetUp(farName); err != nil {
		return err
	}
	return s.SetUp(name)
}

// Enslave makes device name a port of bridge.
func (s *Space) Enslave(name, bridge string) error {
	return s.withLink(name, "join "+bridge, func(link netlink.Link) error {
		master, err := s.links.LinkByName(bridge)
		if err != nil {
			return err
		}
		return s.links.LinkSetMaster(link, master)
	})
}

// SetUp sets device name up.
func (s *Space) SetUp(name string) error {
	return s.withLink(name, "set up", s.links.LinkSetUp)
}

// SetDown sets device name down; the other end of a pair loses its carrier.
func (s *Space) SetDown(name string) error {
	return s.withLink(name, "set down", s.links.LinkSetDown)
}

// SetMTU sets the size of the largest packet that device name sends, in bytes.
func (s *Space) SetMTU(name string, mtu int) error {
	return s.withLink(name, "set the MTU of", func(link netlink.Link) error {
		return s.links.LinkSetMTU(link, mtu)
	})
}

// Give moves device name to another namespace, under a name that is new in both. It
// is down then, and the other end of a pair stays where it is.
func (s *Space) Give(name string, to *Space, newName string) error {
	return s.withLink(name, "move to "+to.path+" the", func(link netlink.Link) error {
		return errors.Join(s.links.LinkSetDown(link), s.links.LinkSetName(link, newName), s.links.LinkSetNsFd(link, int(to.file.Fd())))
	})
}

// Delete removes device name, and with it the other end of a pair.
func (s *Space) Delete(name string) error {
	return s.withLink(name, "delete", s.links.LinkDel)
}

// AddAddress gives device name an address, usable at once. A scope other than
// the universe's is given to link-local ones, so that they are nobody's source
// by accident.
func (s *Space) AddAddress(name string, address netip.Prefix) error {
	entry := &netlink.Addr{IPNet: ipNet(address)}
	if address.Addr().Is6() {
		entry.Flags = unix.IFA_F_NODAD
	}
	if address.Addr().IsLinkLocalUnicast() {
		entry.Scope = int(netlink.SCOPE_LINK)
	}
	return s.withLink(name, "add address "+address.String()+" to", func(link netlink.Link) error {
		return s.links.AddrAdd(link, entry)
	})
}

// DeleteAddress takes an address that AddAddress gave away from device name. The
// kernel deletes the IPv4 routes that have it as their source, too.
func (s *Space) DeleteAddress(name string, address netip.Prefix) error {
	return s.withLink(name, "delete address "+address.String()+" of", func(link netlink.Link) error {
		return s.links.AddrDel(link, &netlink.Addr{IPNet: ipNet(address)})
	})
}

// ForgetNeighbours makes the namespace ask anew who is where behind device name.
func (s *Space) ForgetNeighbours(name string) error {
	return s.withLink(name, "forget the neighbours of", func(link netlink.Link) error {
		list, err := s.links.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		var errs []error
		for i := range list {
			if err := s.links.NeighDel(&list[i]); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, err)
			}
		}
		return errors.Join(err, errors.Join(errs...))
	})
}

// AddRoute adds a route, or replaces the one with the same destination.
func (s *Space) AddRoute(r Route) error {
	return s.withLink(r.Device, "route "+r.To.String()+" to", func(link netlink.Link) error {
		return s.links.RouteReplace(r.entry(link))
	})
}

// DeleteRoute removes a route that AddRoute added.
func (s *Space) DeleteRoute(r Route) error {
	return s.withLink(r.Device, "unroute "+r.To.String()+" from", func(link netlink.Link) error {
		return s.links.RouteDel(r.entry(link))
	})
}

// ForgetRoute removes the route of that table to To, whatever else it says, if
// there is one.
func (s *Space) ForgetRoute(r Route) error {
	err := s.DeleteRoute(Route{To: r.To, Device: r.Device, Table: r.Table})
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

func (r Route) entry(link netlink.Link) *netlink.Route {
	entry := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.To.Masked()), MTU: r.MTU, Table: r.Table}
	if r.From.IsValid() {
		entry.Src = r.From.AsSlice()
	}
	switch {
	case r.Via.IsValid():
		entry.Gw = r.Via.AsSlice()
		entry.Flags = int(netlink.FLAG_ONLINK)
	case r.To.Addr().Is4():
		entry.Scope = netlink.SCOPE_LINK
	}
	return entry
}

// AddRule adds a rule; one that is there already is no error.
func (s *Space) AddRule(r Rule) error {
	err := s.links.RuleAdd(r.entry())
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add a rule for %s%s in %s: %w", r.From, r.To, s.path, err)
	}
	return nil
}

// DeleteRule removes a rule that AddRule added.
func (s *Space) DeleteRule(r Rule) error {
	if err := s.links.RuleDel(r.entry()); err != nil {
		return fmt.Errorf("delete the rule for %s%s in %s: %w", r.From, r.To, s.path, err)
	}
	return nil
}

func (r Rule) entry() *netlink.Rule {
	entry := netlink.NewRule()
	entry.Priority, entry.Table = r.Priority, cmp.Or(r.Table, unix.RT_TABLE_MAIN)
	entry.Family = netlink.FAMILY_V4
	for _, side := range []struct {
		prefix netip.Prefix
		net    **net.IPNet
	}{{r.From, &entry.Src}, {r.To, &entry.Dst}} {
		if !side.prefix.IsValid() {
			continue
		}
		*side.net = ipNet(side.prefix)
		if side.prefix.Addr().Is6() {
			entry.Family = netlink.FAMILY_V6
		}
	}
	return entry
}

func (s *Space) withLink(name, verb string, fn func(netlink.Link) error) error {
	link, err := s.links.LinkByName(name)
	if err == nil {
		err = fn(link)
	}
	if err != nil {
		return fmt.Errorf("%s device %s in %s: %w", verb, name, s.path, err)
	}
	return nil
}

func attributes(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
