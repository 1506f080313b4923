package netspace_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newSpace(t *testing.T, path string) *netspace.Space {
	t.Helper()
	labtest.RequireRoot(t)
	s, err := netspace.New(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), netspace.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	return s
}

func current(t *testing.T) string {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	link, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestDo runs many goroutines through two namespaces: each is in the right one,
// and none of the threads that other code gets later is in either.
func TestDo(t *testing.T) {
	dir := t.TempDir()
	spaces := []*netspace.Space{newSpace(t, filepath.Join(dir, "a")), newSpace(t, filepath.Join(dir, "b"))}
	home := current(t)
	names := make([]string, len(spaces))
	for i, s := range spaces {
		if err := s.Do(func() error { names[i] = current(t); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if names[0] == names[1] || names[0] == home {
		t.Fatalf("home %s, spaces %v", home, names)
	}
	var group sync.WaitGroup
	for i := range 200 {
		group.Go(func() {
			err := spaces[i%2].Do(func() error {
				if got := current(t); got != names[i%2] {
					t.Errorf("in %s, want %s", got, names[i%2])
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			if got := current(t); got != home {
				t.Errorf("outside in %s, want %s", got, home)
			}
		})
	}
	group.Wait()
}

// TestDoErrors sees what a function returns, and one that ends its goroutine.
func TestDoErrors(t *testing.T) {
	s := newSpace(t, filepath.Join(t.TempDir(), "a"))
	want := errors.New("some error")
	if err := s.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	if err := s.Do(func() error { runtime.Goexit(); return nil }); err == nil || !strings.Contains(err.Error(), "ended its goroutine") {
		t.Errorf("got %v", err)
	}
}

// TestReopen finds a namespace by its path, with what is in it.
func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	first := newSpace(t, path)
	if err := first.AddBridge("br0"); err != nil {
		t.Fatal(err)
	}
	second, err := netspace.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.SetDown("br0"); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := netspace.New(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("made over another: %v", err)
	}
}

// TestOpenNoNamespace takes a plain file for a namespace.
func TestOpenNoNamespace(t *testing.T) {
	labtest.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := netspace.Open(path); err == nil {
		t.Error("a plain file is a namespace")
	}
	if err := errors.Join(netspace.Remove(path), netspace.Remove(path)); err != nil {
		t.Error(err)
	}
}

// TestLinks joins two namespaces by a wire through a bridge in a third.
func TestLinks(t *testing.T) {
	dir := t.TempDir()
	middle := newSpace(t, filepath.Join(dir, "middle"))
	ends := []*netspace.Space{newSpace(t, filepath.Join(dir, "a")), newSpace(t, filepath.Join(dir, "b"))}
	check := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	check(middle.AddBridge("br0"))
	for i, end := range ends {
		port := []string{"p0", "p1"}[i]
		check(
			middle.AddPair(port, end, "eth0"),
			middle.Enslave(port, "br0"),
			end.AddAddress("eth0", netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32)),
			end.AddAddress("eth0", netip.MustParsePrefix([]string{"2001:db8::a/128", "2001:db8::b/128"}[i])),
		)
	}
	routes := []netspace.Route{
		{To: netip.MustParsePrefix("192.0.2.1/32"), Device: "eth0", From: netip.MustParseAddr("192.0.2.0")},
		{To: netip.MustParsePrefix("2001:db8::b/128"), Device: "eth0"},
	}
	back := []netspace.Route{
		{To: netip.MustParsePrefix("192.0.2.0/32"), Device: "eth0"},
		{To: netip.MustParsePrefix("2001:db8::a/128"), Device: "eth0"},
	}
	for i := range routes {
		check(ends[0].AddRoute(routes[i]), ends[0].AddRoute(routes[i]), ends[1].AddRoute(back[i]))
	}
	for _, address := range []string{"192.0.2.1:7", "[2001:db8::b]:7"} {
		check(exchange(ends[0], ends[1], address))
	}
	check(ends[1].ForgetNeighbours("eth0"), exchange(ends[0], ends[1], "192.0.2.1:7"))
	check(ends[1].DeleteAddress("eth0", netip.MustParsePrefix("2001:db8::b/128")))
	if err := ends[1].DeleteAddress("eth0", netip.MustParsePrefix("2001:db8::b/128")); err == nil {
		t.Error("an address that is not there was deleted")
	}
	check(ends[0].ForgetRoute(routes[1]), ends[0].ForgetRoute(routes[1]))
	if err := ends[0].DeleteRoute(routes[1]); err == nil {
		t.Error("a route was not forgotten")
	}
	check(ends[0].DeleteRoute(routes[0]))
	if err := ends[0].DeleteRoute(routes[0]); err == nil {
		t.Error("a route that is not there was deleted")
	}
	check(middle.Delete("p1"))
	if err := ends[1].SetUp("eth0"); err == nil {
		t.Error("the other end of a deleted pair is there")
	}
	for name, err := range map[string]error{
		"same name":      middle.AddBridge("br0"),
		"no device":      middle.SetDown("none"),
		"no bridge":      middle.Enslave("p0", "none"),
		"long name":      middle.AddBridge("a-name-that-is-too-long"),
		"no such device": ends[0].AddRoute(netspace.Route{To: routes[0].To, Device: "none"}),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestRules leads one source to another table, gives a device and a route an MTU,
// and a namespace a setting.
func TestRules(t *testing.T) {
	s := newSpace(t, filepath.Join(t.TempDir(), "a"))
	if err := s.AddBridge("br0"); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"192.0.2.1/32": "198.51.100.0/24", "2001:db8::1/128": "2001:db8:1::/64"} {
		source := netip.MustParsePrefix(from)
		rule := netspace.Rule{Priority: 50, From: source, Table: 9}
		route := netspace.Route{To: netip.MustParsePrefix(to), Device: "br0", MTU: 1300, Table: 9}
		if err := errors.Join(s.AddAddress("br0", source), s.AddRoute(route), s.AddRule(rule), s.AddRule(rule)); err != nil {
			t.Fatal(err)
		}
		// A route that the main table has not is found for this source.
		found := func() error {
			return s.Do(func() error {
				dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: source.Addr().AsSlice()}}
				conn, err := dialer.Dial("udp", netip.AddrPortFrom(route.To.Addr().Next(), 9).String())
				if err != nil {
					return err
				}
				return conn.Close()
			})
		}
		if err := found(); err != nil {
			t.Errorf("from %s: %v", source, err)
		}
		if err := s.DeleteRule(rule); err != nil {
			t.Fatal(err)
		}
		if err := found(); err == nil {
			t.Errorf("from %s: found without the rule", source)
		}
		if err := s.DeleteRule(rule); err == nil {
			t.Error("a rule that is not there was deleted")
		}
	}
	if err := errors.Join(s.SetMTU("br0", 1400), s.Set("ipv4/conf/br0/rp_filter", "1")); err != nil {
		t.Fatal(err)
	}
	err := s.Do(func() error {
		device, err := net.InterfaceByName("br0")
		if err == nil && device.MTU != 1400 {
			t.Errorf("MTU %d", device.MTU)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if s.SetMTU("none", 1400) == nil || s.Set("ipv4/none", "1") == nil {
		t.Error("what is not there was set")
	}
}

// exchange connects from one end to an address of the other.
func exchange(from, to *netspace.Space, address string) error {
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }()
	return from.Do(func() error {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
