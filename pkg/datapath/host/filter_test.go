package host_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// masquerade is how CNIs have it, on node a in both families, and on node b for
// what comes in, as some have that, too.
func masquerade(t *testing.T, w *world, tool string) {
	t.Helper()
	for i, name := range []string{"ip", "ip6"} {
		mine, others := w.a.ranges[i].String(), w.b.ranges[i].String()
		switch tool {
		case "nft":
			w.a.nft(fmt.Sprintf(`table %[1]s cni { chain post { type nat hook postrouting priority srcnat; %[1]s saddr %[2]s %[1]s daddr != %[2]s masquerade; }; }`, name, mine))
			w.b.nft(fmt.Sprintf(`table %[1]s cni { chain post { type nat hook postrouting priority srcnat; %[1]s saddr != %[2]s %[1]s daddr %[2]s masquerade; }; }`, name, others))
		default:
			if i == 1 {
				tool = strings.Replace(tool, "ip", "ip6", 1)
			}
			w.a.run(w.a.node, tool, "-t", "nat", "-A", "POSTROUTING", "-s", mine, "!", "-d", mine, "-j", "MASQUERADE")
			w.b.run(w.b.node, tool, "-t", "nat", "-A", "POSTROUTING", "!", "-s", others, "-d", others, "-j", "MASQUERADE")
		}
	}
}

// TestMasquerade keeps the pod's source beside CNIs that replace it, whoever of
// both came first. Without our table they do replace it.
func TestMasquerade(t *testing.T) {
	for _, tool := range []string{"nft", "iptables-nft", "iptables-legacy"} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s first %t", tool, first), func(t *testing.T) {
				w := newWorld(t)
				if first {
					masquerade(t, w, tool)
				}
				a, b := w.join(false)
				if !first {
					masquerade(t, w, tool)
					must(t, a.Apply(w.desired(w.a, false)), b.Apply(w.desired(w.b, false)))
				}
				for i := range 2 {
					got, err := ask(w.a.pod, w.b.pod, w.b.addr[i], netip.Addr{})
					if err != nil || got != w.a.addr[i] {
						t.Errorf("client %v, %v; want %v", got, err, w.a.addr[i])
					}
				}
				w.b.run(w.b.node, "nft", "delete", "table", "inet", "causeway")
				gateway := w.b.ranges[0].Addr().Next()
				if got, err := ask(w.a.pod, w.b.pod, w.b.addr[0], netip.Addr{}); err != nil || got != gateway {
					t.Errorf("without b's table: client %v, %v; want %v", got, err, gateway)
				}
				must(t, b.Apply(w.desired(w.b, false)))
				w.a.run(w.a.node, "nft", "delete", "table", "inet", "causeway")
				if got, err := ask(w.a.pod, w.b.pod, w.b.addr[0], netip.Addr{}); err != nil || got != w.a.mesh[0] {
					t.Errorf("without a's table: client %v, %v; want %v", got, err, w.a.mesh[0])
				}
			})
		}
	}
}

// TestNative keeps the source of packets to a peer that the network routes.
func TestNative(t *testing.T) {
	w := newWorld(t)
	masquerade(t, w, "nft")
	w.b.run(w.b.node, "nft", "flush", "ruleset")
	a := w.a.open(w.b.underlay[0])
	d := w.desired(w.a, false)
	for i := range d.Routes {
		d.Routes[i].Mode = route.Native
	}
	must(t, a.Apply(d))
	for i := range 2 {
		if got, err := ask(w.a.pod, w.b.pod, w.b.addr[i], netip.Addr{}); err != nil || got != w.a.addr[i] {
			t.Errorf("client %v, %v; want %v", got, err, w.a.addr[i])
		}
	}
	if text := w.a.run(w.a.node, "ip", "route", "get", w.b.addr[0].String()); !strings.Contains(text, "dev eth0") {
		t.Errorf("routed %s", text)
	}
}

