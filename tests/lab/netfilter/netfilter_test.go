package netfilter_test

import (
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/nftables"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netfilter"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// addresses of the one device of a space, by family.
func addresses() map[nftables.TableFamily]netip.Prefix {
	return map[nftables.TableFamily]netip.Prefix{
		netfilter.FamilyIPv4: netip.MustParsePrefix("192.0.2.1/32"),
		netfilter.FamilyIPv6: netip.MustParsePrefix("2001:db8::1/128"),
	}
}

func newSpace(t *testing.T) *netspace.Space {
	t.Helper()
	labtest.RequireRoot(t)
	path := filepath.Join(t.TempDir(), "space")
	s, err := netspace.New(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), netspace.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	for _, address := range addresses() {
		if err := s.AddAddress("lo", address); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func table(family nftables.TableFamily, rules ...netfilter.Rule) netfilter.Table {
	return netfilter.Table{Family: family, Name: "test", Chains: []netfilter.Chain{{
		Name: "in", Type: nftables.ChainTypeFilter,
		Hook: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter, Rules: rules,
	}}}
}

// send sends a datagram from the address to itself and reports whether it came.
func send(t *testing.T, s *netspace.Space, address netip.Addr) bool {
	t.Helper()
	var server net.PacketConn
	var client net.Conn
	err := s.Do(func() (err error) {
		if server, err = net.ListenPacket("udp", netip.AddrPortFrom(address, 0).String()); err != nil {
			return err
		}
		client, err = net.Dial("udp", server.LocalAddr().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(server.Close(), client.Close()) }()
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	// On a loopback it has been delivered, or dropped, when Write returns.
	if err := server.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _, err = server.ReadFrom(make([]byte, 10))
	return err == nil
}

func TestMatches(t *testing.T) {
	s := newSpace(t)
	for family, own := range addresses() {
		other := netip.PrefixFrom(own.Addr().Next().Next(), own.Bits())
		wide := netip.PrefixFrom(own.Addr(), own.Bits()-8).Masked()
		for name, test := range map[string]struct {
			match   netfilter.Rule
			matches bool
		}{
			"source":           {netfilter.Source(own), true},
			"source's range":   {netfilter.Source(wide), true},
			"another source":   {netfilter.Source(other), false},
			"target":           {netfilter.Target(own), true},
			"another target":   {netfilter.Target(other), false},
			"not the target":   {netfilter.NotTarget(own), false},
			"not another":      {netfilter.NotTarget(other), true},
			"device":           {netfilter.In(netfilter.Device("lo")), true},
			"device's letter":  {netfilter.In("l"), true},
			"a longer name":    {netfilter.In(netfilter.Device("l")), false},
			"both":             {netfilter.Join(netfilter.Source(own), netfilter.Target(own)), true},
			"one of two":       {netfilter.Join(netfilter.Source(own), netfilter.Target(other)), false},
			"a known way back": {netfilter.NoWayBack(), false},
			"new":              {netfilter.Established(), false},
			"no ICMPv6":        {netfilter.ICMPv6(128), false},
		} {
			rule := netfilter.Join(test.match, netfilter.Counted(), netfilter.Drop())
			if err := netfilter.Write(s, table(family, rule)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if arrived := send(t, s, own.Addr()); arrived == test.matches {
				t.Errorf("%s, %s: arrived: %v", own, name, arrived)
			}
			if n, err := netfilter.Count(s, table(family), "in"); err != nil || (n > 0) != test.matches {
				t.Errorf("%s, %s: %d packets counted (%v)", own, name, n, err)
			}
		}
	}
}

// TestAppend adds to a chain that counts on, and replaces it.
func TestAppend(t *testing.T) {
	s := newSpace(t)
	address := addresses()[netfilter.FamilyIPv4].Addr()
	all := table(netfilter.FamilyIPv4, netfilter.Counted())
	if err := netfilter.Write(s, all); err != nil {
		t.Fatal(err)
	}
	arrived := send(t, s, address)
	if err := netfilter.Append(s, all, "in", netfilter.Drop()); err != nil {
		t.Fatal(err)
	}
	if !arrived || send(t, s, address) {
		t.Error("dropped before the rule was added, or not after")
	}
	if n, err := netfilter.Count(s, all, "in"); n != 2 || err != nil {
		t.Errorf("%d packets counted (%v), want 2", n, err)
	}
	if err := netfilter.Write(s, all); err != nil {
		t.Fatal(err)
	}
	if n, err := netfilter.Count(s, all, "in"); n != 0 || err != nil || !send(t, s, address) {
		t.Errorf("%d packets counted by a new table (%v)", n, err)
	}
	all.Chains[0].Drop = true
	if err := netfilter.Write(s, all); err != nil || send(t, s, address) {
		t.Errorf("not dropped by the policy (%v)", err)
	}
	none := netfilter.Table{Family: netfilter.FamilyIPv6, Name: "none"}
	if err := netfilter.Append(s, none, "in", netfilter.Drop()); err == nil {
		t.Error("added to a table that is not there")
	}
}
