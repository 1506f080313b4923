package host

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Survey is what a node's network is like, without us.
type Survey struct {
	// Uplinks are the devices that default routes lead to.
	Uplinks []Uplink
	// Forward4 and Forward6 say whether packets of a family are forwarded.
	Forward4, Forward6 bool
	// StrictSource says whether the reverse path filter is strict on devices that
	// say nothing else.
	StrictSource bool
	// Drops are the chains that forward nothing by policy.
	Drops []string
	// Masquerades are the chains with a rule that gives packets another source.
	Masquerades []string
	// Legacy says whether the old iptables has a filter table.
	Legacy bool
	// Tunnels are other VXLAN devices, by name, and their UDP ports.
	Tunnels map[string]int
}

// Uplink is a device towards other nodes.
type Uplink struct {
	Name string
	// MTU is in bytes.
	MTU int
}

// Look surveys the network namespace of the calling thread. It changes nothing; it
// needs CAP_NET_ADMIN.
func Look() (s Survey, err error) {
	k, err := openKernel()
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	for _, step := range []func(*kernel) error{s.lookAtDevices, s.lookAtSettings, s.lookAtForwarding, s.lookAtTranslation, s.lookAtLegacy} {
		if err := step(k); err != nil {
			return s, err
		}
	}
	return s, nil
}

func (s *Survey) lookAtDevices(k *kernel) error {
	links, err := dump(k.links.LinkList)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	uplinks := map[int]bool{}
	for _, v6 := range []bool{false, true} {
		routes, err := dump(func() ([]netlink.Route, error) { return k.routes(v6) })
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if r.Type != unix.RTN_UNICAST || r.Dst != nil && !r.Dst.IP.IsUnspecified() {
				continue
			}
			uplinks[r.LinkIndex] = true
			for _, hop := range r.MultiPath {
				uplinks[hop.LinkIndex] = true
			}
		}
	}
	s.Tunnels = map[string]int{}
	for _, l := range links {
		if uplinks[l.Attrs().Index] && l.Attrs().Name != "lo" {
			s.Uplinks = append(s.Uplinks, Uplink{l.Attrs().Name, l.Attrs().MTU})
		}
		if v, ok := l.(*netlink.Vxlan); ok && l.Attrs().Alias != Mark {
			s.Tunnels[v.Name] = v.Port
		}
	}
	return nil
}

func (s *Survey) lookAtSettings(k *kernel) error {
	v4, err := k.settings(unix.AF_INET, netconfAll)
	if err != nil {
		return err
	}
	s.Forward4, s.StrictSource = v4.forwarding != 0, v4.rpFilter == 1
	v6, err := k.settings(unix.AF_INET6, netconfAll)
	s.Forward6 = err == nil && v6.forwarding != 0 // a kernel without IPv6 forwards none
	return nil
}

func (s *Survey) lookAtForwarding(k *kernel) error {
	chains, err := k.forwardChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			s.Drops = append(s.Drops, chainName(c))
		}
	}
	return nil
}

// lookAtTranslation looks for masquerade in all chains, not only in those at the
// hook: CNIs and kube-proxy have them in chains of their own.
func (s *Survey) lookAtTranslation(k *kernel) error {
	for _, family := range forwardFamilies() {
		answers, err := dump(func() ([][]byte, error) {
			return k.ask(unix.NETLINK_NETFILTER, filterMessage(unix.NFT_MSG_GETRULE), unix.NLM_F_DUMP, 0, filterHeader(uint8(family)))
		})
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("list nftables rules: %w", err)
		}
		for _, answer := range answers {
			found, err := nl.ParseRouteAttrAsMap(answer[4:])
			if err != nil {
				return fmt.Errorf("read nftables rule: %w", err)
			}
			table := text(found[unix.NFTA_RULE_TABLE].Value)
			where := fmt.Sprintf("%s %s %s", tableFamily(nftables.TableFamily(answer[0])), table, text(found[unix.NFTA_RULE_CHAIN].Value))
			if table != Mark && masquerades(found[unix.NFTA_RULE_EXPRESSIONS].Value) && !slices.Contains(s.Masquerades, where) {
				s.Masquerades = append(s.Masquerades, where)
			}
		}
	}
	return nil
}

// masquerades reports whether one of a rule's expressions does. The target of that
// name is what iptables writes.
func masquerades(exprs []byte) bool {
	list, err := nl.ParseRouteAttr(exprs)
	if err != nil {
		return false
	}
	for _, element := range list {
		parts, err := nl.ParseRouteAttrAsMap(element.Value)
		if err != nil {
			continue
		}
		switch text(parts[unix.NFTA_EXPR_NAME].Value) {
		case "masq":
			return true
		case "target":
			target, err := nl.ParseRouteAttrAsMap(parts[unix.NFTA_EXPR_DATA].Value)
			if err == nil && text(target[unix.NFTA_TARGET_NAME].Value) == "MASQUERADE" {
				return true
			}
		}
	}
	return false
}

func (s *Survey) lookAtLegacy(k *kernel) error {
	return k.inside(func() error {
		for _, family := range legacies() {
			used, err := family.used()
			if err != nil {
				return err
			}
			s.Legacy = s.Legacy || used
		}
		return nil
	})
}
