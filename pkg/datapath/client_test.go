package datapath

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithCancel(t.Context())
}

// inNamespace runs fn in a network namespace of its own, where backends have a
// route. It holds the thread, which keeps the namespace, until the test ends.
func inNamespace(t *testing.T, fn func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		onOwnThread(func() {
			err := newNamespace()
			if err != nil {
				t.Error(err)
			} else {
				fn()
			}
			done <- struct{}{}
			<-done
		})
	}()
	<-done
	t.Cleanup(func() { done <- struct{}{}; <-ended })
}

func newNamespace() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	_, local, err := net.ParseCIDR(sandbox.LocalIPv4)
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), netlink.RouteReplace(&netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: local, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
	}))
}

// drawn connects a UDP socket, which needs nobody to answer, and returns the
// backend that it was given.
func drawn(t *testing.T, a netip.AddrPort) netip.AddrPort {
	t.Helper()
	c := newClient(t, false)
	defer c.close()
	if err := c.connect(a); err != nil {
		t.Error(err)
		return netip.AddrPort{}
	}
	return c.peer()
}

func many(n int) []netip.AddrPort {
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = addrPort(1000 + i)
	}
	return all
}

func TestSession(t *testing.T) {
	d := open(t)
	a := netip.MustParseAddrPort("10.96.0.1:53")
	s := udp(a.String(), many(200)...)
	s.Session = time.Hour
	update(t, d, s)
	first := drawn(t, a)
	for range 50 {
		if got := drawn(t, a); got != first {
			t.Fatalf("the client went from %v to %v", first, got)
		}
	}
	// A socket that is not connected is the same client.
	c := newClient(t, false)
	if err := unix.Sendto(c.fd, []byte("?"), 0, c.sockaddr(a)); err != nil {
		t.Fatal(err)
	}
	other := first
	inNamespace(t, func() {
		got := first
		for range 3 { // each namespace draws once
			if got == first {
				if err := newNamespace(); err != nil {
					t.Error(err)
				}
				got = drawn(t, a)
			}
		}
		if again := drawn(t, a); again != got {
			t.Errorf("the other client went from %v to %v", got, again)
		}
		other = got
	})
	if other == first {
		t.Error("three other clients were all given the same backend")
	}

	// It leaves, and comes back: the client has another by then, and keeps it.
	without := s
	without.Groups = []Group{{}}
	for _, b := range s.Groups[0].Backends {
		if b != first {
			without.Groups[0].Backends = append(without.Groups[0].Backends, b)
		}
	}
	update(t, d, without)
	second := drawn(t, a)
	if second == first {
		t.Error("the client was given a backend that had left")
	}
	update(t, d, s)
	if got := drawn(t, a); got != second {
		t.Errorf("the client went from %v to %v", second, got)
	}

	// Without a session, each draws anew; with it again, the old one counts.
	s.Session = 0
	update(t, d, s)
	seen := map[netip.AddrPort]bool{}
	for range 20 {
		seen[drawn(t, a)] = true
	}
	if len(seen) < 5 {
		t.Errorf("without a session 20 draws gave %d backends", len(seen))
	}
}

// A client that stays away longer than the session has none; one that comes
// again and again has it for as long as it likes.
func TestSessionTimeout(t *testing.T) {
	d := open(t)
	a := netip.MustParseAddrPort("10.96.0.1:53")
	s := udp(a.String(), many(200)...)
	s.Session = 2 * time.Second
	update(t, d, s)
	first := drawn(t, a)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	last := time.Now()
	for begin := last; time.Since(begin) < 3*time.Second; <-look.C {
		now := time.Now()
		got := drawn(t, a)
		if away := time.Since(last); got != first && away < s.Session {
			t.Fatalf("went from %v to %v after %v", first, got, away)
		}
		first, last = got, now // another one where the machine stood still for too long
	}
	changed := false
	for range 3 { // the same is drawn once in 200
		away := time.NewTimer(2*time.Second + 100*time.Millisecond)
		<-away.C
		if changed = drawn(t, a) != first; changed {
			break
		}
	}
	if !changed {
		t.Error("the session did not end")
	}
}

func TestRefuse(t *testing.T) {
	d := open(t)
	refused := unix.ECONNREFUSED
	if d.features.Retval == No {
		refused = unix.EPERM
	}
	before, ubefore := echo(t, "10.1.0.1:80"), udpEcho(t, "10.1.0.1:53")
	tcp, u := one(before.String()), udp(ubefore.String())
	tcp.Refuse, u.Refuse = true, true
	v6, _ := one("[fd00:1::9]:80"), 0
	v6.Refuse = true
	update(t, d, tcp, u, v6)
	for network, addr := range map[string]netip.AddrPort{"tcp4": before, "tcp6": v6.Addr, "udp4": ubefore} {
		if conn, err := net.Dial(network, addr.String()); !errors.Is(err, refused) {
			t.Errorf("%s: %v", network, err)
			if err == nil {
				conn.Close()
			}
		}
	}
	if _, err := dialMapped(before); !errors.Is(err, refused) {
		t.Errorf("mapped: %v", err)
	}
	if _, _, err := newClient(t, false).ask(ubefore); !errors.Is(err, refused) {
		t.Errorf("send: %v", err)
	}
	want := echo(t, "10.1.0.2:80")
	tcp.Groups = []Group{{Backends: []netip.AddrPort{want}}}
	update(t, d, tcp)
	wantAnswer(t, "tcp4", before.String(), want)
	tcp.Groups, tcp.Refuse = nil, false
	update(t, d, tcp)
	wantAnswer(t, "tcp4", before.String(), before)
}

// An old kernel cannot say why: the programs load without the helper, and
// refuse with EPERM.
func TestRefuseWithoutRetval(t *testing.T) {
	d := open(t)
	d.features.Retval = No
	if err := errors.Join(d.load(), d.attach()); err != nil {
		t.Fatal(err)
	}
	s := one("10.1.0.1:80")
	s.Refuse = true
	update(t, d, s)
	if _, err := dial("tcp4", s.Addr.String()); !errors.Is(err, unix.EPERM) {
		t.Error(err)
	}
	s.Groups = []Group{{Backends: []netip.AddrPort{echo(t, "10.1.0.2:80")}}}
	update(t, d, s)
	wantAnswer(t, "tcp4", s.Addr.String(), s.Groups[0].Backends[0])
}

func TestTerminating(t *testing.T) {
	d := open(t)
	all := echoes(t, 3)
	s := one("10.96.0.1:80", all[0])
	s.Groups = append(s.Groups, Group{Tier: 1, Backends: all[1:2]})
	s.Terminating = all[2:]
	update(t, d, s)
	wantAnswer(t, "tcp4", "10.96.0.1:80", all[0])
	s.Groups[0].Backends = nil
	update(t, d, s)
	wantAnswer(t, "tcp4", "10.96.0.1:80", all[1])
	s.Groups[1].Backends = nil
	update(t, d, s)
	wantAnswer(t, "tcp4", "10.96.0.1:80", all[2])
	s.Groups[1].Backends = all[1:2]
	update(t, d, s)
	wantAnswer(t, "tcp4", "10.96.0.1:80", all[1])
}
