package preflight

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// path is a node, and a node of another cluster behind a router: its address is
// 192.0.2.1 and fd00:2::1.
type path struct{ near, router, far *netspace.Space }

func newPath(t *testing.T) path {
	t.Helper()
	sandbox.Require(t)
	dir := t.TempDir()
	space := func(name string) *netspace.Space {
		s, err := netspace.New(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(s.Close(), netspace.Remove(s.Path())); err != nil {
				t.Error(err)
			}
		})
		return s
	}
	p := path{space("near"), space("router"), space("far")}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(p.near.AddPair("eth0", p.router, "near"), p.far.AddPair("eth0", p.router, "far"))
	for _, side := range []struct {
		space   *netspace.Space
		name    string
		network string
	}{{p.near, "near", "198.51.100"}, {p.far, "far", "192.0.2"}} {
		v6 := map[string]string{"near": "fd00:1", "far": "fd00:2"}[side.name]
		for _, at := range []struct {
			in   *netspace.Space
			name string
			host string
		}{{side.space, "eth0", "1"}, {p.router, side.name, "2"}} {
			must(at.in.AddAddress(at.name, netip.MustParsePrefix(side.network+"."+at.host+"/24")),
				at.in.AddAddress(at.name, netip.MustParsePrefix(v6+"::"+at.host+"/64")), at.in.SetUp(at.name))
		}
		for to, via := range map[string]string{"0.0.0.0/0": side.network + ".2", "::/0": v6 + "::2"} {
			must(side.space.AddRoute(netspace.Route{To: netip.MustParsePrefix(to), Via: netip.MustParseAddr(via), Device: "eth0"}))
		}
	}
	return p
}

// drop drops something where packets come into a namespace.
func drop(t *testing.T, in *netspace.Space, what string) {
	t.Helper()
	for _, command := range []string{
		"add table inet drops", "add chain inet drops early { type filter hook prerouting priority -300 ; }", "add rule inet drops early " + what + " drop",
	} {
		run(t, append([]string{"nsenter", "--net=" + in.Path(), "nft"}, strings.Fields(command)...)...)
	}
}

// narrow makes the link from the router to the far node carry so many bytes.
func narrow(mtu int) func(*testing.T, path) {
	return func(t *testing.T, p path) {
		t.Helper()
		if err := errors.Join(p.router.SetMTU("far", mtu), p.far.SetMTU("eth0", mtu)); err != nil {
			t.Fatal(err)
		}
	}
}

// What is in the way of a tunnel's packets is told apart, by what real nodes say.
func TestUDP(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*testing.T, path)
		level  Level
		what   string
	}{
		"nothing":        {func(*testing.T, path) {}, Fine, "answers, to 1500 bytes at once"},
		"a smaller link": {narrow(1400), Note, "carries 1400 bytes, and this node's own network 1500"},
		"a small link":   {narrow(1300), Limit, "carries 1300 bytes: a tunnel over it has no IPv6"},
		"a black hole": {func(t *testing.T, p path) {
			narrow(1400)(t, p)
			drop(t, p.near, "icmp type destination-unreachable icmp code frag-needed")
			drop(t, p.near, "icmpv6 type packet-too-big")
		}, Limit, "not to 1500 bytes at once"},
		"a firewall": {func(t *testing.T, p path) { drop(t, p.router, "udp dport 8473") }, Note, "says nothing"},
		"nobody": {func(t *testing.T, p path) {
			for _, r := range []string{"192.0.2.0/24", "fd00:2::/64"} {
				if err := p.router.DeleteRoute(netspace.Route{To: netip.MustParsePrefix(r), Device: "far"}); err != nil {
					t.Fatal(err)
				}
			}
		}, Limit, "UDP port 8473 of"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPath(t)
			test.change(t, p)
			for _, ip := range []string{"192.0.2.1", "fd00:2::1"} {
				to := netip.AddrPortFrom(netip.MustParseAddr(ip), 8473)
				ctx, cancel := context.WithTimeout(t.Context(), tryFor)
				var w way
				err := p.near.Do(func() error { w = tryUDP(ctx, to); return nil })
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				got := w.udp(to.Addr(), to.Port(), false)
				if len(got) != 1 || got[0].Level != test.level || !strings.Contains(got[0].What, test.what) {
					t.Errorf("%s: %+v, want %s with %q", ip, got, test.level, test.what)
				}
				if away := w.udp(to.Addr(), to.Port(), true); w.small != nil && away != nil {
					t.Errorf("of a node that is not reached at all: %+v", away)
				}
			}
		})
	}
}
