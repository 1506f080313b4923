package host_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// TestRepair has somebody change each thing of ours. It is put back, counted and
// told, and traffic goes on.
func TestRepair(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.a.cloudRules()
	w.a.run(w.a.node, "iptables-nft", "-P", "FORWARD", "DROP")
	a, _ := w.join(false)
	watch(t, a)
	must(t, a.Apply(w.desired(w.a, false)))
	good := w.ours()
	for _, tc := range []struct{ kind, command string }{
		{"rule", "ip rule del pref 100"},
		{"rule", "ip -6 rule del pref 100"},
		{"route", "ip route flush table 8473"},
		{"route", "ip -6 route flush table 8473"},
		{"route", "ip route replace 10.2.0.0/16 dev eth0 table 8473 proto 203"},
		{"nftables table", "nft delete table inet causeway"},
		{"nftables table", "nft flush chain inet causeway postrouting"},
		{"nftables table", "nft flush set inet causeway local6"},
		{"nftables table", "nft add element inet causeway native4 { 10.9.0.0/16 }"},
		{"nftables table", "nft add rule inet causeway forward drop"},
		{"nftables table", "nft add chain inet causeway forward { policy drop; }"},
		{"forward rule", "iptables-nft -F FORWARD"},
		{"address", "ip addr flush dev mesh0"},
		{"address", "ip addr add 10.200.1.77/32 dev mesh0"},
		{"setting", "ip link set mesh0 down"},
		{"setting", "ip link set mesh0 mtu 1280"},
		{"setting", "ip link set mesh0 arp on"},
		{"setting", "ip link set mesh0 alias theirs"},
		{"setting", "ip link set mesh0 address 02:00:00:00:00:01"},
		{"device", "ip link del mesh0"},
	} {
		before, begin := w.a.metric("causeway_host_repairs_total", tc.kind), time.Now()
		args := strings.Fields(tc.command)
		w.a.run(w.a.node, args[0], args[1:]...)
		await(t, func() string {
			if w.a.metric("causeway_host_repairs_total", tc.kind) == before {
				return tc.command + ": no repair is counted"
			}
			if now := w.ours(); now != good {
				return fmt.Sprintf("%s: %s\nwant %s", tc.command, now, good)
			}
			return ""
		})
		t.Logf("%s: put back after %s", tc.command, time.Since(begin).Round(time.Millisecond))
		if !strings.Contains(fmt.Sprint(a.Problems()), "the "+tc.kind+": it was put back") {
			t.Errorf("%s: problems %v", tc.command, a.Problems())
		}
		for i := range 2 {
			if got, err := ask(w.a.pod, w.b.pod, w.b.addr[i], netip.Addr{}); err != nil || got != w.a.addr[i] {
				t.Errorf("%s: client %v, %v", tc.command, got, err)
			}
		}
	}
}

// TestQuarrel: against a program that takes the rule away whenever it comes, the
// agent slows down, and has it again when the other one ends.
func TestQuarrel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.a.cloudRules()
	a, _ := w.join(false)
	watch(t, a)
	const most = 40 // at the full pace it would be 20 a second
	deleted := 0
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if _, err := w.a.try(w.a.node, "ip", "rule", "del", "pref", "100"); err == nil {
			deleted++
		}
	}
	if deleted == 0 || deleted > most {
		t.Errorf("deleted %d times, want 1 to %d", deleted, most)
	}
	await(t, func() string {
		if text := w.a.run(w.a.node, "ip", "rule"); !strings.Contains(text, "lookup 8473") {
			return text
		}
		return ""
	})
}

