package host_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// openHost opens a host with a configuration of the test's in a namespace.
func (s *side) openHost(c host.Config) *host.Host {
	s.t.Helper()
	var h *host.Host
	must(s.t, s.node.Do(func() (err error) { h, err = host.Open(c); return err }))
	s.t.Cleanup(func() { must(s.t, h.Close()) })
	return h
}

// TestInTheWay: what is not ours is not touched, and what is in the way is said.
func TestInTheWay(t *testing.T) {
	s := newSide(t, "a", 1)
	d := host.Desired{Mesh: s.mesh}
	h := s.openHost(host.Config{})
	s.run(s.node, "ip", "link", "add", "mesh0", "type", "bridge")
	if err := h.Apply(d); !errors.Is(err, host.ErrForeignDevice) {
		t.Errorf("a bridge of that name: %v", err)
	}
	if problems := fmt.Sprint(h.Problems()); !strings.Contains(problems, "--mesh-device") {
		t.Errorf("problems %s", problems)
	}
	s.run(s.node, "ip", "link", "del", "mesh0")
	s.run(s.node, "ip", "link", "add", "mesh0", "up", "type", "vxlan", "external", "dstport", "8473")
	if err := h.Apply(d); !errors.Is(err, host.ErrForeignDevice) {
		t.Errorf("a tunnel of that name: %v", err)
	}
	s.run(s.node, "ip", "link", "set", "mesh0", "down")
	s.run(s.node, "ip", "link", "set", "mesh0", "name", "cni0")
	s.run(s.node, "ip", "link", "set", "cni0", "up")
	if err := h.Apply(d); !errors.Is(err, host.ErrPort) {
		t.Errorf("a tunnel with that port: %v", err)
	}
	s.run(s.node, "ip", "link", "del", "cni0")
	var socket net.PacketConn
	must(t, s.node.Do(func() (err error) { socket, err = net.ListenPacket("udp4", ":8473"); return err }))
	if err := h.Apply(d); !errors.Is(err, host.ErrPort) {
		t.Errorf("a program with that port: %v", err)
	}
	must(t, socket.Close(), h.Apply(d))
	if problems := h.Problems(); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
}

// TestUnfinished adopts a device that a process made and died before it marked it.
func TestUnfinished(t *testing.T) {
	s := newSide(t, "a", 1)
	s.run(s.node, "ip", "link", "add", "mesh0", "type", "vxlan", "external", "dstport", "8473", "nolearning", "udp6zerocsumrx")
	h := s.openHost(host.Config{})
	must(t, h.Apply(host.Desired{Mesh: s.mesh}))
	if text := s.run(s.node, "ip", "link", "show", "mesh0"); !strings.Contains(text, "alias causeway") || !strings.Contains(text, "NOARP,UP") {
		t.Error(text)
	}
}

// TestNames: another port or name makes the device anew, and only one is left.
func TestNames(t *testing.T) {
	s := newSide(t, "a", 1)
	h := s.openHost(host.Config{})
	must(t, h.Apply(host.Desired{Mesh: s.mesh}), h.Apply(host.Desired{Mesh: s.mesh, Port: 8474}))
	other := s.openHost(host.Config{Device: "causeway1"})
	must(t, other.Apply(host.Desired{Mesh: s.mesh, Port: 8474}))
	text := s.run(s.node, "ip", "-d", "link", "show", "type", "vxlan")
	if strings.Count(text, "alias causeway") != 1 || !strings.Contains(text, "causeway1:") || !strings.Contains(text, "dstport 8474") {
		t.Error(text)
	}
}

// TestAttach calls for the programs when the device is new, before packets are
// led into it or come out of it, and again until they are there.
func TestAttach(t *testing.T) {
	s := newSide(t, "a", 1)
	var calls, loaded atomic.Int64
	fail := errors.New("no programs")
	h := s.openHost(host.Config{Attach: func(device string, index int) error {
		calls.Add(1)
		if text := s.run(s.node, "ip", "route", "show", "proto", "203"); text != "" {
			t.Errorf("routes before programs: %s", text)
		}
		if text := s.run(s.node, "ip", "link", "show", "mesh0", "up"); text != "" {
			t.Errorf("up before programs: %s", text)
		}
		if device != "mesh0" || index == 0 {
			t.Errorf("device %q, index %d", device, index)
		}
		if loaded.Load() == 0 {
			return fail
		}
		return nil
	}})
	d := host.Desired{Mesh: s.mesh, Routes: []host.Route{{Prefix: netip.MustParsePrefix("10.2.0.0/16"), Mode: route.VXLAN}}}
	if err := h.Apply(d); !errors.Is(err, fail) {
		t.Errorf("error %v", err)
	}
	if text := s.run(s.node, "ip", "link", "show", "mesh0", "up"); text != "" {
		t.Errorf("up without programs: %s", text)
	}
	watch(t, h) // tries again
	loaded.Store(1)
	must(t, h.Apply(d), h.Apply(d))
	if calls.Load() < 2 {
		t.Errorf("%d calls", calls.Load())
	}
	before := calls.Load()
	s.run(s.node, "ip", "link", "del", "mesh0")
	await(t, func() string {
		if text := s.run(s.node, "ip", "route", "show", "proto", "203"); !strings.Contains(text, "mesh0") {
			return "no route: " + text
		}
		return ""
	})
	must(t, h.Apply(d))
	if calls.Load() != before+1 {
		t.Errorf("%d calls after %d, want one more", calls.Load(), before)
	}
}

