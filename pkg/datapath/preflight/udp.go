package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errSilent is for datagrams to which nobody says anything.
var errSilent = errors.New("no answer")

// askEvery is how long an answer is waited for before the same is sent again: nodes say
// only once a second that nobody has a port.
const askEvery = 400 * time.Millisecond

// way is what datagrams to the tunnels' port of another cluster's node met. Where no
// agent runs there yet, the node itself says that nobody has the port, which is the
// answer that is looked for; where one runs, its tunnel device is silent.
type way struct {
	// mtu is what this node takes the way for, in bytes; path what is left of it for the
	// smallest link, where something said so, 0 else.
	mtu, path int
	// small is of a datagram of a few bytes, whole of one that fills mtu, neither to be
	// cut into fragments: nil, errSilent, or why not.
	small, whole error
}

// tryUDP takes until the end of ctx, which has a deadline, where there is no answer.
func tryUDP(ctx context.Context, to netip.AddrPort) (w way) {
	until, _ := ctx.Deadline()
	half, cancel := context.WithDeadline(ctx, time.Now().Add(time.Until(until)/2))
	defer cancel()
	if w.mtu, w.small = askUDP(half, to, false); w.small != nil {
		return w
	}
	w.path, w.whole = askUDP(ctx, to, true)
	if !errors.Is(w.whole, unix.EMSGSIZE) {
		w.path = 0
	}
	return w
}

// askUDP sends datagrams until something is said to one, and returns which MTU is known
// then.
func askUDP(ctx context.Context, to netip.AddrPort, whole bool) (mtu int, err error) {
	conn, err := dialWhole(ctx, to)
	if err != nil {
		return 0, err
	}
	defer conn.Close() // nothing is lost with it
	data := make([]byte, 1)
	if whole {
		data = make([]byte, mtuOf(conn)-headers(to.Addr()))
	}
	end, _ := ctx.Deadline()
	for ctx.Err() == nil {
		_, err := conn.Write(data) // of zeros, which are no packet of a tunnel
		if err == nil {
			if err = conn.SetReadDeadline(time.Now().Add(min(askEvery, time.Until(end)))); err == nil {
				_, err = conn.Read(make([]byte, 1))
			}
		}
		switch {
		case err == nil, errors.Is(err, unix.ECONNREFUSED):
			return mtuOf(conn), nil
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return mtuOf(conn), err
		}
	}
	return mtuOf(conn), errSilent
}

// headers are those of IP and UDP, in bytes.
func headers(ip netip.Addr) int {
	if ip.Is4() {
		return 20 + 8
	}
	return 40 + 8
}

// dialWhole returns a socket whose datagrams nobody may cut into fragments, and which is
// told all that is said of them.
func dialWhole(ctx context.Context, to netip.AddrPort) (*net.UDPConn, error) {
	level, discover, told := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_RECVERR
	if to.Addr().Is6() {
		level, discover, told = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_RECVERR
	}
	var set error
	d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		err := raw.Control(func(fd uintptr) {
			set = errors.Join(unix.SetsockoptInt(int(fd), level, discover, unix.IP_PMTUDISC_DO), unix.SetsockoptInt(int(fd), level, told, 1))
		})
		return errors.Join(err, set)
	}}
	conn, err := d.DialContext(ctx, "udp", to.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// mtuOf returns what is known of the way that a socket is connected to, in bytes.
func mtuOf(conn *net.UDPConn) (mtu int) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // it fails for a closed socket alone
		if conn.RemoteAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().Is4() {
			mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU)
		} else {
			mtu, _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MTU)
		}
	})
	return mtu
}

// udp says what a way to a node is good for, nothing where no other way leads there either.
func (w way) udp(ip netip.Addr, port uint16, away bool) []Finding {
	at := fmt.Sprintf("UDP port %d of %s", port, ip)
	switch {
	case w.small == nil && w.whole == nil:
		return []Finding{{"udp", Fine, fmt.Sprintf("%s answers, to %d bytes at once, too", at, w.mtu), ""}}
	case w.small == nil && errors.Is(w.whole, unix.EMSGSIZE) && w.path < leastMTU:
		return []Finding{{
			"udp", Limit, fmt.Sprintf("%s answers, but the way there carries %d bytes: a tunnel over it has no IPv6", at, w.path),
			fmt.Sprintf("have the network between the nodes carry %d bytes or more, or give no IPv6 range in --mesh-cidr", leastMTU),
		}}
	case w.small == nil && errors.Is(w.whole, unix.EMSGSIZE):
		return []Finding{{"udp", Note, fmt.Sprintf("%s answers; the way there carries %d bytes, and this node's own network %d: tunnels go by the former", at, w.path, w.mtu), ""}}
	case w.small == nil && errors.Is(w.whole, errSilent):
		return []Finding{{
			"udp", Limit, fmt.Sprintf("%s answers, but not to %d bytes at once, which this node's own network carries: larger packets are lost on the way, and nothing says so", at, w.mtu),
			"let ICMP (fragmentation needed, packet too big) pass between the nodes, or give the route to that node the MTU which the way carries (ip route ... mtu N): tunnels go by it",
		}}
	case w.small == nil:
		return []Finding{{"udp", Limit, fmt.Sprintf("%s answers, but not to %d bytes at once: %v", at, w.mtu, w.whole), "see what is in the way of large packets between the nodes"}}
	case away: // said already
		return nil
	case errors.Is(w.small, errSilent):
		return []Finding{{
			"udp", Note, at + " says nothing: an agent has it already, or something in between lets it not pass",
			fmt.Sprintf("let UDP port %d pass between all nodes of the clusters; causeway diagnose tells whether it does, once agents run", port),
		}}
	}
	return []Finding{{"udp", Limit, fmt.Sprintf("%s: %v", at, w.small), fmt.Sprintf("let UDP port %d pass between all nodes of the clusters", port)}}
}
