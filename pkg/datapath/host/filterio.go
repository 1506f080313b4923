package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// filterTable is ours; one table has both families.
func filterTable() *nftables.Table {
	return &nftables.Table{Name: Mark, Family: nftables.TableFamilyINet}
}

// writeRuleset puts r in the place of what there is, in one step: a packet meets
// the old table or the new one. Connections keep the NAT that they have.
func (k *kernel) writeRuleset(r *ruleset) error {
	table := filterTable()
	k.filter.AddTable(table) // so that there is one to delete
	k.filter.DelTable(table)
	k.filter.AddTable(table)
	for i := range r.sets {
		if err := k.writeSet(&r.sets[i], uint32(i+1)); err != nil {
			return err
		}
	}
	for i := range r.chains {
		c := &r.chains[i]
		made := &nftables.Chain{Name: c.name, Table: table, Type: c.kind, Hooknum: c.hook}
		if c.hook != nil {
			made.Priority = &c.priority
		}
		k.filter.AddChain(made)
		for j := range c.rules {
			k.filter.AddRule(&nftables.Rule{
				Table: table, Chain: made, Exprs: c.rules[j].exprs, UserData: comment(r.comment(&c.rules[j])),
			})
		}
	}
	if err := k.filter.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", Mark, err)
	}
	return nil
}

func comment(text string) []byte { return userdata.AppendString(nil, userdata.TypeComment, text) }

// compare reports whether our table is r but for elements of its sets, and which
// those are.
func (k *kernel) compare(r *ruleset) (fits bool, changes []setChange, err error) {
	chains, err := k.filter.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, nil, fmt.Errorf("list nftables chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != Mark })
	if len(chains) != len(r.chains) {
		return false, nil, nil
	}
	for i := range r.chains {
		if same, err := k.holdsChain(chains, r, &r.chains[i]); !same || err != nil {
			return false, nil, err
		}
	}
	for i := range r.sets {
		change, there, err := k.compareSet(&r.sets[i])
		if !there || err != nil {
			return false, nil, err
		}
		if len(change.add)+len(change.remove) > 0 {
			changes = append(changes, change)
		}
	}
	return true, changes, nil
}

func (k *kernel) holdsChain(chains []*nftables.Chain, r *ruleset, want *chain) (bool, error) {
	i := slices.IndexFunc(chains, func(c *nftables.Chain) bool { return c.Name == want.name })
	if i < 0 || !sameChain(chains[i], want) {
		return false, nil
	}
	rules, err := k.filterRules(nftables.TableFamilyINet, Mark, want.name)
	if err != nil || len(rules) != len(want.rules) {
		return false, err
	}
	for j := range rules {
		if rules[j].comment != r.comment(&want.rules[j]) {
			return false, nil
		}
	}
	return true, nil
}

func sameChain(is *nftables.Chain, want *chain) bool {
	if is.Hooknum == nil || want.hook == nil {
		return is.Hooknum == nil && want.hook == nil
	}
	return is.Type == want.kind && *is.Hooknum == *want.hook && *is.Priority == want.priority &&
		(is.Policy == nil || *is.Policy == nftables.ChainPolicyAccept)
}

// generation is a number that each change of any netfilter table makes another.
func (k *kernel) generation() (uint32, error) {
	answers, err := k.ask(unix.NETLINK_NETFILTER, filterMessage(unix.NFT_MSG_GETGEN), 0, 0, filterHeader(unix.AF_UNSPEC))
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	for _, answer := range answers {
		found, err := nl.ParseRouteAttrAsMap(answer[4:])
		if err != nil {
			return 0, fmt.Errorf("read nftables generation: %w", err)
		}
		if id, ok := found[unix.NFTA_GEN_ID]; ok && len(id.Value) >= 4 {
			return binary.BigEndian.Uint32(id.Value), nil
		}
	}
	return 0, errors.New("read nftables generation: the kernel tells none")
}

func filterMessage(kind int) int { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// filterHeader is struct nfgenmsg.
func filterHeader(family uint8) []byte { return []byte{family, unix.NFNETLINK_V0, 0, 0} }

// readRule is a rule as far as we look at others': its expressions may be
// of any kind.
type readRule struct {
	handle  uint64
	comment string
	packets uint64 // of its first counter
}

// filterRules lists the rules of a chain in their order. None of a chain that is
// not there.
func (k *kernel) filterRules(family nftables.TableFamily, table, chain string) ([]readRule, error) {
	data := filterHeader(uint8(family))
	data = append(data, attribute(unix.NFTA_RULE_TABLE, append([]byte(table), 0))...)
	data = append(data, attribute(unix.NFTA_RULE_CHAIN, append([]byte(chain), 0))...)
	answers, err := dump(func() ([][]byte, error) {
		return k.ask(unix.NETLINK_NETFILTER, filterMessage(unix.NFT_MSG_GETRULE), unix.NLM_F_DUMP, 0, data)
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list rules of nftables chain %s %s: %w", table, chain, err)
	}
	var rules []readRule
	for _, answer := range answers {
		found, err := nl.ParseRouteAttrAsMap(answer[4:])
		if err != nil {
			return nil, fmt.Errorf("read rule of nftables chain %s %s: %w", table, chain, err)
		}
		if text(found[unix.NFTA_RULE_TABLE].Value) != table || text(found[unix.NFTA_RULE_CHAIN].Value) != chain {
			continue // older kernels list all
		}
		rule := readRule{comment: commentOf(found[unix.NFTA_RULE_USERDATA].Value)}
		if handle := found[unix.NFTA_RULE_HANDLE].Value; len(handle) >= 8 {
			rule.handle = binary.BigEndian.Uint64(handle)
		}
		rule.packets = packetsOf(found[unix.NFTA_RULE_EXPRESSIONS].Value)
		rules = append(rules, rule)
	}
	return rules, nil
}

func text(data []byte) string { return string(bytes.TrimRight(data, "\x00")) }

// commentOf returns the comment in a rule's user data: type, length, text.
func commentOf(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		if data[0] == byte(userdata.TypeComment) {
			return text(data[2 : 2+int(data[1])])
		}
		data = data[2+int(data[1]):]
	}
	return ""
}

// packetsOf returns what the first counter among a rule's expressions says.
func packetsOf(exprs []byte) uint64 {
	list, err := nl.ParseRouteAttr(exprs)
	if err != nil {
		return 0
	}
	for _, element := range list {
		parts, err := nl.ParseRouteAttrAsMap(element.Value)
		if err != nil || text(parts[unix.NFTA_EXPR_NAME].Value) != "counter" {
			continue
		}
		counter, err := nl.ParseRouteAttrAsMap(parts[unix.NFTA_EXPR_DATA].Value)
		if value := counter[unix.NFTA_COUNTER_PACKETS].Value; err == nil && len(value) >= 8 {
			return binary.BigEndian.Uint64(value)
		}
	}
	return 0
}