// TestMany applies as many ranges as a large mesh has, changes one, and compares
// what is there.
func TestMany(t *testing.T) {
	t.Parallel()
	s := newSide(t, "a", 1)
	h := s.openHost(host.Config{})
	d := host.Desired{Mesh: s.mesh}
	for i := range 4096 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(64 + i>>12), byte(i >> 4), byte(i << 4)}), 29)
		d.LocalPods = append(d.LocalPods, p)
		q := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 25)
		d.Routes = append(d.Routes, host.Route{Prefix: q, Mode: route.VXLAN})
		n := netip.PrefixFrom(netip.AddrFrom4([4]byte{21, byte(i >> 8), byte(i), 0}), 25)
		d.Routes = append(d.Routes, host.Route{Prefix: n, Mode: route.Native})
	}
	step := func(name string) {
		t.Helper()
		begin := time.Now()
		must(t, h.Apply(d))
		t.Logf("%s: %s", name, time.Since(begin).Round(time.Millisecond))
	}
	step("4,096 pod ranges, as many routes, as many native peers")
	step("again")
	step("once more")
	d.Routes = append([]host.Route(nil), d.Routes[:len(d.Routes)-2]...)
	step("without one of each")
	routes := s.run(s.node, "ip", "route", "show", "proto", "203")
	if n := strings.Count(routes, "\n"); n != 4095 {
		t.Errorf("%d routes", n)
	}
	items, err := h.Items()
	must(t, err)
	if len(items) != 4095+4 { // the device, its addresses and the nftables table
		t.Errorf("%d items", len(items))
	}
	if problems := h.Problems(); len(problems) != 0 {
		t.Errorf("problems %v", problems)
	}
}

// TestTogether uses all methods at once while somebody changes things.
func TestTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, _ := w.join(false)
	watch(t, a)
	var g errgroup.Group
	for i := range 3 {
		g.Go(func() error {
			for j := range 20 {
				d := w.desired(w.a, false)
				d.MTU = 1400 + 10*i + j
				if err := a.Apply(d); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for range 20 {
			if _, err := w.a.registry.Gather(); err != nil {
				return err
			}
			if _, err := a.Items(); err != nil {
				return err
			}
		}
		return nil
	})
	g.Go(func() error {
		for range 10 {
			if _, err := w.a.try(w.a.node, "ip", "route", "flush", "proto", "203"); err != nil {
				return err
			}
		}
		return nil
	})
	must(t, g.Wait(), a.Apply(w.desired(w.a, false)))
	if _, err := ask(w.a.pod, w.b.pod, w.b.addr[0], netip.Addr{}); err != nil {
		t.Error(err)
	}
}

// TestLarge sends what does not fit into one packet: fragments arrive, and a
// sender that wants none is told what fits.
func TestLarge(t *testing.T) {
	w := newWorld(t)
	masquerade(t, w, "nft")
	a, _ := w.join(false)
	for i := range 2 {
		var server net.PacketConn
		var client *net.UDPConn
		at := net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.b.addr[i], testPort))
		must(t, w.b.pod.Do(func() (err error) { server, err = net.ListenPacket("udp", at.String()); return err }))
		must(t, w.a.pod.Do(func() (err error) { client, err = net.DialUDP("udp", nil, at); return err }))
		raw, err := client.SyscallConn()
		must(t, err)
		set := func(want, want6 int) {
			must(t, raw.Control(func(fd uintptr) {
				if at.IP.To4() != nil {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, want)
				} else {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, want6)
				}
			}), err)
		}
		set(unix.IP_PMTUDISC_DO, unix.IPV6_PMTUDISC_DO)
		await(t, func() string {
			_, err := client.Write(make([]byte, 8192))
			if !errors.Is(err, unix.EMSGSIZE) { // told by ICMP after the first
				return fmt.Sprintf("%s: 8 KiB without fragments: %v", at, err)
			}
			return ""
		})
		mtu := 0
		must(t, raw.Control(func(fd uintptr) {
			if at.IP.To4() != nil {
				mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
			} else {
				mtu, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
			}
		}), err)
		if mtu != a.MTU() {
			t.Errorf("%s: path MTU %d, want %d", at, mtu, a.MTU())
		}
		set(unix.IP_PMTUDISC_DONT, unix.IPV6_PMTUDISC_DONT)
		await(t, func() string {
			if _, err := client.Write(make([]byte, 8192)); err != nil { // what the ICMP left
				return err.Error()
			}
			return ""
		})
		must(t, server.SetReadDeadline(time.Now().Add(patience)))
		n, from, err := server.ReadFrom(make([]byte, 9000))
		if err != nil || n != 8192 || from.(*net.UDPAddr).AddrPort().Addr().Unmap() != w.a.addr[i] {
			t.Errorf("%d bytes from %v: %v", n, from, err)
		}
		_, _ = client.Close(), server.Close()
	}
}

