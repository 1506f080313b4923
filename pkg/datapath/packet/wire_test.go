package packet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/frame"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

const (
	meshPort = 8473
	patience = time.Minute
)

// site is a node of the tests with real devices: a wire to the other one, a
// tunnel device, and the addresses of itself and of its pod.
type site struct {
	space *netspace.Space
	plane *Plane
}

func (s *site) do(t testing.TB, what string, fn func() error) {
	t.Helper()
	if err := s.space.Do(fn); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// wired returns two nodes on one wire, n1 of east and n1 of west. Planes are
// attached to their tunnel devices by that method and know nothing yet.
func wired(t testing.TB, m Method) (near, far *site) {
	t.Helper()
	sandbox.Require(t)
	if m == TCX && !sandbox.Since(t, 6, 6) {
		t.Skip("needs Linux 6.6, which has tcx")
	}
	dir := t.TempDir()
	sites := make([]*site, 2)
	for i := range sites {
		path := filepath.Join(dir, fmt.Sprint(i))
		space, err := netspace.New(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(space.Close(), netspace.Remove(path)); err != nil {
				t.Error(err)
			}
		})
		sites[i] = &site{space: space}
	}
	near, far = sites[0], sites[1]
	if err := near.space.AddPair("wire", far.space, "wire"); err != nil {
		t.Fatal(err)
	}
	near.address(t, "wire", "192.0.2.1/24", "2001:db8::1/64")
	far.address(t, "wire", "192.0.2.2/24", "2001:db8::2/64")
	for i, s := range sites {
		c := config(t)
		c.Method = m
		s.open(t, c)
		s.addDevice(t, byte(10+i))
		s.do(t, "attach", s.plane.Attach)
		s.setUp(t)
	}
	near.address(t, "mesh0", "10.200.0.1/32", "fd00:200::1/128")
	near.address(t, "lo", "10.1.0.5/32", "fd00:1::5/128")
	far.address(t, "mesh0", "10.201.0.1/32", "fd00:201::1/128")
	far.address(t, "lo", "10.2.0.7/32", "fd00:2::7/128")
	for _, to := range prefixes("10.2.0.0/16", "10.201.0.0/16", "fd00:2::/64", "fd00:201::/64") {
		near.route(t, to)
	}
	for _, to := range prefixes("10.1.0.0/16", "10.200.0.0/16", "fd00:1::/64", "fd00:200::/64") {
		far.route(t, to)
	}
	return near, far
}

// open opens the site's plane.
func (s *site) open(t testing.TB, c Config) {
	t.Helper()
	s.do(t, "open", func() (err error) {
		s.plane, err = Open(c)
		return err
	})
	p := s.plane
	t.Cleanup(func() { must(t, p.Close()) })
}

func (s *site) address(t testing.TB, device string, all ...string) {
	t.Helper()
	for _, p := range prefixes(all...) {
		if err := s.space.AddAddress(device, p); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) route(t testing.TB, to netip.Prefix) {
	t.Helper()
	if err := s.space.AddRoute(netspace.Route{To: to, Device: "mesh0"}); err != nil {
		t.Fatal(err)
	}
}

// addDevice makes the tunnel device. A device takes nothing from one of the same
// hardware address.
func (s *site) addDevice(t testing.TB, number byte) {
	t.Helper()
	s.do(t, "add device", func() error {
		a := netlink.NewLinkAttrs()
		a.Name, a.MTU = "mesh0", 1430
		a.HardwareAddr = net.HardwareAddr{2, 0, 0, 0, 0, number}
		if err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: a, FlowBased: true, Port: meshPort}); err != nil {
			return err
		}
		made, err := netlink.LinkByName("mesh0")
		if err != nil {
			return err
		}
		return netlink.LinkSetARPOff(made)
	})
}

func (s *site) setUp(t testing.TB) {
	t.Helper()
	if err := s.space.SetUp("mesh0"); err != nil {
		t.Fatal(err)
	}
}

// joined tells both nodes the world, with underlays of the families asked for.
func joined(t testing.TB, near, far *site, underlay func(netip.Addr) bool) {
	t.Helper()
	tell := func(s *site, self route.Self) {
		c := world()
		self.Underlay = only(self.Underlay, underlay)
		c.Self = &self
		for i := range c.Nodes {
			c.Nodes[i].Underlay = only(c.Nodes[i].Underlay, underlay)
		}
		// All pods are said to be where the node can be reached.
		for i, a := range c.Addresses {
			if a.Host.IsValid() && !underlay(a.Host) {
				c.Addresses[i].Host = map[netip.Addr]netip.Addr{
					addr("192.0.2.1"): addr("2001:db8::1"), addr("2001:db8::1"): addr("192.0.2.1"),
					addr("192.0.2.2"): addr("2001:db8::2"), addr("2001:db8::2"): addr("192.0.2.2"),
				}[a.Host]
			}
		}
		apply(t, s.plane, c)
	}
	tell(near, *self())
	tell(far, route.Self{
		Cluster: "west", ID: 2, Node: "n1", Mesh: addrs("10.201.0.1", "fd00:201::1"),
		Pods: prefixes("10.2.0.0/16", "fd00:2::/64"), Underlay: addrs("192.0.2.2", "2001:db8::2"),
	})
}

