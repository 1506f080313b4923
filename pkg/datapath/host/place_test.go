package host_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// routesOf returns our routes of a family in a table.
func (s *side) routesOf(family int, table string) string {
	s.t.Helper()
	text, err := s.try(s.node, "ip", []string{"-4", "-6"}[family], "route", "show", "table", table, "proto", "203")
	if strings.Contains(text, "FIB table does not exist") {
		return ""
	}
	must(s.t, err)
	return text
}

// place says where our routes of a family stand.
func (s *side) place(family int) string {
	s.t.Helper()
	text := ""
	for _, table := range []string{"main", "8473"} {
		if s.routesOf(family, table) != "" {
			text += table + " "
		}
	}
	if strings.Contains(s.run(s.node, "ip", []string{"-4", "-6"}[family], "rule"), "proto 203") {
		text += "rule"
	}
	return strings.TrimSpace(text)
}

const (
	inMain = "main"
	inOwn  = "8473 rule"
)

// TestPlace: without rules but the kernel's own there is none of ours. With any,
// or where another table or a routing daemon has to do with it, our routes stand
// in our table, for that family; and so they do where they stood there before.
func TestPlace(t *testing.T) {
	for _, tc := range []struct {
		name     string
		commands string
		want     [2]string // IPv4, IPv6
	}{
		{"nobody", "ip link show", [2]string{inMain, inMain}},
		{"other routes", "ip route add 10.2.5.0/24 dev pod0; ip -6 route add fd00:2::5:0/112 dev pod0", [2]string{inMain, inMain}},
		{"rule", "ip rule add pref 2000 from 198.51.100.1 lookup main", [2]string{inOwn, inMain}},
		{"rule, IPv6", "ip -6 rule add pref 2000 from 2001:db8:ffff::1 lookup main", [2]string{inMain, inOwn}},
		{"no rule for local", "ip rule add pref 100 lookup local; ip rule del pref 0", [2]string{inOwn, inMain}},
		{"no rule for default", "ip rule del pref 32767", [2]string{inOwn, inMain}},
		{"a rule twice", "ip rule add pref 32766 lookup main from 10.0.0.0/8", [2]string{inOwn, inMain}},
		{"device's table", "ip -6 rule del pref 32766; ip -6 rule add pref 32766 lookup 254 iif pod0", [2]string{inMain, inOwn}},
		{"routing daemon", "ip route add blackhole 10.1.0.0/24 proto bird; ip -6 route add blackhole fd00:1:1::/64 proto zebra", [2]string{inOwn, inOwn}},
		{"default table", "ip route add 10.2.5.0/24 dev pod0 table default", [2]string{inOwn, inMain}},
		{"ours before", "ip rule add pref 100 lookup 8473 protocol 203", [2]string{inOwn, inMain}},
		{"our routes before", "ip -6 route add fd00:2::/64 dev pod0 table 8473 proto 203", [2]string{inMain, inOwn}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newSide(t, "a", 1)
			for command := range strings.SplitSeq(tc.commands, "; ") {
				args := strings.Fields(command)
				s.run(s.node, args[0], args[1:]...)
			}
			h := s.openHost(host.Config{})
			d := host.Desired{Mesh: s.mesh}
			for _, p := range []string{"10.2.0.0/16", "fd00:2::/64"} {
				d.Routes = append(d.Routes, host.Route{Prefix: netip.MustParsePrefix(p), Mode: route.VXLAN})
			}
			must(t, h.Apply(d), h.Apply(d))
			for family, want := range tc.want {
				if got := s.place(family); got != want {
					t.Errorf("family %d: %q, want %q\n%s", family, got, want, s.state())
				}
			}
			if _, err := h.Remove(); err != nil || s.place(0)+s.place(1) != "" {
				t.Errorf("after Remove: %v, %s", err, s.state())
			}
		})
	}
}

