package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netfilter"
)

// said is how long it may take until what is wrong is said, or is said no more:
// 30 s, and as much again on a machine that has no time.
const said = 60 * time.Second

// diagnosis is what causeway diagnose says of some nodes and peers.
type diagnosis struct {
	OK    bool `json:"ok"`
	Nodes []struct {
		Node     string
		MTU      int `json:"mtu"`
		Problems []string
		Items    []struct{ Kind, Name string }
		Peers    []struct {
			Cluster, State, Mode, Source string
			Paths, Reachable, MTU        int
			RTTMedian                    string `json:"rtt_median"`
			Troubles                     []struct{ Reason, Means, Detail, Do string }
		}
	}
}

// diagnose asks of one node and one peer; what it says and the exit status must
// agree.
func diagnose(ctx context.Context, node *lab.Node, peer *lab.Cluster) (diagnosis, error) {
	out, failed := node.Cluster.Causeway(ctx, "diagnose", "--output", "json", "--node", node.Name, "--peer", peer.Name)
	var d diagnosis
	if err := json.Unmarshal(out, &d); err != nil {
		return d, errors.Join(failed, fmt.Errorf("diagnose says %q: %w", out, err))
	}
	if d.OK != (failed == nil) || len(d.Nodes) != 1 || len(d.Nodes[0].Peers) != 1 {
		return d, fmt.Errorf("ok is %t, unlike how it ends: %s: %w", d.OK, out, failed)
	}
	return d, nil
}

// trouble is what somebody does to nodes, and what is said of it.
type trouble struct {
	name   string
	nodes  []*lab.Node
	table  netfilter.Table
	reason string
	detail string
}

// TestDiagnosed: what is wrong between two clusters is said in words while it
// lasts, and no longer; over networks of either family.
func TestDiagnosed(t *testing.T) {
	labtest.RequireRoot(t)
	for underlay, mtu := range map[labtest.Underlay]int{labtest.IPv4: 1450, labtest.IPv6: 1430} {
		t.Run(string(underlay), func(t *testing.T) {
			t.Parallel()
			p := newPeers(t, lab.Network{Kind: lab.Routed}, underlay)
			d := doctor{t, p, sitePod(t, p.east, "client").On, mtu}
			d.healthy()
			for _, trouble := range d.troubles(underlay == labtest.IPv6) {
				d.suffers(trouble)
			}
		})
	}
}

func (d doctor) troubles(v6 bool) []trouble {
	family := netfilter.FamilyIPv4
	if v6 {
		family = netfilter.FamilyIPv6
	}
	own, others := []*lab.Node{d.node}, d.p.west.Nodes()
	list := []trouble{
		{"a firewall", others, firewall(family), "silent", ""},
		{"a small underlay", others, narrow(family, 1400), "mtu", fmt.Sprintf("%d bytes of %d", d.mtu-100, d.mtu)},
		{"a masquerade of pods", own, foreign(family, &expr.Masq{}), "source", "that of pod "},
	}
	if !v6 {
		list = append(list, trouble{
			"a NAT of all", own, foreign(family, nodeNAT(d.node)...), "source",
			" became " + d.node.IP(false).String() + ", and this node dropped it",
		})
	}
	return list
}

// suffers makes the trouble, until it is said, and ends it.
func (d doctor) suffers(trouble trouble) {
	d.t.Helper()
	start := time.Now()
	for _, n := range trouble.nodes {
		check(d.t, netfilter.Write(n.Space(), trouble.table))
	}
	d.says(trouble.name, trouble.reason, trouble.detail)
	d.t.Logf("%s: said after %s", trouble.name, time.Since(start).Round(time.Millisecond))
	for _, n := range trouble.nodes {
		check(d.t, netfilter.Write(n.Space(), netfilter.Table{Family: trouble.table.Family, Name: trouble.table.Name}))
	}
	d.healthy()
}

// doctor asks about the way of one node of east to west.
type doctor struct {
	t    *testing.T
	p    *peers
	node *lab.Node
	mtu  int // of the tunnel device
}