// TestNodePort leaves the node's NAT alone where it has to come back through it.
func TestNodePort(t *testing.T) {
	w := newWorld(t)
	w.join(false)
	w.b.nft(fmt.Sprintf(`table ip proxy {
		chain pre { type nat hook prerouting priority dstnat; ip daddr %s tcp dport %d dnat to %s; }
		chain post { type nat hook postrouting priority srcnat; ct status dnat masquerade; }
	}`, w.b.mesh[0], testPort, w.b.addr[0]))
	var listener net.Listener
	must(t, w.b.pod.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(w.b.addr[0], testPort).String())
		return err
	}))
	defer listener.Close()
	must(t, w.a.pod.Do(func() error {
		conn, err := net.Dial("tcp", netip.AddrPortFrom(w.b.mesh[0], testPort).String())
		if err != nil {
			return err
		}
		return conn.Close()
	}))
	conn, err := listener.Accept()
	must(t, err)
	defer conn.Close()
	got, want := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(), w.b.ranges[0].Addr().Next()
	if got != want {
		t.Errorf("client %v, want %v", got, want)
	}
}

// send sends a datagram to the mesh port from an address of the pod's.
func send(t *testing.T, from *netspace.Space, source, to netip.Addr) {
	t.Helper()
	must(t, from.Do(func() error {
		conn, err := net.DialUDP("udp", &net.UDPAddr{IP: source.AsSlice()}, &net.UDPAddr{IP: to.AsSlice(), Port: host.DefaultPort})
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write(make([]byte, 100))
		return err
	}))
}

// TestGuard has a pod send to the mesh port: of another node, of its own, and
// with the source of a peer's node. All is refused and counted, also over a change
// of the table.
func TestGuard(t *testing.T) {
	w := newWorld(t)
	a, _ := w.join(false)
	want := func(reason string, packets float64) {
		t.Helper()
		await(t, func() string {
			if got := w.a.metric("causeway_host_refused_packets_total", reason); got != packets {
				return fmt.Sprintf("%s: %v packets, want %v", reason, got, packets)
			}
			return ""
		})
	}
	for i := range 2 {
		send(t, w.a.pod, w.a.addr[i], w.a.underlay[i]) // its own node
		send(t, w.a.pod, w.a.addr[i], w.b.underlay[i])
	}
	want("pod", 4)
	for i := range 2 {
		spoofed := w.b.underlay[i]
		must(t, w.a.pod.AddAddress("eth0", netip.PrefixFrom(spoofed, spoofed.BitLen())))
		send(t, w.a.pod, spoofed, w.a.underlay[i])
	}
	want("device", 2)
	d := w.desired(w.a, false)
	d.LocalPods = []netip.Prefix{netip.MustParsePrefix("10.66.0.0/16")}
	must(t, a.Apply(d))
	want("pod", 4)
	send(t, w.a.pod, w.a.addr[0], netip.MustParseAddr("192.0.2.77")) // from no pod that we know of
	want("forwarded", 1)
	must(t, a.Apply(d))
	problems := fmt.Sprint(a.Problems())
	for _, text := range []string{"only nodes may: 4 were", "only nodes may: 1 were", "to their sender: 2 were"} {
		if !strings.Contains(problems, text) {
			t.Errorf("%q is not told: %s", text, problems)
		}
	}
}

// TestGuardOfOtherVersion counts what a table refused that has its rules in other
// chains, and replaces that table.
func TestGuardOfOtherVersion(t *testing.T) {
	w := newWorld(t)
	a, _ := w.join(false)
	w.a.run(w.a.node, "nft", "delete", "table", "inet", "causeway")
	w.a.nft(fmt.Sprintf(`table inet causeway { chain guard { type filter hook prerouting priority raw;
		udp dport %d ip saddr %s counter drop comment "causeway: no pod sends to the mesh port [0000000000000000]"; }; }`,
		host.DefaultPort, w.a.ranges[0]))
	send(t, w.a.pod, w.a.addr[0], w.b.underlay[0])
	refused := func() float64 { return w.a.metric("causeway_host_refused_packets_total", "pod") }
	await(t, func() string {
		if got := refused(); got != 1 {
			return fmt.Sprintf("%v packets refused, want 1", got)
		}
		return ""
	})
	must(t, a.Apply(w.desired(w.a, false)))
	if text := w.a.run(w.a.node, "nft", "list", "table", "inet", "causeway"); strings.Contains(text, "0000000000000000") || refused() != 1 {
		t.Errorf("%v packets refused by now, by\n%s", refused(), text)
	}
}