// ours is all that can be seen of node a's part in the mesh, but for numbers that
// are never the same.
func (w *world) ours() string {
	var lines []string
	for line := range strings.Lines(w.a.state()) {
		switch fields := strings.Fields(line); {
		case strings.Contains(line, "mesh0:"), strings.Contains(line, "mesh0    inet"): // its index is new each time
			lines = append(lines, strings.Join(fields[1:], " "))
		case strings.Contains(line, "dev mesh0"), strings.Contains(line, "8473"):
			lines = append(lines, strings.Join(fields, " "))
		case strings.Contains(line, "causeway:"):
			before, after, _ := strings.Cut(line, "packets ")
			_, after, _ = strings.Cut(after, "comment")
			lines = append(lines, strings.TrimSpace(before+after))
		case strings.Contains(line, "elements"), strings.Contains(line, "policy"):
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return strings.Join(lines, "\n")
}

// TestAdopt has a second process take over, under traffic, and change what it is
// for: nothing is lost and nothing is made twice.
func TestAdopt(t *testing.T) {
	t.Parallel()
	for _, underlay := range []int{0, 1} {
		t.Run(fmt.Sprintf("underlay %d", underlay), func(t *testing.T) {
			w := newWorld(t)
			first, b := w.join(underlay == 1)
			watch(t, b)
			good := w.ours()
			index := w.a.tunnel().Index
			stops := []func() int{
				stream(t, w.a.pod, w.b.pod, w.b.addr[0]), stream(t, w.a.pod, w.b.pod, w.b.addr[1]), stream(t, w.a.node, w.b.node, w.b.mesh[0]),
			}
			for range 3 {
				must(t, first.Close())
				first = w.a.open(w.b.underlay[underlay])
				d := w.desired(w.a, underlay == 1)
				must(t, first.Apply(d))
				if now := w.ours(); now != good {
					t.Errorf("adopted:\n%s\nwant\n%s", now, good)
				}
				d.LocalPods = append(d.LocalPods, netip.MustParsePrefix("10.77.0.0/16"))
				d.Routes = append(d.Routes, host.Route{Prefix: netip.MustParsePrefix("10.78.0.0/16"), Mode: route.VXLAN})
				d.MTU = 1500
				must(t, first.Apply(d), first.Apply(w.desired(w.a, underlay == 1)))
			}
			for _, stop := range stops {
				if answers := stop(); answers == 0 {
					t.Error("nothing was asked")
				}
			}
			if now := w.ours(); now != good {
				t.Errorf("at the end:\n%s\nwant\n%s", now, good)
			}
			if now := w.a.tunnel().Index; now != index {
				t.Errorf("the device is another: %d, was %d", now, index)
			}
			if repairs := w.a.metric("causeway_host_repairs_total", ""); repairs != 0 {
				t.Errorf("%v repairs: own changes are taken for others'", repairs)
			}
		})
	}
}

// TestRemove leaves a node as it was, can be repeated, and needs not have made
// what it removes.
func TestRemove(t *testing.T) {
	w := newWorld(t)
	w.a.run(w.a.node, "iptables-nft", "-P", "FORWARD", "DROP")
	before := w.a.rested()
	a, _ := w.join(false)
	items, err := a.Items()
	must(t, err)
	other := w.a.open(w.b.underlay[0])
	removed, err := other.Remove()
	must(t, err)
	// Addresses go with the device.
	if len(removed) != len(items)-len(w.a.mesh) {
		t.Errorf("removed %v of %v", removed, items)
	}
	if after := w.a.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	removed, err = other.Remove()
	if err != nil || len(removed) != 0 {
		t.Errorf("removed again: %v, %v", removed, err)
	}
	must(t, a.Apply(w.desired(w.a, false)))
	if _, err := ask(w.a.pod, w.b.pod, w.b.addr[0], netip.Addr{}); err != nil {
		t.Error(err)
	}
	must(t, a.Apply(host.Desired{})) // takes no part any more
	if after := w.a.state(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestMTU follows the underlay, device by device and route by route, under
// traffic.
func TestMTU(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.join(false)
	watch(t, a)
	watch(t, b)
	stop := stream(t, w.a.pod, w.b.pod, w.b.addr[0])
	want := func(mtu int) {
		t.Helper()
		await(t, func() string {
			if is := w.a.tunnel().MTU; is != mtu || a.MTU() != mtu {
				return fmt.Sprintf("MTU %d, %d, want %d", is, a.MTU(), mtu)
			}
			return ""
		})
		for i := range 2 {
			if _, err := ask(w.a.node, w.b.pod, w.b.addr[i], netip.Addr{}); err != nil {
				t.Errorf("MTU %d: %v", mtu, err)
			}
		}
	}
	want(rootMTU - 50)
	w.a.setMTU("eth0", 1400)
	w.b.setMTU("eth0", 1400)
	want(1350)
	w.a.run(w.a.node, "ip", "route", "add", w.b.underlay[0].String(), "dev", "eth0", "mtu", "1380")
	want(1330)
	both := w.desired(w.a, false)
	both.Nodes = append(both.Nodes, w.b.underlay[1])
	must(t, a.Apply(both))
	want(1330) // 1380 - 50 = 1400 - 70
	w.a.run(w.a.node, "ip", "route", "del", w.b.underlay[0].String(), "dev", "eth0", "mtu", "1380")
	want(1330)
	both.MTU = 1500
	w.a.setMTU("eth0", 9000)
	w.b.setMTU("eth0", 9000)
	must(t, a.Apply(both))
	want(1430)
	stop()
	if repairs := w.a.metric("causeway_host_repairs_total", ""); repairs != 0 {
		t.Errorf("%v repairs", repairs)
	}
}

// TestPathMTU: what routers on the way carry is learnt, and packets that are too
// large for it arrive after all.
func TestPathMTU(t *testing.T) {
	t.Parallel()
	for _, underlay := range []int{0, 1} {
		t.Run(fmt.Sprintf("underlay %d", underlay), func(t *testing.T) {
			t.Parallel()
			w := newRouted(t, 1400)
			a, b := w.join(underlay == 1)
			watch(t, a)
			watch(t, b)
			want := 1500 - 50 - 20*underlay
			if a.MTU() != want {
				t.Errorf("MTU %d, want %d", a.MTU(), want)
			}
			for i := range 2 {
				if _, err := ask(w.a.pod, w.b.pod, w.b.addr[i], netip.Addr{}); err != nil {
					t.Error(err)
				}
			}
			if want -= 100; a.MTU() != want {
				t.Errorf("MTU %d, want %d", a.MTU(), want)
			}
		})
	}
}

// TestYield: routes of others' in a peer's range stay in effect and are told, our
// own addresses and the ways of the tunnels are not led into them, and what is
// given up is ours again.
func TestYield(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, address := range []string{"10.2.9.9/32", "fd00:2::99/128"} {
		must(t, w.a.node.AddAddress("lo", netip.MustParsePrefix(address)))
		must(t, w.a.node.AddRoute(netspace.Route{To: netip.MustParsePrefix([]string{"10.2.5.0/24", "fd00:2::5:0/112"}[i]), Device: "pod0"}))
	}
	a, b := w.a.open(w.b.underlay[0]), w.b.open(w.a.underlay[0])
	must(t, b.Apply(w.desired(w.b, false)))
	d := w.desired(w.a, false)
	d.Routes = append(d.Routes, host.Route{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Mode: route.VXLAN})
	d.Nodes = append(d.Nodes, netip.MustParseAddr("10.2.200.1"))
	must(t, a.Apply(d))
	watch(t, a)
	device := func(to, want string) {
		t.Helper()
		await(t, func() string {
			if text := w.a.run(w.a.node, "ip", "route", "get", to); !strings.Contains(text, "dev "+want+" ") {
				return fmt.Sprintf("%s: %s, want %s", to, text, want)
			}
			return ""
		})
	}
	for to, want := range map[string]string{
		"10.2.5.1": "pod0", "fd00:2::5:1": "pod0", "10.2.9.9": "lo", "fd00:2::99": "lo",
		"10.2.4.1": "mesh0", "fd00:2::1": "mesh0", "10.2.200.1": "eth0", "10.2.200.2": "mesh0", "192.0.2.2": "eth0",
	} {
		device(to, want)
	}
	problems := fmt.Sprint(a.Problems())
	for _, want := range []string{"10.2.5.0/24 table main", "fd00:2::5:0/112 table main", "local 10.2.9.9/32", "local fd00:2::99/128", "192.0.2.0/24 table main"} {
		if !strings.Contains(problems, want) {
			t.Errorf("%s is not told: %s", want, problems)
		}
	}
	for i := range 2 {
		if _, err := ask(w.a.pod, w.b.pod, w.b.addr[i], netip.Addr{}); err != nil {
			t.Error(err)
		}
	}
	w.a.run(w.a.node, "ip", "route", "del", "10.2.5.0/24")
	device("10.2.5.1", "mesh0")
	w.a.run(w.a.node, "ip", "route", "add", "10.2.0.0/16", "dev", "pod0", "table", "77")
	device("10.2.5.1", "mesh0") // nobody asks that table
	w.a.run(w.a.node, "ip", "rule", "add", "pref", "300", "from", "10.1.0.10", "lookup", "77")
	device("10.2.4.1", "eth0") // the whole range is the rule's now; others are sent on by the default route
}

// TestRules: a cloud CNI's rules behind ours do not matter, one before ours is told.
func TestRules(t *testing.T) {
	w := newWorld(t)
	a, _ := w.join(false)
	w.a.run(w.a.node, "ip", "route", "add", "default", "via", w.b.underlay[0].String(), "dev", "eth0", "table", "7")
	w.a.run(w.a.node, "ip", "rule", "add", "pref", "1536", "from", w.a.addr[0].String(), "lookup", "7")
	must(t, a.Apply(w.desired(w.a, false)))
	if got, err := ask(w.a.pod, w.b.pod, w.b.addr[0], netip.Addr{}); err != nil || got != w.a.addr[0] {
		t.Errorf("client %v, %v", got, err)
	}
	if problems := a.Problems(); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
	w.a.run(w.a.node, "ip", "rule", "add", "pref", "50", "from", w.a.addr[0].String(), "lookup", "7")
	must(t, a.Apply(w.desired(w.a, false)))
	if problems := fmt.Sprint(a.Problems()); !strings.Contains(problems, "50:\tfrom 10.1.0.10/32 lookup 7") {
		t.Errorf("problems %s", problems)
	}
}

// TestStrict carries packets over nodes with the strictest rp_filter, and over
// loose ones.
func TestStrict(t *testing.T) {
	for _, value := range []string{"0", "1", "2"} {
		w := newWorld(t)
		for _, s := range []*side{w.a, w.b} {
			for _, name := range []string{"all", "default", "eth0", "pod0"} {
				must(t, s.node.Set("ipv4/conf/"+name+"/rp_filter", value))
			}
		}
		w.join(false)
		for _, from := range []*netspace.Space{w.a.pod, w.a.node} {
			if _, err := ask(from, w.b.pod, w.b.addr[0], netip.Addr{}); err != nil {
				t.Errorf("rp_filter %s: %v", value, err)
			}
		}
	}
}
