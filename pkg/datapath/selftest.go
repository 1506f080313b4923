package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// selfTestTimeout bounds one connect over the loopback device.
const selfTestTimeout = 2 * time.Second

// SelfTest proves that the hooks see this process: it makes a service of a
// loopback port on which nobody listens, and connects to it. Nothing leaves the
// machine, whatever comes of it. A family that this process' network namespace
// lacks is left out. While programs of another version still serve, there is
// nothing of ours to test. The error wraps ErrSelfTest, ErrFull where the test
// needs room that the maps do not have, or is ctx's.
func (d *Datapath) SelfTest(ctx context.Context) error {
	d.mu.Lock()
	pending := d.pending
	d.mu.Unlock()
	if pending {
		return nil
	}
	for _, ip := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if ip.Is6() && d.features.Connect6 == No {
			continue
		}
		err := d.selfTest(ctx, ip)
		if ip.Is6() && (errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("self-test on %v: %w", ip, err)
		}
	}
	return nil
}

func (d *Datapath) selfTest(ctx context.Context, ip netip.Addr) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer listener.Close() // a listener's close loses nothing
	frontend, release, err := reservePort(ip)
	if err != nil {
		return err
	}
	defer release()
	backend := netip.MustParseAddrPort(listener.Addr().String())
	s := Service{Frontend: Frontend{Addr: frontend, Protocol: TCP}, Groups: []Group{{Backends: []netip.AddrPort{backend}}}}
	d.mu.Lock()
	err = d.update(s) // not Update, which refuses loopback addresses
	d.mu.Unlock()
	if err != nil {
		return err
	}
	dialer := net.Dialer{Timeout: selfTestTimeout}
	conn, dialErr := dialer.DialContext(ctx, "tcp", frontend.String())
	if err := d.Delete(s.Frontend); err != nil {
		return err
	}
	switch {
	case errors.Is(dialErr, unix.ECONNREFUSED):
		return fmt.Errorf("attached to %s: %w", d.config.Cgroup, ErrSelfTest)
	case dialErr != nil:
		return fmt.Errorf("connect: %w", dialErr)
	}
	return conn.Close()
}

// reservePort binds a port of ip without listening on it: nobody else can be
// there while it is a service.
func reservePort(ip netip.Addr) (addr netip.AddrPort, release func(), err error) {
	family, any := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	if ip.Is6() {
		family, any = unix.AF_INET6, &unix.SockaddrInet6{Addr: ip.As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return addr, nil, fmt.Errorf("socket: %w", err)
	}
	release = func() { _ = unix.Close(fd) } // a socket that was never connected
	if err := unix.Bind(fd, any); err != nil {
		release()
		return addr, nil, fmt.Errorf("bind: %w", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		release()
		return addr, nil, fmt.Errorf("name of socket: %w", err)
	}
	var port int
	switch b := bound.(type) {
	case *unix.SockaddrInet4:
		port = b.Port
	case *unix.SockaddrInet6:
		port = b.Port
	default:
		release()
		return addr, nil, fmt.Errorf("name of socket: %w", syscall.EAFNOSUPPORT)
	}
	return netip.AddrPortFrom(ip, uint16(port)), release, nil
}