func only(all []netip.Addr, want func(netip.Addr) bool) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !want(a) })
}

func either(netip.Addr) bool { return true }

// listen opens a UDP socket in the site.
func (s *site) listen(t testing.TB, at netip.AddrPort) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	s.do(t, "listen", func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		return err
	})
	t.Cleanup(func() { _ = conn.Close() }) // the test may have closed it
	// There is room for a reader that gets no time.
	if err := conn.SetReadBuffer(4 << 20); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// stream sends a MiB by TCP and compares what arrives.
func stream(t *testing.T, from, to *site, source, destination netip.Addr) {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var listener net.Listener
	to.do(t, "listen", func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(destination, 7000).String())
		return err
	})
	defer listener.Close() // it has served
	got := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			got <- err
			return
		}
		defer conn.Close() // read to its end
		if peer := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr(); peer != source {
			got <- fmt.Errorf("the server sees %v, want %v", peer, source)
			return
		}
		all, err := io.ReadAll(conn)
		if err == nil && !bytes.Equal(all, data) {
			err = fmt.Errorf("%d bytes arrived, not as they were sent", len(all))
		}
		got <- err
	}()
	from.do(t, "dial", func() error {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: source.AsSlice()}, Timeout: patience}
		conn, err := dialer.DialContext(t.Context(), "tcp", netip.AddrPortFrom(destination, 7000).String())
		if err != nil {
			return err
		}
		_, err = conn.Write(data)
		return errors.Join(err, conn.Close())
	})
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// TestWire sends TCP, and datagrams whole and in fragments, from pods and hosts,
// in both directions, over both families of underlay.
func TestWire(t *testing.T) { each(t, testWire) }

func testWire(t *testing.T, m Method) {
	for name, underlay := range map[string]func(netip.Addr) bool{"dual": either, "IPv4": netip.Addr.Is4, "IPv6": netip.Addr.Is6} {
		t.Run(name, func(t *testing.T) {
			near, far := wired(t, m)
			joined(t, near, far, underlay)
			for i, ends := range [][2]string{
				{"10.1.0.5", "10.2.0.7"},
				{"fd00:1::5", "fd00:2::7"},
				{"10.200.0.1", "10.2.0.7"},
				{"10.1.0.5", "10.201.0.1"},
				{"fd00:200::1", "fd00:201::1"},
			} {
				port := uint16(7001 + i)
				a, b := netip.AddrPortFrom(addr(ends[0]), port), netip.AddrPortFrom(addr(ends[1]), port)
				here, there := near.listen(t, a), far.listen(t, b)
				for _, size := range []int{1, 8192} {
					sent := bytes.Repeat([]byte{7}, size)
					buffer := make([]byte, 1<<16)
					if _, err := here.WriteToUDPAddrPort(sent, b); err != nil {
						t.Fatal(err)
					}
					n, from, err := there.ReadFromUDPAddrPort(buffer)
					if err != nil || n != size || netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != a {
						t.Fatalf("%v to %v: %d bytes from %v: %v", a, b, n, from, err)
					}
					if _, err := there.WriteToUDPAddrPort(sent, a); err != nil {
						t.Fatal(err)
					}
					if n, _, err := here.ReadFromUDPAddrPort(buffer); err != nil || n != size {
						t.Fatalf("%v back to %v: %d bytes: %v", b, a, n, err)
					}
				}
				stream(t, near, far, a.Addr(), b.Addr())
				stream(t, far, near, b.Addr(), a.Addr())
			}
			for _, s := range []*site{near, far} {
				for d, by := range counts(t, s.plane) {
					for r, n := range by {
						if r != Passed && r != LinkScope {
							t.Errorf("%v: %d packets %v", d, n, r)
						}
					}
					if by[Passed] < 100 {
						t.Errorf("%v: %d packets passed", d, by[Passed])
					}
				}
			}
		})
	}
}

