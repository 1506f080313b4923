// Package netfilter writes nftables tables into network namespaces, and reads
// their counters: what the lab needs to be its own CNI and firewall, without a
// program that the machine may lack.
package netfilter

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// Table is one table. Its rules match the packets of its family; one of
// FamilyBridge sees frames, and its rules say which family they match.
type Table struct {
	Family nftables.TableFamily
	Name   string
	Chains []Chain
}

// The families of tables.
const (
	FamilyIPv4   = nftables.TableFamilyIPv4
	FamilyIPv6   = nftables.TableFamilyIPv6
	FamilyBridge = nftables.TableFamilyBridge
)

// Chain is a base chain.
type Chain struct {
	Name     string
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority *nftables.ChainPriority
	// Drop makes it refuse what no rule accepts.
	Drop  bool
	Rules []Rule
}

// Rule is matches and what follows when all of them hold: parts, joined by Join.
type Rule []expr.Any

// Write makes the table be exactly what it says, in one step: what it counted
// before is forgotten.
func Write(space *netspace.Space, table Table) error {
	return do(space, table, "write", func(conn *nftables.Conn, t *nftables.Table) error {
		conn.AddTable(t) // so that there is one to delete
		conn.DelTable(t)
		conn.AddTable(t)
		for _, c := range table.Chains {
			chain := conn.AddChain(c.of(t))
			for _, rule := range c.Rules {
				conn.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: rule})
			}
		}
		return conn.Flush()
	})
}

// Append adds rules to the end of one chain, and leaves the others' counters.
func Append(space *netspace.Space, table Table, chain string, rules ...Rule) error {
	return do(space, table, "append to", func(conn *nftables.Conn, t *nftables.Table) error {
		for _, rule := range rules {
			conn.AddRule(&nftables.Rule{Table: t, Chain: &nftables.Chain{Name: chain, Table: t}, Exprs: rule})
		}
		return conn.Flush()
	})
}

// Count returns how many packets the counters of a chain have seen.
func Count(space *netspace.Space, table Table, chain string) (packets uint64, err error) {
	err = do(space, table, "count in", func(conn *nftables.Conn, t *nftables.Table) error {
		rules, err := conn.GetRules(t, &nftables.Chain{Name: chain, Table: t})
		for _, rule := range rules {
			for _, part := range rule.Exprs {
				if counter, ok := part.(*expr.Counter); ok {
					packets += counter.Packets
				}
			}
		}
		return err
	})
	return packets, err
}

func do(space *netspace.Space, table Table, verb string, fn func(*nftables.Conn, *nftables.Table) error) error {
	err := space.Do(func() error {
		conn, err := nftables.New(nftables.AsLasting())
		if err != nil {
			return err
		}
		return errors.Join(fn(conn, &nftables.Table{Family: table.Family, Name: table.Name}), conn.CloseLasting())
	})
	if err != nil {
		return fmt.Errorf("%s nft table %s in %s: %w", verb, table.Name, space.Path(), err)
	}
	return nil
}

func (c Chain) of(table *nftables.Table) *nftables.Chain {
	policy := nftables.ChainPolicyAccept
	if c.Drop {
		policy = nftables.ChainPolicyDrop
	}
	return &nftables.Chain{Name: c.Name, Table: table, Type: c.Type, Hooknum: c.Hook, Priority: c.Priority, Policy: &policy}
}