// TestSets: as pods and peers come and go, the sets hold what they should,
// address by address, and nothing else of the table is made anew.
func TestSets(t *testing.T) {
	s := newSide(t, "a", 1)
	h := s.openHost(host.Config{})
	random := rand.New(rand.NewPCG(1, 2))
	ranges := []string{"10.66.0.0/32", "10.66.0.1/32", "10.66.0.2/31", "10.66.0.4/30", "203.0.113.9/32", "fd66::/127", "fd66::2/128"}
	handles := func() string {
		text := s.run(s.node, "nft", "-a", "-t", "list", "table", "inet", "causeway")
		return strings.Join(regexp.MustCompile("# handle [0-9]+").FindAllString(text, -1), " ")
	}
	must(t, h.Apply(host.Desired{Mesh: s.mesh}))
	first := handles()
	for round := range 15 {
		d := host.Desired{Mesh: s.mesh}
		in := map[string]bool{}
		for _, text := range ranges {
			if in[text] = random.IntN(2) == 0; !in[text] {
				continue
			}
			p := netip.MustParsePrefix(text)
			d.LocalPods = append(d.LocalPods, p)
			d.Routes = append(d.Routes, host.Route{Prefix: p, Mode: route.Native})
		}
		if round == 7 { // what somebody else put there is in the way
			s.run(s.node, "nft", "add", "element", "inet", "causeway", "native4", "{ 10.66.3.0-10.66.3.7, 10.99.0.0/16 }")
		}
		must(t, h.Apply(d), h.Apply(d))
		for _, text := range ranges {
			p := netip.MustParsePrefix(text)
			for _, set := range []string{"local", "native"} {
				family := "4"
				if p.Addr().Is6() {
					family = "6"
				}
				_, err := s.try(s.node, "nft", "get", "element", "inet", "causeway", set+family, "{ "+p.Addr().String()+" }")
				if (err == nil) != in[text] {
					t.Errorf("round %d: %s%s holds %s: %t, want %t", round, set, family, text, err == nil, in[text])
				}
			}
		}
		if text := s.run(s.node, "nft", "list", "set", "inet", "causeway", "native4"); strings.Contains(text, "10.99.0.0") {
			t.Errorf("round %d: %s", round, text)
		}
		if now := handles(); now != first {
			t.Errorf("round %d: handles %s, were %s", round, now, first)
		}
	}
	// An interval that begins where one of ours does, and is longer.
	must(t, h.Apply(host.Desired{Mesh: s.mesh}))
	s.run(s.node, "nft", "add", "element", "inet", "causeway", "native4", "{ 10.66.0.0-10.66.0.15 }")
	d := host.Desired{Mesh: s.mesh, Routes: []host.Route{{Prefix: netip.MustParsePrefix("10.66.0.0/30"), Mode: route.Native}}}
	must(t, h.Apply(d), h.Apply(d))
	for address, want := range map[string]bool{"10.66.0.0": true, "10.66.0.3": true, "10.66.0.4": false, "10.66.0.15": false} {
		if _, err := s.try(s.node, "nft", "get", "element", "inet", "causeway", "native4", "{ "+address+" }"); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %t", address, err, want)
		}
	}
}

// TestSegments: the MSS of both ends is what fits through the tunnel, though both
// pods have a large MTU.
func TestSegments(t *testing.T) {
	w := newWorld(t)
	a, _ := w.join(false)
	for i, headers := range []int{40, 60} {
		var listener net.Listener
		at := netip.AddrPortFrom(w.b.addr[i], testPort).String()
		must(t, w.b.pod.Do(func() (err error) { listener, err = net.Listen("tcp", at); return err }))
		var client net.Conn
		must(t, w.a.pod.Do(func() (err error) { client, err = net.Dial("tcp", at); return err }))
		server, err := listener.Accept()
		must(t, err)
		for name, conn := range map[string]net.Conn{"client": client, "server": server} {
			raw, err := conn.(*net.TCPConn).SyscallConn()
			must(t, err)
			segment := 0
			must(t, raw.Control(func(fd uintptr) {
				segment, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
			}), err)
			if most := a.MTU() - headers; segment > most || segment < most-12 { // timestamps
				t.Errorf("%s of %s: MSS %d, want %d", name, at, segment, most)
			}
		}
		_, _, _ = client.Close(), server.Close(), listener.Close()
	}
}

