package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab"
)

// routeProtocol is by what routes and rules are known to be the agents', and
// rulePriority where the rules stand.
const (
	routeProtocol = 203
	rulePriority  = 100
)

// guard sees to it that a node is never without what carries packets, and drops
// none.
type guard struct {
	node    *lab.Node
	links   []link.ID
	dropped float64
	socket  *nl.NetlinkSocket

	ended sync.WaitGroup
	mu    sync.Mutex
	lost  []string // what was taken away
}

func newGuard(t *testing.T, node *lab.Node) *guard {
	t.Helper()
	g := &guard{node: node, links: programLinks(t, node), dropped: dropped(t, node)}
	if n := meshRoutes(t, node); n == 0 {
		t.Fatalf("%s has no route of the agent's", node)
	}
	check(t, node.Space().Do(func() (err error) {
		g.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
			unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
		return err
	}))
	check(t, g.socket.SetReceiveBufferSize(1<<20, true))
	check(t, g.socket.SetReceiveTimeout(&unix.Timeval{Usec: 100_000}))
	ctx, cancel := context.WithCancel(t.Context())
	g.ended.Go(func() { g.watch(ctx) })
	t.Cleanup(func() {
		cancel()
		g.ended.Wait()
		g.socket.Close()
	})
	return g
}

// watch takes up what the kernel says of the node's network.
func (g *guard) watch(ctx context.Context) {
	for ctx.Err() == nil {
		messages, _, err := g.socket.Receive()
		if errors.Is(err, unix.EAGAIN) {
			continue
		}
		g.mu.Lock()
		if err != nil {
			g.lost = append(g.lost, "word of what happens: "+err.Error())
		}
		for _, m := range messages {
			if what := taken(m.Header.Type, m.Data); what != "" {
				g.lost = append(g.lost, what)
			}
		}
		g.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// taken says what of the agent's a message of the kernel takes away, if it does.
func taken(kind uint16, data []byte) string {
	switch kind {
	case unix.RTM_DELROUTE:
		if nl.DeserializeRtMsg(data).Protocol == routeProtocol {
			return "a route"
		}
	case unix.RTM_DELRULE:
		if protocol := attribute(data[unix.SizeofRtMsg:], nl.FRA_PROTOCOL); len(protocol) > 0 && protocol[0] == routeProtocol {
			return "a rule"
		}
	case unix.RTM_DELLINK:
		if string(bytes.TrimRight(attribute(data[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME), "\x00")) == meshDevice {
			return meshDevice
		}
	}
	return ""
}

func attribute(data []byte, kind uint16) []byte {
	list, err := nl.ParseRouteAttr(data)
	if err != nil {
		return nil
	}
	for _, a := range list {
		if a.Attr.Type == kind {
			return a.Value
		}
	}
	return nil
}

// meshRoutes is how many routes there are of the agent's.
func meshRoutes(t *testing.T, node *lab.Node) (count int) {
	t.Helper()
	check(t, node.Space().Do(func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := netlink.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
			if err != nil {
				return err
			}
			count += len(routes)
		}
		return nil
	}))
	return count
}

// hasRules returns an error until the agent has rules of its own in both families.
func hasRules(node *lab.Node) error {
	return node.Space().Do(func() error {
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Priority == rulePriority }) {
				return fmt.Errorf("%s has no rule of priority %d", node, rulePriority)
			}
		}
		return nil
	})
}

// check looks at what is there. Nothing may have been taken away since the last
// time; the links of the programs are still the same ones, which cannot be where
// one was ever detached.
func (g *guard) check(t *testing.T, when string) {
	t.Helper()
	g.mu.Lock()
	lost := g.lost
	g.lost = nil
	g.mu.Unlock()
	if len(lost) > 0 {
		t.Errorf("%s: taken away on %s: %v", when, g.node, lost)
	}
	if links := programLinks(t, g.node); !slices.Equal(links, g.links) {
		t.Errorf("%s: programs of %s hang on the links %v, and did on %v", when, g.node, links, g.links)
	}
	if !g.node.Agent().Running() {
		return
	}
	if now := dropped(t, g.node); now > g.dropped {
		t.Errorf("%s: %s has dropped %.0f packets, and had %.0f", when, g.node, now, g.dropped)
	}
}

// programLinks are those by which programs run on the tunnel device.
func programLinks(t *testing.T, node *lab.Node) (links []link.ID) {
	t.Helper()
	check(t, node.Space().Do(func() error {
		device, err := net.InterfaceByName(meshDevice)
		if err != nil {
			return err
		}
		for _, way := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			result, err := link.QueryPrograms(link.QueryOptions{Target: device.Index, Attach: way})
			if err != nil {
				return err
			}
			for _, p := range result.Programs {
				id, _ := p.LinkID()
				links = append(links, id)
			}
			if len(result.Programs) != 1 {
				return fmt.Errorf("%d programs on %s of %s, %s, want ours", len(result.Programs), meshDevice, node, way)
			}
		}
		return nil
	}))
	return links
}

// dropped is how many packets of others a node's agent has dropped or refused, by
// its counters. What devices send of themselves is not meant for anybody there, and
// what the agent sends to test itself must go no further.
func dropped(t *testing.T, node *lab.Node) (total float64) {
	t.Helper()
	text, err := node.Agent().Metrics(t.Context())
	check(t, err)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		ours := strings.HasPrefix(name, "causeway_packet_packets_total{") || strings.HasPrefix(name, "causeway_host_refused_packets_total{")
		if !ours || slices.ContainsFunc([]string{"passed", "late", "link_scope", "self_test"}, func(reason string) bool {
			return strings.Contains(name, `reason="`+reason+`"`)
		}) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		check(t, err)
		total += n
	}
	return total
}