// capture returns what the site's wire receives, whole frames.
func (s *site) capture(t testing.TB) func() []byte {
	t.Helper()
	var fd int
	s.do(t, "capture", func() error {
		wire, err := net.InterfaceByName("wire")
		if err != nil {
			return err
		}
		all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return errors.Join(
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: wire.Index}),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)}))
	})
	t.Cleanup(func() { _ = unix.Close(fd) }) // read only
	return func() []byte {
		t.Helper()
		buffer := make([]byte, 1<<16)
		n, _, err := unix.Recvfrom(fd, buffer, 0)
		if err != nil {
			t.Fatalf("nothing on the wire: %v", err)
		}
		return buffer[:n]
	}
}

// TestOuter looks at the packets around the packets.
func TestOuter(t *testing.T) {
	near, far := wired(t, TCX)
	for _, test := range []struct {
		name     string
		underlay func(netip.Addr) bool
		from, to string
		whole    bool // the inner packet may not be cut
		identity identity.Number
	}{
		{"IPv4 over IPv4", netip.Addr.Is4, "10.1.0.5", "10.2.0.7", true, eastPod},
		{"IPv4 that may be cut", netip.Addr.Is4, "10.1.0.5", "10.2.0.7", false, eastPod},
		{"IPv6 over IPv4", netip.Addr.Is4, "fd00:1::5", "fd00:2::7", true, eastPod},
		{"a host", either, "10.200.0.1", "10.2.0.7", true, identity.RemoteNode},
		{"IPv4 over IPv6", netip.Addr.Is6, "10.1.0.5", "10.2.0.7", true, eastPod},
		{"IPv6 over IPv6", netip.Addr.Is6, "fd00:1::5", "fd00:2::7", true, eastPod},
	} {
		t.Run(test.name, func(t *testing.T) {
			joined(t, near, far, test.underlay)
			next := far.capture(t)
			conn := near.listen(t, netip.AddrPortFrom(addr(test.from), 7003))
			if addr(test.from).Is4() {
				discover := unix.IP_PMTUDISC_DONT
				if test.whole {
					discover = unix.IP_PMTUDISC_DO
				}
				raw, err := conn.SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				if err := raw.Control(func(fd uintptr) {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discover)
				}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := conn.WriteToUDPAddrPort([]byte("find me"), netip.AddrPortFrom(addr(test.to), 9)); err != nil {
				t.Fatal(err)
			}
			data := next()
			for !bytes.Contains(data, []byte("find me")) {
				data = next()
			}
			checkOuter(t, data, test.underlay(addr("192.0.2.1")), test.whole, test.identity)
			if inner := data[len(data)-7:]; string(inner) != "find me" {
				t.Errorf("the packet ends with %q", inner)
			}
		})
	}
}

func checkOuter(t *testing.T, data []byte, v4, whole bool, number identity.Number) {
	t.Helper()
	ip := data[frame.EthernetLength:]
	udp := ip[frame.IPv6Length:]
	if v4 {
		udp = ip[frame.IPv4Length:]
		if from, to := netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20])); from != addr("192.0.2.1") || to != addr("192.0.2.2") {
			t.Errorf("from %v to %v", from, to)
		}
		if ip[8] != 64 {
			t.Errorf("time to live %d", ip[8])
		}
		if got := ip[6]&0x40 != 0; got != whole {
			t.Errorf("may not be cut: %v, want %v", got, whole)
		}
		if sum := binary.BigEndian.Uint16(udp[6:]); sum != 0 {
			t.Errorf("checksum %#x", sum)
		}
	} else {
		if from, to := netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40])); from != addr("2001:db8::1") || to != addr("2001:db8::2") {
			t.Errorf("from %v to %v", from, to)
		}
		if ip[7] != 64 {
			t.Errorf("hop limit %d", ip[7])
		}
		if binary.BigEndian.Uint16(udp[6:]) == 0 {
			t.Error("no checksum")
		}
	}
	if port := binary.BigEndian.Uint16(udp[2:]); port != meshPort {
		t.Errorf("port %d", port)
	}
	if got := binary.BigEndian.Uint32(udp[12:]) >> 8; got != uint32(number) {
		t.Errorf("number %d, want %d", got, number)
	}
}

