package datapath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// udpEcho listens on addr and answers each datagram with its own address.
func udpEcho(t *testing.T, addr string) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		var buffer [64]byte
		for {
			_, from, err := conn.ReadFrom(buffer[:])
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteTo([]byte(conn.LocalAddr().String()), from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return netip.MustParseAddrPort(conn.LocalAddr().String())
}

func udpEchoes(t *testing.T, n int) []netip.AddrPort {
	t.Helper()
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = udpEcho(t, fmt.Sprintf("10.1.2.%d:5353", i+1))
	}
	return all
}

func udp(addr string, backends ...netip.AddrPort) Service {
	s := one(addr, backends...)
	s.Protocol = UDP
	return s
}

// client is a raw UDP socket: it shows what the kernel says of addresses.
type client struct {
	t  *testing.T
	fd int
	v6 bool
}

func newClient(t *testing.T, v6 bool) *client {
	t.Helper()
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	c := &client{t, fd, v6}
	t.Cleanup(c.close)
	return c
}

func (c *client) close() {
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
		c.fd = -1
	}
}

// sockaddr is of the socket's family: IPv4 is mapped on an IPv6 one.
func (c *client) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if c.v6 {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

func fromSockaddr(s unix.Sockaddr) netip.AddrPort {
	switch a := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func (c *client) connect(a netip.AddrPort) error { return unix.Connect(c.fd, c.sockaddr(a)) }

// ask sends a datagram, to the connected peer when to is not valid, and returns
// who answered, by what it says and by what the kernel says.
func (c *client) ask(to netip.AddrPort) (who, from netip.AddrPort, err error) {
	if to.IsValid() {
		err = unix.Sendto(c.fd, []byte("?"), 0, c.sockaddr(to))
	} else {
		_, err = unix.Write(c.fd, []byte("?"))
	}
	if err != nil {
		return who, from, fmt.Errorf("send: %w", err)
	}
	var buffer [64]byte
	n, sender, err := unix.Recvfrom(c.fd, buffer[:], 0)
	for errors.Is(err, unix.EINTR) { // by the Go runtime's own signals
		n, sender, err = unix.Recvfrom(c.fd, buffer[:], 0)
	}
	if err != nil {
		return who, from, fmt.Errorf("receive: %w", err)
	}
	who, err = netip.ParseAddrPort(string(buffer[:n]))
	return who, fromSockaddr(sender), err
}

func (c *client) want(to, backend, service netip.AddrPort) {
	c.t.Helper()
	who, from, err := c.ask(to)
	if err != nil || who != backend || from != service {
		c.t.Errorf("answered by %v, which calls itself %v, %v; want %v called %v", who, from, err, backend, service)
	}
}

func (c *client) peer() netip.AddrPort {
	c.t.Helper()
	name, err := unix.Getpeername(c.fd)
	if err != nil {
		c.t.Fatal(err)
	}
	return fromSockaddr(name)
}

func reverseEntries(t *testing.T, d *Datapath) map[bpf.SocketReverseKey]bpf.SocketReverse {
	t.Helper()
	all := map[bpf.SocketReverseKey]bpf.SocketReverse{}
	if err := pin.Read(d.maps.reverse, func(k bpf.SocketReverseKey, v bpf.SocketReverse) {
		if v.Seal != sealOf(&v, sealReverseKey(&k)) {
			t.Errorf("%+v has a wrong seal", k)
		}
		all[k] = v
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestUDP(t *testing.T) {
	d := open(t)
	v4, v6 := udpEcho(t, "10.1.0.1:5353"), udpEcho(t, "[fd00:1::1]:5353")
	s4, s6 := netip.MustParseAddrPort("10.96.0.1:53"), netip.MustParseAddrPort("[fd00:96::1]:53")
	update(t, d, udp(s4.String(), v4), udp(s6.String(), v6))
	var none netip.AddrPort
	for _, test := range []struct {
		name             string
		v6               bool
		service, backend netip.AddrPort
	}{
		{"v4", false, s4, v4},
		{"v6", true, s6, v6},
		{"mapped", true, s4, v4},
	} {
		t.Run(test.name+" connected", func(t *testing.T) {
			c := newClient(t, test.v6)
			if err := c.connect(test.service); err != nil {
				t.Fatal(err)
			}
			c.want(none, test.backend, test.service)
			if got := c.peer(); got != test.backend {
				t.Errorf("the peer is called %v", got)
			}
			c.want(test.service, test.backend, test.service) // with the address as well
		})
		t.Run(test.name+" unconnected", func(t *testing.T) {
			c := newClient(t, test.v6)
			for range 3 {
				c.want(test.service, test.backend, test.service)
			}
			c.want(test.backend, test.backend, test.service) // one socket has one name for it
			newClient(t, test.v6).want(test.backend, test.backend, test.backend)
		})
	}
	t.Run("tcp is another service", func(t *testing.T) { wantNone(t, "tcp4", s4.String()) })
	t.Run("no backend", func(t *testing.T) {
		before := udpEcho(t, "10.1.0.9:53")
		update(t, d, udp(before.String()))
		newClient(t, false).want(before, before, before)
	})
}

// The entries of connected sockets go with them, those of the others stay until
// their room is needed.
func TestReverseEntries(t *testing.T) {
	d := open(t)
	a := netip.MustParseAddrPort("10.96.0.1:53")
	update(t, d, udp(a.String(), udpEcho(t, "10.1.0.1:5353")))
	update(t, d, one("10.96.0.1:80", echo(t, "10.1.0.1:8080")))
	for _, v6 := range []bool{false, true} {
		c := newClient(t, v6)
		if err := c.connect(a); err != nil {
			t.Fatal(err)
		}
		if n := len(reverseEntries(t, d)); n != 1 {
			t.Errorf("%d entries of one socket", n)
		}
		c.close()
		if n := len(reverseEntries(t, d)); n != 0 {
			t.Errorf("%d entries of a closed socket", n)
		}
	}
	if _, err := dial("tcp4", "10.96.0.1:80"); err != nil {
		t.Error(err)
	}
	c := newClient(t, false)
	c.want(a, netip.MustParseAddrPort("10.1.0.1:5353"), a)
	c.close()
	if n := len(reverseEntries(t, d)); n != 1 {
		t.Errorf("%d entries, want the one of the socket that never connected", n)
	}
	use := d.Use()
	if last := use[len(use)-1]; last.Name != bpf.SocketMapReverse || last.Entries != 1 || last.Capacity != smallestLRU {
		t.Errorf("use: %+v", last)
	}
}

// A socket that is not connected keeps its backend while that is one, and finds
// another once it has left.
func TestUnconnectedKeepsBackend(t *testing.T) {
	d := open(t)
	all := udpEchoes(t, 8)
	a := netip.MustParseAddrPort("10.96.0.1:53")
	s := udp(a.String(), all[:7]...)
	update(t, d, s)
	first := map[netip.AddrPort]bool{}
	for range 20 {
		c := newClient(t, false)
		who, _, err := c.ask(a)
		if err != nil {
			t.Fatal(err)
		}
		first[who] = true
		for range 5 {
			c.want(a, who, a)
		}
		c.close()
	}
	if len(first) < 3 {
		t.Errorf("20 sockets use %d of 7 backends", len(first))
	}

	c := newClient(t, false)
	who, _, err := c.ask(a)
	if err != nil {
		t.Fatal(err)
	}
	s.Groups[0].Backends = append(all[7:8:8], who) // all others change
	update(t, d, s)
	c.want(a, who, a)
	s.Groups[0].Backends = all[7:8]
	update(t, d, s)
	c.want(a, all[7], a)
}

func TestGetpeername(t *testing.T) {
	d := open(t, func(c *Config) { c.Reverse = ReverseAll })
	v4, v6 := echo(t, "10.1.0.1:8080"), echo(t, "[fd00:1::1]:8080")
	u4 := udpEcho(t, "10.1.0.1:5353")
	update(t, d, one("10.96.0.1:80", v4), one("[fd00:96::1]:80", v6), udp("10.96.0.1:53", u4))
	for network, addr := range map[string]string{"tcp4": "10.96.0.1:80", "tcp6": "[fd00:96::1]:80", "udp4": "10.96.0.1:53"} {
		conn, err := net.Dial(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.RemoteAddr().String(); got != addr {
			t.Errorf("the peer of %s is called %s", addr, got)
		}
		conn.Close()
	}
	if got, err := dialMapped(netip.MustParseAddrPort("10.96.0.1:80")); err != nil || got.String() != "10.96.0.1:80" {
		t.Errorf("mapped: the peer is called %v, %v", got, err)
	}
	direct, err := net.Dial("tcp4", v4.String())
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close()
	if got := direct.RemoteAddr().String(); got != v4.String() {
		t.Errorf("dialled without a service: the peer is called %s", got)
	}
	if n := len(reverseEntries(t, d)); n != 0 {
		t.Errorf("%d entries of closed sockets", n)
	}

	// The next agent without it takes the hooks away.
	c := d.config
	c.Reverse = ReverseUDP
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tryOpen(t, c); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp4", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.RemoteAddr().String(); got != v4.String() {
		t.Errorf("after: the peer is called %s", got)
	}
}

// A socket in a namespace that no process shows, as all are to an agent that
// does not see the host's processes, is said to go on, and looked for again.
func TestEndSocketsOutOfSight(t *testing.T) {
	d := open(t)
	all := udpEchoes(t, 2)
	a := netip.MustParseAddrPort("10.96.0.1:53")
	update(t, d, udp(a.String(), all[0]))
	var hidden *client
	onOwnThread(func() { // ends here: the socket alone keeps the namespace
		if err := newNamespace(); err != nil {
			t.Error(err)
			return
		}
		hidden = newClient(t, false)
		if err := hidden.connect(a); err != nil {
			t.Error(err)
		}
	})
	if t.Failed() {
		return
	}
	update(t, d, udp(a.String(), all[1]))
	for range 2 {
		if n, err := d.endDead(); n != 0 || err == nil { // which of two depends on whose processes are here
			t.Errorf("%d ended, %v", n, err)
		}
	}
	connected, err := d.connectedSockets()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.outOfSight(d.dead(connected)); err == nil || !strings.Contains(err.Error(), "hostPID") {
		t.Errorf("one open socket that was not found: %v", err)
	}
	hidden.close()
	if n, err := d.endDead(); n != 0 || err != nil {
		t.Errorf("with the socket closed: %d ended, %v", n, err)
	}
}

// A connected socket whose backend leaves is ended, wherever it is; those of
// other backends, and those that never asked a service, are not.
func TestEndSockets(t *testing.T) {
	d := open(t)
	all := udpEchoes(t, 2)
	a, b := netip.MustParseAddrPort("10.96.0.1:53"), netip.MustParseAddrPort("10.96.0.2:53")
	update(t, d, udp(a.String(), all[0]), udp(b.String(), all[0], all[1]))
	connected := func(v6 bool, to netip.AddrPort) *client {
		c := newClient(t, v6)
		if err := c.connect(to); err != nil {
			t.Fatal(err)
		}
		return c
	}
	leaving := []*client{connected(false, a), connected(true, a)}
	inNamespace(t, func() { leaving = append(leaving, connected(false, a)) })
	staying := []*client{connected(false, b), connected(true, b), connected(false, all[0])}
	unconnected := newClient(t, false)
	unconnected.want(a, all[0], a)

	gone := udp(a.String(), all[1])
	gone.Terminating = all[:1]
	update(t, d, gone)
	if n, err := d.endDead(); n != 0 || err != nil {
		t.Fatalf("%d sockets of a terminating backend ended, %v", n, err)
	}
	gone.Terminating = nil
	update(t, d, gone)
	if wait, err := d.end(time.Now().Add(2 * grace)); wait != 0 || err != nil || len(reverseEntries(t, d)) == 3 {
		t.Errorf("sockets ended before everything was known: %v, %v", wait, err)
	}
	if err := d.Complete(); err != nil {
		t.Fatal(err)
	}
	if wait, err := d.end(time.Now()); wait <= 0 || err != nil {
		t.Errorf("not waited: %v, %v", wait, err)
	}
	if wait, err := d.end(time.Now().Add(2 * grace)); wait != 0 || err != nil {
		t.Fatal(wait, err)
	}
	for i, c := range leaving {
		var buffer [1]byte
		if _, err := unix.Read(c.fd, buffer[:]); !errors.Is(err, unix.ECONNABORTED) {
			t.Errorf("leaving %d: %v", i, err)
		}
	}
	for i, c := range staying {
		if _, err := unix.Write(c.fd, []byte("?")); err != nil {
			t.Errorf("staying %d: %v", i, err)
		}
	}
	unconnected.want(a, all[1], a)
	if n, err := d.endDead(); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
}

// Run does it by itself, and after a restart for what left meanwhile.
func TestEndSocketsAfterRestart(t *testing.T) {
	d := open(t)
	all := udpEchoes(t, 2)
	a := netip.MustParseAddrPort("10.96.0.1:53")
	update(t, d, udp(a.String(), all[0]))
	c := newClient(t, false)
	if err := c.connect(a); err != nil {
		t.Fatal(err)
	}
	config := d.config
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := tryOpen(t, config)
	if err != nil {
		t.Fatal(err)
	}
	c.want(netip.AddrPort{}, all[0], a)
	ctx, cancel := contextOf(t)
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	update(t, d, udp(a.String(), all[1]))
	if err := d.Complete(); err != nil {
		t.Fatal(err)
	}
	var buffer [1]byte
	if _, err := unix.Read(c.fd, buffer[:]); !errors.Is(err, unix.ECONNABORTED) {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// With maps of another capacity, sockets that were connected before are still
// answered by the service that they asked.
func TestReverseIsCarriedOver(t *testing.T) {
	d := open(t)
	a := netip.MustParseAddrPort("10.96.0.1:53")
	s := udp(a.String(), udpEcho(t, "10.1.0.1:5353"))
	update(t, d, s)
	c := newClient(t, false)
	if err := c.connect(a); err != nil {
		t.Fatal(err)
	}
	config := d.config
	config.MapCapacity *= 2
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := tryOpen(t, config)
	if err != nil {
		t.Fatal(err)
	}
	var none netip.AddrPort
	c.want(none, s.Groups[0].Backends[0], a) // the programs of before
	update(t, d, s)
	if err := d.Complete(); err != nil {
		t.Fatal(err)
	}
	if n := len(reverseEntries(t, d)); n != 1 {
		t.Errorf("%d entries", n)
	}
	c.want(none, s.Groups[0].Backends[0], a)
	if n, err := d.endDead(); n != 0 || err != nil {
		t.Errorf("%d sockets ended, %v", n, err)
	}
	newClient(t, false).want(a, s.Groups[0].Backends[0], a)
}