func (d doctor) await(check func(context.Context) error) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), said)
	defer cancel()
	if err := eventually(ctx, func() error { return check(ctx) }); err != nil {
		d.t.Fatal(err)
	}
}

// healthy waits until nothing is wrong, for who asks for JSON or for a table.
func (d doctor) healthy() {
	d.t.Helper()
	d.await(func(ctx context.Context) error {
		got, err := diagnose(ctx, d.node, d.p.west)
		if err != nil {
			return err
		}
		n := got.Nodes[0]
		peer := n.Peers[0]
		if !got.OK || peer.State != "ok" || peer.Mode != "vxlan" || peer.Source != "ok" || peer.Paths == 0 || peer.Reachable != peer.Paths ||
			peer.MTU != n.MTU || n.MTU != d.mtu || peer.RTTMedian == "" {
			return fmt.Errorf("not healthy: %+v", got)
		}
		if !slices.ContainsFunc(n.Items, func(i struct{ Kind, Name string }) bool { return i.Kind == "device" && i.Name == "mesh0" }) {
			return fmt.Errorf("no device among %+v", n.Items)
		}
		return nil
	})
	d.await(func(ctx context.Context) error {
		for _, c := range d.p.clusters() {
			out, err := c.Causeway(ctx, "diagnose")
			if err != nil || !strings.Contains(string(out), "Nothing is wrong.") {
				return fmt.Errorf("%s: %w\n%s", c.Name, err, out)
			}
			out, err = c.Causeway(ctx, "status")
			if err != nil || !strings.Contains(string(out), "PATHS") {
				return fmt.Errorf("%s: %w\n%s", c.Name, err, out)
			}
		}
		return nil
	})
}

// says waits until a reason is named, with words and the next step.
func (d doctor) says(name, reason, detail string) {
	d.t.Helper()
	d.await(func(ctx context.Context) error {
		got, err := diagnose(ctx, d.node, d.p.west)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, trouble := range got.Nodes[0].Peers[0].Troubles {
			if trouble.Reason == reason && strings.Contains(trouble.Detail, detail) && trouble.Means != "" && trouble.Do != "" {
				return nil
			}
		}
		return fmt.Errorf("%s: not said in %+v", name, got)
	})
}

// filterTable is a chain of somebody else's.
func filterTable(family nftables.TableFamily, kind nftables.ChainType, hook *nftables.ChainHook, priority int32, rules ...netfilter.Rule) netfilter.Table {
	return netfilter.Table{Family: family, Name: "foreign", Chains: []netfilter.Chain{{
		Name: "chain", Type: kind, Hook: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority)), Rules: rules,
	}}}
}

// tunnels match what comes for the mesh port.
func tunnels() netfilter.Rule {
	return netfilter.Rule{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(meshPort)},
	}
}

func firewall(family nftables.TableFamily) netfilter.Table {
	return filterTable(family, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -250, netfilter.Join(tunnels(), netfilter.Drop()))
}

// narrow loses tunnels' packets that are larger, without a word.
func narrow(family nftables.TableFamily, mtu uint16) netfilter.Table {
	at := uint32(2)
	if family == netfilter.FamilyIPv6 { // whose length is without the header
		at, mtu = 4, mtu-40
	}
	larger := netfilter.Rule{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: 2},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: binaryutil.BigEndian.PutUint16(mtu)},
	}
	return filterTable(family, nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -250, netfilter.Join(tunnels(), larger, netfilter.Drop()))
}

// foreign changes the source of what leaves for the other cluster, before ours
// keeps it.
func foreign(family nftables.TableFamily, nat ...expr.Any) netfilter.Table {
	rule := netfilter.Join(netfilter.Out(netfilter.Device(meshDevice)), netfilter.Rule(nat))
	return filterTable(family, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 50, rule)
}

// nodeNAT gives packets the node's own address.
func nodeNAT(node *lab.Node) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: node.IP(false).AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	}
}