// TestForwardDrop carries packets through nodes that forward nothing by policy,
// by whatever tool it was set, and leaves those tools working.
func TestForwardDrop(t *testing.T) {
	nft := func(s *side) {
		s.nft(`table inet firewall { chain forward { type filter hook forward priority filter; policy drop; iifname "pod9" accept; }; }`)
	}
	iptables := func(s *side) {
		for _, tool := range []string{"iptables-nft", "ip6tables-nft"} {
			s.run(s.node, tool, "-A", "FORWARD", "-i", "pod9", "-j", "ACCEPT")
			s.run(s.node, tool, "-P", "FORWARD", "DROP")
		}
	}
	legacy := func(s *side) {
		for _, tool := range []string{"iptables-legacy", "ip6tables-legacy"} {
			s.run(s.node, tool, "-A", "FORWARD", "-i", "pod9", "-j", "ACCEPT")
			s.run(s.node, tool, "-P", "FORWARD", "DROP")
		}
	}
	for name, set := range map[string]func(*side){"nft": nft, "iptables": iptables, "iptables-legacy": legacy} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			set(w.a)
			rules := func() string {
				if name != "iptables-legacy" {
					return w.a.run(w.a.node, "nft", "list", "ruleset")
				}
				return w.a.run(w.a.node, "iptables-legacy", "-S") + w.a.run(w.a.node, "ip6tables-legacy", "-S")
			}
			before := rules()
			a, _ := w.join(false)
			for i := range 2 {
				for _, way := range [][2]*side{{w.a, w.b}, {w.b, w.a}} {
					if _, err := ask(way[0].pod, way[1].pod, way[1].addr[i], netip.Addr{}); err != nil {
						t.Error(err)
					}
				}
			}
			if name == "iptables" {
				text := w.a.run(w.a.node, "iptables-nft", "-S", "FORWARD")
				for _, rule := range []string{`-A FORWARD -i mesh0`, `-A FORWARD -o mesh0`} {
					if !strings.Contains(text, rule) {
						t.Errorf("iptables shows no %s:\n%s", rule, text)
					}
				}
				w.a.run(w.a.node, "iptables-nft", "-I", "FORWARD", "-i", "pod9", "-o", "pod8", "-j", "ACCEPT")
				w.a.run(w.a.node, "iptables-nft", "-D", "FORWARD", "1")
			}
			removed, err := a.Remove()
			must(t, err)
			if !strings.Contains(fmt.Sprint(removed), "forward rule") {
				t.Errorf("removed %v", removed)
			}
			if after := rules(); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

// TestForwardAgain follows a policy that comes and goes.
func TestForwardAgain(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"iptables-nft", "iptables-legacy"} {
		t.Run(tool, func(t *testing.T) {
			w := newWorld(t)
			a, _ := w.join(false)
			watch(t, a)
			ours := func(want int) {
				t.Helper()
				await(t, func() string {
					if text := w.a.run(w.a.node, tool, "-S", "FORWARD"); strings.Count(text, "-A FORWARD") != want {
						return fmt.Sprintf("%d rules are wanted:\n%s", want, text)
					}
					return ""
				})
			}
			w.a.run(w.a.node, tool, "-P", "FORWARD", "DROP")
			ours(2)
			if items, err := a.Items(); err != nil || !strings.Contains(fmt.Sprint(items), "forward rule") {
				t.Errorf("items %v, %v", items, err)
			}
			w.a.run(w.a.node, tool, "-F", "FORWARD")
			ours(2)
			w.a.run(w.a.node, tool, "-P", "FORWARD", "ACCEPT")
			ours(0)
		})
	}
}