// TestWithoutIPv6: a node that has no IPv6, or whose network carries none, goes on
// with IPv4, says so, and has both when that is over.
func TestWithoutIPv6(t *testing.T) {
	for name, turn := range map[string]func(w *world, on bool){
		"turned off": func(w *world, on bool) {
			value := "1"
			if on {
				value = "0"
				must(t, w.a.node.Set("ipv6/conf/mesh0/disable_ipv6", value))
			}
			must(t, w.a.node.Set("ipv6/conf/default/disable_ipv6", value))
		},
		"small MTU": func(w *world, on bool) {
			if w.a.setMTU("eth0", 1300); on {
				w.a.setMTU("eth0", 1400)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			turn(w, false)
			a, b := w.a.open(w.b.underlay[0]), w.b.open(w.a.underlay[0])
			must(t, a.Apply(w.desired(w.a, false)), b.Apply(w.desired(w.b, false)))
			if _, err := ask(w.a.pod, w.b.pod, w.b.addr[0], netip.Addr{}); err != nil {
				t.Error(err)
			}
			if problems := a.Problems(); len(problems) != 1 || !strings.Contains(problems[0].What, "IPv6") {
				t.Errorf("problems %v", problems)
			}
			if rules := w.a.run(w.a.node, "ip", "-6", "rule"); strings.Contains(rules, "8473") {
				t.Errorf("rules %s", rules)
			}
			turn(w, true)
			must(t, a.Apply(w.desired(w.a, false)))
			if problems := a.Problems(); len(problems) != 0 {
				t.Errorf("problems %v", problems)
			}
			if _, err := ask(w.a.pod, w.b.pod, w.b.addr[1], netip.Addr{}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestForwarding: that a node forwards nothing is told, and not changed.
func TestForwarding(t *testing.T) {
	s := newSide(t, "a", 1)
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		must(t, s.node.Set(name, "0"))
	}
	h := s.openHost(host.Config{})
	must(t, h.Apply(host.Desired{Mesh: s.mesh}))
	if problems := fmt.Sprint(h.Problems()); !strings.Contains(problems, "net.ipv4.ip_forward is 0") || !strings.Contains(problems, "net.ipv6.conf.all.forwarding is 0") {
		t.Errorf("problems %s", problems)
	}
	// Of all devices, none but ours changed.
	if text := s.run(s.node, "ip", "netconf", "show", "dev", "pod0"); strings.Contains(text, "forwarding on") {
		t.Error(text)
	}
}

// TestMode changes between tunnels and the network's own routes while connections
// go on, beside a CNI's masquerade on both nodes.
func TestMode(t *testing.T) {
	w := newWorld(t)
	masquerade(t, w, "nft")
	w.a, w.b = w.b, w.a
	masquerade(t, w, "iptables-nft")
	w.a, w.b = w.b, w.a
	a, b := w.join(false)
	stops := []func() int{stream(t, w.a.pod, w.b.pod, w.b.addr[0]), stream(t, w.b.pod, w.a.pod, w.a.addr[1])}
	for i := range 6 {
		for s, h := range map[*side]*host.Host{w.a: a, w.b: b} {
			d := w.desired(s, false)
			for j := range d.Routes {
				if i%2 == 0 {
					d.Routes[j].Mode = route.Native
				}
			}
			must(t, h.Apply(d))
		}
		for j := range 2 {
			if got, err := ask(w.a.pod, w.b.pod, w.b.addr[j], netip.Addr{}); err != nil || got != w.a.addr[j] {
				t.Errorf("change %d: client %v, %v", i, got, err)
			}
		}
	}
	for _, stop := range stops {
		if stop() == 0 {
			t.Error("nothing was asked")
		}
	}
}