// TestPlaceOfNodes: what has to be thrown back has no place in the main table.
func TestPlaceOfNodes(t *testing.T) {
	s := newSide(t, "a", 1)
	h := s.openHost(host.Config{})
	d := host.Desired{Mesh: s.mesh, Routes: []host.Route{{Prefix: netip.MustParsePrefix("10.2.0.0/16"), Mode: route.VXLAN}}}
	must(t, h.Apply(d))
	if got := s.place(0); got != inMain {
		t.Errorf("alone: %q", got)
	}
	d.Nodes = []netip.Addr{netip.MustParseAddr("10.2.200.1")}
	must(t, h.Apply(d))
	if text := s.routesOf(0, "8473"); s.place(0) != inOwn || !strings.Contains(text, "throw 10.2.200.1") {
		t.Errorf("with a node in the range: %q, %s", s.place(0), text)
	}
}

// changes collects what becomes of our routes and rules.
type changes struct {
	t      *testing.T
	socket *nl.NetlinkSocket
}

func (s *side) changes() *changes {
	s.t.Helper()
	c := &changes{t: s.t}
	must(s.t, s.node.Do(func() (err error) {
		c.socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV4_RULE)
		return err
	}))
	s.t.Cleanup(c.socket.Close)
	must(s.t, c.socket.SetReceiveTimeout(&unix.Timeval{Sec: int64(patience / time.Second)}))
	return c
}

// next returns the next n of them, in their order.
func (c *changes) next(n int) (all []string) {
	c.t.Helper()
	for len(all) < n {
		messages, _, err := c.socket.Receive()
		if err != nil {
			c.t.Fatalf("after %q: %v", all, err)
		}
		for _, m := range messages {
			// Byte 5 of both headers is the protocol, and byte 4 the table, 252 for
			// one beyond 255.
			switch m.Header.Type {
			case unix.RTM_NEWRULE, unix.RTM_DELRULE:
				rule := slices.Index([]uint16{unix.RTM_NEWRULE, unix.RTM_DELRULE}, m.Header.Type)
				if attrs, err := nl.ParseRouteAttrAsMap(m.Data[12:]); err == nil && len(attrs[nl.FRA_PROTOCOL].Value) > 0 && attrs[nl.FRA_PROTOCOL].Value[0] == host.Protocol {
					all = append(all, []string{"+rule", "-rule"}[rule])
				}
			case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
				if m.Data[5] != host.Protocol {
					continue
				}
				table := map[byte]string{unix.RT_TABLE_MAIN: "main", unix.RT_TABLE_COMPAT: "own"}[m.Data[4]]
				all = append(all, map[uint16]string{unix.RTM_NEWROUTE: "+", unix.RTM_DELROUTE: "-"}[m.Header.Type]+table)
			}
		}
	}
	return all
}

// TestMove: as soon as there is a rule of somebody's, our routes move, under
// traffic: first they stand in our table, then it is asked, and then they leave
// the main table. That is no repair. What moved stays when the rule goes, and the
// next process finds nothing to do, as after a version that always had a rule.
func TestMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, _ := w.join(false)
	must(t, a.Apply(w.desired(w.a, false)))
	if w.a.place(0) != inMain || w.a.place(1) != inMain {
		t.Fatalf("at first: %s, %s", w.a.place(0), w.a.place(1))
	}
	stops := []func() int{
		stream(t, w.a.pod, w.b.pod, w.b.addr[0]), stream(t, w.a.pod, w.b.pod, w.b.addr[1]), stream(t, w.a.node, w.b.node, w.b.mesh[0]),
	}
	watch(t, a)
	seen := w.a.changes()
	w.a.cloudRules()
	if got, want := seen.next(5), []string{"+own", "+own", "+rule", "-main", "-main"}; !slices.Equal(got, want) {
		t.Errorf("changes %q, want %q", got, want)
	}
	await(t, func() string {
		if w.a.place(0) != inOwn || w.a.place(1) != inOwn {
			return fmt.Sprintf("routes are in %s, %s", w.a.place(0), w.a.place(1))
		}
		return ""
	})
	w.a.run(w.a.node, "ip", "rule", "del", "pref", "2000")
	w.a.run(w.a.node, "ip", "-6", "rule", "del", "pref", "2000")
	must(t, a.Apply(w.desired(w.a, false)))
	good := w.ours()
	next := w.a.open(w.b.underlay[0])
	must(t, next.Apply(w.desired(w.a, false)))
	if now := w.ours(); now != good || w.a.place(0) != inOwn {
		t.Errorf("adopted:\n%s\nwant\n%s", now, good)
	}
	for _, stop := range stops {
		if stop() == 0 {
			t.Error("nothing was asked")
		}
	}
	if repairs := w.a.metric("causeway_host_repairs_total", ""); repairs != 0 {
		t.Errorf("%v repairs", repairs)
	}
}

