package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Network is what messages go by.
type Network interface {
	// Ask opens the way from an address of this node to another node's answerer.
	// Each has a port of its own, since a connection keeps the NAT that its first
	// packet met.
	Ask(ctx context.Context, from, to netip.Addr) (Conn, error)
	// Listen opens what others ask at; ctx bounds only the opening.
	Listen(ctx context.Context, at netip.Addr) (net.PacketConn, error)
	// Mark sends one datagram from an address that need not be this process's.
	Mark(ctx context.Context, from, to netip.Addr, data []byte) error
	// Pod opens the way to the probe pod of this node.
	Pod(ctx context.Context, pod netip.Addr) (Conn, error)
	// MTU returns the MTU of the tunnel device in bytes.
	MTU() (int, error)
}

// Conn is one way to another node. Nothing that is written is fragmented.
type Conn interface {
	Write([]byte) (int, error)
	Read([]byte) (int, error)
	SetReadDeadline(time.Time) error
	Close() error
}

// Sockets is the Network of the machine.
type Sockets struct {
	// Device is the tunnel device.
	Device string
}

// MTU implements Network.
func (s Sockets) MTU() (int, error) {
	device, err := net.InterfaceByName(s.Device)
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", s.Device, err)
	}
	return device.MTU, nil
}

// Ask implements Network.
func (s Sockets) Ask(ctx context.Context, from, to netip.Addr) (Conn, error) {
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Control: control(whole)}
	return dialer.DialContext(ctx, "udp", netip.AddrPortFrom(to, Port).String())
}

// Listen implements Network. The device may come later, so the address need not
// be there yet.
func (s Sockets) Listen(ctx context.Context, at netip.Addr) (net.PacketConn, error) {
	config := net.ListenConfig{Control: control(freely)}
	return config.ListenPacket(ctx, "udp", net.JoinHostPort(at.String(), strconv.Itoa(Port)))
}

// Pod implements Network.
func (s Sockets) Pod(ctx context.Context, pod netip.Addr) (Conn, error) {
	dialer := net.Dialer{Control: control(whole)}
	return dialer.DialContext(ctx, "udp", netip.AddrPortFrom(pod, Port).String())
}

// Mark implements Network.
func (s Sockets) Mark(ctx context.Context, from, to netip.Addr, data []byte) error {
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Control: control(foreign)}
	conn, err := dialer.DialContext(ctx, "udp", netip.AddrPortFrom(to, Port).String())
	if err != nil {
		return err
	}
	_, err = conn.Write(data)
	return errors.Join(err, conn.Close())
}

// control calls set before a socket is bound.
func control(set func(fd int, v6 bool) error) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = set(int(fd), network == "udp6") })
		return errors.Join(err, failed)
	}
}

// whole says that packets are not to be fragmented, and that what the kernel has
// learnt of the path does not count.
func whole(fd int, v6 bool) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE)
}

func freely(fd int, v6 bool) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
}

// foreign lets a socket have an address of a pod's.
func foreign(fd int, v6 bool) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
}

// headers is what IP and UDP take of a packet, in bytes.
func headers(a netip.Addr) int {
	if a.Is6() {
		return 40 + 8
	}
	return 20 + 8
}
