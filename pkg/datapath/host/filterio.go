package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// elementsAtOnce keeps a message with elements of a set below what its length
// field can say.
const elementsAtOnce = 1000

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
		if err := k.writeSet(table, &r.sets[i], uint32(i+1)); err != nil {
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

func (k *kernel) writeSet(table *nftables.Table, s *set, id uint32) error {
	made := &nftables.Set{Table: table, Name: s.name, ID: id, Interval: true, KeyType: nftables.TypeIPAddr}
	if s.v6 {
		made.KeyType = nftables.TypeIP6Addr
	}
	err := k.filter.AddSet(made, nil)
	for part := range slices.Chunk(elements(s.ranges), elementsAtOnce) {
		err = errors.Join(err, k.filter.SetAddElements(made, part))
	}
	if err != nil {
		return fmt.Errorf("nftables set %s: %w", s.name, err)
	}
	return nil
}

// elements returns canonical prefixes as a set of intervals has them: the first
// address of each, and the first one behind it. Those that follow each other
// become one.
func elements(ranges []netip.Prefix) []nftables.SetElement {
	var all []nftables.SetElement
	var end netip.Addr // behind the interval that is open
	finish := func() {
		if end.IsValid() {
			all = append(all, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	for i, p := range ranges {
		if i == 0 || p.Addr() != end {
			finish()
			all = append(all, nftables.SetElement{Key: p.Addr().AsSlice()})
		}
		end = last(p).Next() // invalid behind the last address that there is
	}
	finish()
	return all
}

// last returns the last address of p.
func last(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(bytes)*8; bit++ {
		bytes[bit/8] |= 1 << (7 - bit%8)
	}
	address, _ := netip.AddrFromSlice(bytes)
	return address
}

// holds reports whether our table is r.
func (k *kernel) holds(r *ruleset) (bool, error) {
	chains, err := k.filter.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list nftables chains: %w", err)
	}
	chains = slices.DeleteFunc(chains, func(c *nftables.Chain) bool { return c.Table.Name != Mark })
	if len(chains) != len(r.chains) {
		return false, nil
	}
	for i := range r.chains {
		if same, err := k.holdsChain(chains, r, &r.chains[i]); !same || err != nil {
			return false, err
		}
	}
	for i := range r.sets {
		if same, err := k.holdsSet(&r.sets[i]); !same || err != nil {
			return false, err
		}
	}
	return true, nil
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

func (k *kernel) holdsSet(want *set) (bool, error) {
	made := &nftables.Set{Table: filterTable(), Name: want.name}
	is, err := k.filter.GetSetElements(made)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read nftables set %s: %w", want.name, err)
	}
	// The kernel adds an end below the first interval, and has no order.
	key := func(e nftables.SetElement) string { return fmt.Sprintf("%x %t", e.Key, e.IntervalEnd) }
	count := map[string]int{}
	for _, e := range is {
		if e.IntervalEnd && bytes.Count(e.Key, []byte{0}) == len(e.Key) {
			continue
		}
		count[key(e)]++
	}
	wanted := elements(want.ranges)
	for _, e := range wanted {
		if count[key(e)] != 1 {
			return false, nil
		}
	}
	return len(count) == len(wanted), nil
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