// TestHandMade has somebody on the wire make packets by hand. One good packet at
// the end shows that everything before it has been judged.
func TestHandMade(t *testing.T) {
	near, far := wired(t, TCX)
	joined(t, near, far, either)
	if err := far.space.SetDown("mesh0"); err != nil { // its port is ours now
		t.Fatal(err)
	}
	far.address(t, "wire", "192.0.2.77/24", "2001:db8::77/64")
	server := near.listen(t, netip.MustParseAddrPort("10.1.0.5:53"))
	good := packetOf("10.2.0.7", "10.1.0.5")
	buffer := make([]byte, 1500)
	for _, test := range []struct {
		name  string
		node  string
		vni   identity.Number
		inner []byte
		want  Reason
	}{
		{"good", "192.0.2.2", westPod, good, Passed},
		{"good, over IPv6", "2001:db8::2", westPod, good, Passed},
		{"late", "192.0.2.2", westPod, packetOf("10.2.0.66", "10.1.0.5"), Late},
		{"no node", "192.0.2.77", westPod, good, NoNode},
		{"no node, IPv6", "2001:db8::77", westPod, good, NoNode},
		{"wrong number", "192.0.2.2", westPod + 1, good, Identity},
		{"foreign number", "192.0.2.2", southPod, packetOf("10.2.0.66", "10.1.0.5"), Number},
		{"foreign source", "192.0.2.2", southPod, packetOf("10.3.0.8", "10.1.0.5"), Cluster},
		{"to the host", "192.0.2.2", westPod, packetOf("10.2.0.7", "192.0.2.1"), Destination},
		{"transit", "192.0.2.2", westPod, packetOf("10.2.0.7", "198.51.100.1"), Destination},
		{"ARP", "192.0.2.2", westPod, frame.Ethernet(frame.TypeARP, make([]byte, 28)), Protocol},
		{"payload cut", "192.0.2.2", westPod, good[:len(good)-1], Malformed},
		{"tagged", "192.0.2.2", westPod, frame.Ethernet(0x8100, append([]byte{0, 5, 8, 0}, good[frame.EthernetLength:]...)), Protocol},
		{"source route", "192.0.2.2", westPod, sourceRouted(addr("10.2.0.7"), addr("10.1.0.5"), addr("fd00:2::7"), addr("fd00:1::5"))["IPv4, loose source route"], Routed},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := far.listen(t, netip.AddrPortFrom(addr(test.node), 0))
			to := netip.AddrPortFrom(addr("192.0.2.1"), meshPort)
			if addr(test.node).Is6() {
				to = netip.AddrPortFrom(addr("2001:db8::1"), meshPort)
			}
			before := counts(t, near.plane)
			if _, err := conn.WriteToUDPAddrPort(frame.VXLAN(uint32(test.vni), test.inner), to); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() error {
				got, err := moved(t, near.plane, FromMesh, withoutLinkScope(before, counts(t, near.plane)))
				if err == nil && got != test.want {
					t.Fatalf("%v, want %v", got, test.want)
				}
				return err
			})
			if test.want == Passed || test.want == Late {
				if n, _, err := server.ReadFromUDPAddrPort(buffer); err != nil || string(buffer[:n]) != "what is carried" {
					t.Fatalf("%q arrived: %v", buffer[:n], err)
				}
			}
		})
	}
	// What passed has been read; nothing of the rest may be there.
	if err := server.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if n, from, err := server.ReadFromUDPAddrPort(buffer); err == nil {
		t.Errorf("%q from %v arrived", buffer[:n], from)
	}
}

// TestCutHeaders sends frames that end before the header of IP does. Out of a
// tunnel they never come: the device itself drops them.
func TestCutHeaders(t *testing.T) {
	near, far := wired(t, TCX)
	joined(t, near, far, either)
	var fd int
	var device *net.Interface
	near.do(t, "open socket", func() (err error) {
		if device, err = net.InterfaceByName("mesh0"); err != nil {
			return err
		}
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	defer unix.Close(fd) // written only
	v4, v6 := packetOf("10.1.0.5", "10.2.0.7"), packetOf("fd00:1::5", "fd00:2::7")
	for name, data := range map[string][]byte{
		"nothing":     frame.Ethernet(frame.TypeIPv4, nil),
		"IPv4, cut":   v4[:frame.EthernetLength+19],
		"IPv6, cut":   v6[:frame.EthernetLength+39],
		"IPv6, short": v6[:frame.EthernetLength+1],
	} {
		t.Run(name, func(t *testing.T) {
			before := counts(t, near.plane)
			if err := unix.Sendto(fd, data, 0, &unix.SockaddrLinklayer{Ifindex: device.Index}); err != nil && !errors.Is(err, unix.ENOBUFS) {
				t.Fatal(err)
			}
			waitFor(t, func() error {
				got, err := moved(t, near.plane, ToMesh, withoutLinkScope(before, counts(t, near.plane)))
				if err == nil && got != Malformed {
					t.Fatalf("%v, want %v", got, Malformed)
				}
				return err
			})
		})
	}
}

// withoutLinkScope has before look as if what the device sends of itself had
// not been since.
func withoutLinkScope(before, now map[Direction]map[Reason]uint64) map[Direction]map[Reason]uint64 {
	before[ToMesh][LinkScope] = now[ToMesh][LinkScope]
	return before
}

// waitFor waits until fn returns nil.
func waitFor(t testing.TB, fn func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}
