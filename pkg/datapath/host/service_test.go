package host_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// proxy is what kube-proxy makes of a service on a node: a service address and a
// port of the node lead to one backend, and what enters by the port is
// masqueraded.
func (s *side) proxy(service, backend netip.Addr) {
	s.t.Helper()
	family := "ip"
	if service.Is6() {
		family = "ip6"
	}
	s.nft(fmt.Sprintf(`table %[1]s proxy {
		chain to { %[1]s daddr %[2]s tcp dport %[4]d dnat to %[3]s; fib daddr type local tcp dport %[5]d meta mark set 0x4000 dnat to %[6]s:%[4]d; }
		chain pre { type nat hook prerouting priority dstnat; jump to; }
		chain out { type nat hook output priority -100; jump to; }
		chain post { type nat hook postrouting priority srcnat; meta mark & 0x4000 == 0x4000 masquerade; }
	}`, family, service, backend, testPort, nodePort, bracketed(backend)))
}

const nodePort = 30777

func bracketed(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// seen listens where the backend is, has dial called, and returns the client's
// address.
func seen(backend *netspace.Space, at netip.Addr, dial func() error) (netip.Addr, error) {
	var listener net.Listener
	err := backend.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(at, testPort).String())
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if conn, err := listener.Accept(); err == nil {
			accepted <- conn
		}
	}()
	if err := dial(); err != nil {
		return netip.Addr{}, err
	}
	conn := <-accepted
	defer conn.Close()
	return conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(), nil
}

func dialFrom(space *netspace.Space, to netip.Addr, port uint16) func() error {
	return func() error {
		return space.Do(func() error {
			conn, err := net.Dial("tcp", netip.AddrPortFrom(to, port).String())
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
}

// TestService has kube-proxy choose a backend in another cluster, as mirrored
// endpoints make it do: a pod keeps its source, the node and those outside that
// ask a port of the node come from its mesh address.
func TestService(t *testing.T) {
	w := newWorld(t)
	masquerade(t, w, "nft")
	w.join(false)
	outside := newSpace(t, "outside")
	must(t, w.a.node.AddPair("out0", outside, "eth0"))
	for i, service := range []netip.Addr{netip.MustParseAddr("10.96.0.7"), netip.MustParseAddr("fd00:96::7")} {
		client := []netip.Addr{netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("2001:db8:9::9")}[i]
		near := client.Prev()
		must(t,
			outside.AddAddress("eth0", netip.PrefixFrom(client, client.BitLen())),
			outside.AddRoute(netspace.Route{To: everything(near.Is6()), Device: "eth0", From: client}),
			w.a.node.AddAddress("out0", netip.PrefixFrom(near, near.BitLen())),
			w.a.node.AddRoute(netspace.Route{To: netip.PrefixFrom(client, client.BitLen()), Device: "out0"}),
		)
		w.a.proxy(service, w.b.addr[i])
		for _, tc := range []struct {
			name string
			dial func() error
			want netip.Addr
		}{
			{"pod", dialFrom(w.a.pod, service, testPort), w.a.addr[i]},
			{"node", dialFrom(w.a.node, service, testPort), w.a.mesh[i]},
			{"outside", dialFrom(outside, near, nodePort), w.a.mesh[i]},
		} {
			got, err := seen(w.b.pod, w.b.addr[i], tc.dial)
			if err != nil || got != tc.want {
				t.Errorf("%s to %s: client %v, %v; want %v", tc.name, service, got, err, tc.want)
			}
		}
	}
}

// TestTables: tunnels take nothing of the tables that the node shares with others,
// of connections and of neighbours, however many addresses are behind them.
func TestTables(t *testing.T) {
	w := newWorld(t)
	w.join(false)
	for i := range 2 {
		for n := range 20 {
			a := w.b.addr[i].AsSlice()
			a[len(a)-1] += byte(n + 1)
			address, _ := netip.AddrFromSlice(a)
			host := netip.PrefixFrom(address, address.BitLen())
			must(t, w.b.pod.AddAddress("eth0", host), w.b.node.AddRoute(netspace.Route{To: host, Device: "pod0"}))
			if _, err := ask(w.a.node, w.b.pod, address, netip.Addr{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, family := range []string{"-4", "-6"} {
		if text := w.a.run(w.a.node, "ip", family, "neigh", "show", "dev", "mesh0", "nud", "all"); strings.Count(text, "\n") > 2 {
			t.Errorf("neighbours:\n%s", text)
		}
	}
	for _, s := range []*side{w.a, w.b} {
		text := s.run(s.node, "cat", "/proc/thread-self/net/nf_conntrack")
		if !strings.Contains(text, fmt.Sprintf("dport=%d", testPort)) || strings.Contains(text, "dport=8473") {
			t.Errorf("connections of %s:\n%s", s.name, text)
		}
	}
}

// TestOtherDevice: tunnel packets that come by another device than the one back
// are refused and told, as somebody forges them or routing is not symmetric.
func TestOtherDevice(t *testing.T) {
	w := newWorld(t)
	a, _ := w.join(false)
	must(t, w.a.node.AddPair("eth1", w.b.node, "eth1"))
	w.b.run(w.b.node, "ip", "route", "add", w.a.underlay[0].String()+"/32", "dev", "eth1", "src", w.b.underlay[0].String())
	w.a.run(w.a.node, "ip", "route", "add", w.b.underlay[0].String()+"/32", "dev", "eth0")
	must(t, w.b.pod.Do(func() error {
		conn, err := net.Dial("udp", netip.AddrPortFrom(w.a.addr[0], testPort).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		return err
	}))
	await(t, func() string {
		if w.a.metric("causeway_host_refused_packets_total", "device") == 0 {
			return "nothing is refused"
		}
		return ""
	})
	must(t, a.Apply(w.desired(w.a, false)))
	if problems := fmt.Sprint(a.Problems()); !strings.Contains(problems, "does not lead back to their sender") {
		t.Errorf("problems %s", problems)
	}
	// With the way back by that device, they arrive.
	for _, s := range []*side{w.a, w.b} {
		s.setMTU("eth1", rootMTU)
	}
	w.a.run(w.a.node, "ip", "route", "replace", w.b.underlay[0].String()+"/32", "dev", "eth1", "src", w.a.underlay[0].String())
	if _, err := ask(w.b.pod, w.a.pod, w.a.addr[0], netip.Addr{}); err != nil {
		t.Error(err)
	}
}