// TestMainTable: in the main table, too, what somebody deletes or changes is put
// back; what somebody else routes there counts at once, without us, and is told.
func TestMainTable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, _ := w.join(false)
	must(t, a.Apply(w.desired(w.a, false)))
	w.a.run(w.a.node, "ip", "route", "add", "10.2.0.0/16", "dev", "pod0")
	w.a.run(w.a.node, "ip", "-6", "route", "add", "fd00:2::/80", "dev", "pod0")
	device := func(to, want string) {
		t.Helper()
		await(t, func() string {
			if text := w.a.run(w.a.node, "ip", "route", "get", to); !strings.Contains(text, "dev "+want+" ") {
				return fmt.Sprintf("%s: %s, want %s", to, text, want)
			}
			return ""
		})
	}
	device("10.2.0.10", "pod0")
	device("fd00:2::10", "pod0")
	device("fd00:2::1:0:0:1", "mesh0")
	must(t, a.Apply(w.desired(w.a, false)))
	for _, want := range []string{"10.2.0.0/16 table main in 10.2.0.0/16", "fd00:2::/80 table main in fd00:2::/64"} {
		if problems := fmt.Sprint(a.Problems()); !strings.Contains(problems, want) {
			t.Errorf("%s is not told: %s", want, problems)
		}
	}
	if text := w.a.routesOf(0, "main"); strings.Contains(text, "10.2.0.0/16") {
		t.Errorf("ours beside somebody else's: %s", text)
	}
	w.a.run(w.a.node, "ip", "route", "del", "10.2.0.0/16", "dev", "pod0")
	w.a.run(w.a.node, "ip", "-6", "route", "del", "fd00:2::/80", "dev", "pod0")
	must(t, a.Apply(w.desired(w.a, false)), a.Apply(w.desired(w.a, false)))
	watch(t, a)
	good := w.ours()
	for _, command := range []string{
		"ip route flush proto 203", "ip -6 route flush proto 203",
		"ip route replace 10.2.0.0/16 dev eth0 proto 203 metric 8473", "ip -6 route replace fd00:2::/64 dev eth0 proto 203 metric 8473",
		"ip route add 10.2.0.0/16 dev eth0 proto 203", "ip route add 10.7.0.0/16 dev eth0 proto 203 metric 1",
		"ip link set mesh0 down", "ip link del mesh0",
	} {
		before := w.a.metric("causeway_host_repairs_total", "")
		args := strings.Fields(command)
		w.a.run(w.a.node, args[0], args[1:]...)
		await(t, func() string {
			if w.a.metric("causeway_host_repairs_total", "") == before {
				return command + ": no repair is counted"
			}
			if now := w.ours(); now != good {
				return fmt.Sprintf("%s: %s\nwant %s", command, now, good)
			}
			return ""
		})
		for i := range 2 {
			if got, err := ask(w.a.pod, w.b.pod, w.b.addr[i], netip.Addr{}); err != nil || got != w.a.addr[i] {
				t.Errorf("%s: client %v, %v", command, got, err)
			}
		}
	}
}
