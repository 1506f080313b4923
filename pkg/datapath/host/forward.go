package host

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// forwardComment marks our rules in others' chains.
func forwardComment(device string) string { return Mark + ": " + device + " is forwarded" }

// Forwarding chains are looked for in all tables that see routed packets.
func forwardFamilies() []nftables.TableFamily {
	return []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet}
}

// forwardChains returns others' chains that packets which are forwarded meet.
func (k *kernel) forwardChains() ([]*nftables.Chain, error) {
	var found []*nftables.Chain
	for _, family := range forwardFamilies() {
		chains, err := k.filter.ListChainsOfTableFamily(family)
		if err != nil {
			return nil, fmt.Errorf("list nftables chains: %w", err)
		}
		for _, c := range chains {
			if c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookForward && c.Type == nftables.ChainTypeFilter && c.Table.Name != Mark {
				c.Table.Family = family
				found = append(found, c)
			}
		}
	}
	return found, nil
}

// forwardRules has what goes through the tunnel accepted at the end of each
// chain that drops by policy, as on hosts with Docker. At the end, so that it
// takes the place of the policy and of nothing else: what a CNI's rules refuse
// stays refused. They are as iptables writes them, which would otherwise take
// the table for one that it cannot read.
func (w *work) forwardRules() error {
	chains, err := w.kernel.forwardChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		rules, err := w.kernel.filterRules(c.Table.Family, c.Table.Name, c.Name)
		if err != nil {
			return err
		}
		ours := marked(rules)
		current := slices.DeleteFunc(slices.Clone(ours), func(r readRule) bool { return r.comment != forwardComment(w.config.Device) })
		drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
		if drops && len(current) == 2 && len(ours) == 2 || !drops && len(ours) == 0 {
			continue
		}
		if err := w.kernel.deleteRules(c, ours); err != nil {
			return err
		}
		if drops {
			err = w.kernel.acceptForward(c, w.config.Device)
		}
		if err != nil {
			return err
		}
		w.changed(ForwardRule, chainName(c))
	}
	return nil
}

// marked returns those of the rules that are ours.
func marked(rules []readRule) []readRule {
	return slices.DeleteFunc(slices.Clone(rules), func(r readRule) bool { return !strings.HasPrefix(r.comment, Mark+":") })
}

func (k *kernel) acceptForward(c *nftables.Chain, device string) error {
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		k.filter.AddRule(&nftables.Rule{
			Table: c.Table, Chain: c, UserData: comment(forwardComment(device)),
			Exprs: join(interfaceIs(key, device), &expr.Counter{}, &expr.Verdict{Kind: expr.VerdictAccept}),
		})
	}
	if err := k.filter.Flush(); err != nil {
		return fmt.Errorf("accept what goes through %s in %s: %w", device, chainName(c), err)
	}
	return nil
}

func (k *kernel) deleteRules(c *nftables.Chain, rules []readRule) error {
	for _, rule := range rules {
		if err := k.filter.DelRule(&nftables.Rule{Table: c.Table, Chain: c, Handle: rule.handle}); err != nil {
			return err
		}
	}
	if err := k.filter.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete rules of %s: %w", chainName(c), err)
	}
	return nil
}

// chainName is how nft names a chain.
func chainName(c *nftables.Chain) string {
	return tableFamily(c.Table.Family) + " " + c.Table.Name + " " + c.Name
}

func tableFamily(family nftables.TableFamily) string {
	return map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	}[family]
}
