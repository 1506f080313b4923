package route_test

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/route"
)

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func addrs(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestValidatePrefix(t *testing.T) {
	for _, p := range prefixes("10.0.0.0/8", "10.1.2.0/24", "10.1.2.3/32", "100.64.0.0/10", "fd00:1::/32", "2001:db8::/64", "fd00::1/128") {
		if err := route.ValidatePrefix(p); err != nil {
			t.Error(err)
		}
	}
	wrong := prefixes("0.0.0.0/0", "10.0.0.0/7", "10.1.2.3/24", "127.0.0.0/8", "127.1.0.0/16", "224.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8",
		"240.0.0.0/8", "::/0", "fd00::/8", "fe80::/64", "ff00::/16", "::1/128", "::ffff:10.0.0.0/104")
	for _, p := range append(wrong, netip.Prefix{}) {
		if err := route.ValidatePrefix(p); !errors.Is(err, route.ErrPrefix) {
			t.Errorf("%s: %v, want %v", p, err, route.ErrPrefix)
		}
	}
}

func TestCanonical(t *testing.T) {
	given := prefixes("fd00:1::/64", "10.2.0.0/16", "10.1.7.0/24", "10.1.0.0/16", "10.1.7.9/32", "fd00:1::9/128", "10.1.0.0/24", "10.2.0.0/16", "10.3.9.9/16")
	before := slices.Clone(given)
	want := prefixes("10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "fd00:1::/64")
	if got := route.Canonical(given); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if !slices.Equal(given, before) {
		t.Error("the argument was changed")
	}
}

// TestCanonicalModel compares Canonical and Find with a look at everything.
func TestCanonicalModel(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() netip.Addr {
		return netip.AddrFrom4([4]byte{10, 0, byte(random.IntN(2)), byte(random.IntN(256))})
	}
	for range 500 {
		var given []netip.Prefix
		for range random.IntN(12) {
			given = append(given, netip.PrefixFrom(draw(), 24+random.IntN(9)))
		}
		got := route.Canonical(given)
		for i, p := range got {
			for _, q := range got[:i] {
				if p.Overlaps(q) || route.Compare(q, p) >= 0 {
					t.Fatalf("%v: %v and %v", given, q, p)
				}
			}
		}
		for range 50 {
			a := draw()
			want := slices.ContainsFunc(given, func(p netip.Prefix) bool { return p.Contains(a) })
			p, found := route.Find(got, a)
			if found != want || found && !p.Contains(a) {
				t.Fatalf("%v: %s is in %v, %t, want %t", given, a, p, found, want)
			}
		}
	}
}

func TestPeer(t *testing.T) {
	good := route.Peer{Cluster: "west", ID: 2, Size: cluster.Size255, Mode: route.VXLAN}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		change func(*route.Peer)
		want   error
	}{
		{func(p *route.Peer) { p.Cluster = "" }, cluster.ErrName},
		{func(p *route.Peer) { p.ID = 0 }, cluster.ErrID},
		{func(p *route.Peer) { p.ID = 256 }, cluster.ErrID},
		{func(p *route.Peer) { p.Size = 0 }, cluster.ErrSize},
		{func(p *route.Peer) { p.Mode = "auto" }, route.ErrMode},
		{func(p *route.Peer) { p.Search = route.Fit }, nil},
		{func(p *route.Peer) { p.Search = "fine" }, route.ErrSearch},
	} {
		bad := good
		test.change(&bad)
		if err := bad.Validate(); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v, want %v", bad, err, test.want)
		}
	}
}

func TestRange(t *testing.T) {
	for _, test := range []struct {
		r    route.Range
		want error
	}{
		{route.Range{Prefix: netip.MustParsePrefix("10.1.0.0/24"), Cluster: "west"}, nil},
		{route.Range{Prefix: netip.MustParsePrefix("10.1.0.0/24")}, cluster.ErrName},
		{route.Range{Cluster: "west"}, route.ErrPrefix},
	} {
		if err := test.r.Validate(); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v, want %v", test.r, err, test.want)
		}
	}
}

func TestSelf(t *testing.T) {
	good := route.Self{
		Cluster: "east", ID: 1, Node: "n1", Mesh: addrs("10.200.0.1", "fd00:200::1"),
		Pods: prefixes("10.1.0.0/16"), Underlay: addrs("192.0.2.1"),
	}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := route.Family(good.Mesh, true); got != good.Mesh[1] {
		t.Errorf("IPv6: %s", got)
	}
	if got := route.Family(good.Underlay, true); got.IsValid() {
		t.Errorf("IPv6 underlay: %s, want none", got)
	}
	for _, test := range []struct {
		change func(*route.Self)
		want   error // nil for any
	}{
		{func(s *route.Self) { s.Cluster = "-" }, cluster.ErrName},
		{func(s *route.Self) { s.ID = 512 }, cluster.ErrID},
		{func(s *route.Self) { s.Node = "" }, nil},
		{func(s *route.Self) { s.Mesh = addrs("127.0.0.1") }, route.ErrAddress},
		{func(s *route.Self) { s.Mesh = addrs("10.0.0.1", "10.0.0.2") }, route.ErrOrder},
		{func(s *route.Self) { s.Underlay = addrs("fd00::1", "10.0.0.2") }, route.ErrOrder},
		{func(s *route.Self) { s.Underlay = []netip.Addr{{}} }, route.ErrAddress},
		{func(s *route.Self) { s.Pods = prefixes("0.0.0.0/0") }, route.ErrPrefix},
		{func(s *route.Self) { s.Pods = prefixes("10.1.0.0/16", "10.1.2.0/24") }, route.ErrOrder},
		{func(s *route.Self) { s.Pods = prefixes("fd00:1::/64", "10.1.0.0/16") }, route.ErrOrder},
	} {
		bad := good
		test.change(&bad)
		err := bad.Validate()
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("%+v: %v, want %v", bad, err, test.want)
		}
		if bad.Equal(&good) {
			t.Errorf("%+v equals %+v", bad, good)
		}
	}
}

// What is found out is tried all the time; what was set by hand only as far as it
// is in use.
func TestSearch(t *testing.T) {
	for _, test := range []struct {
		peer          route.Peer
		tries, agrees bool
	}{
		{route.Peer{Mode: route.VXLAN}, false, false},
		{route.Peer{Mode: route.Native}, true, true},
		{route.Peer{Mode: route.VXLAN, Search: route.Unfit}, true, false},
		{route.Peer{Mode: route.VXLAN, Search: route.Fit}, true, true},
		{route.Peer{Mode: route.Native, Search: route.Fit}, true, true},
	} {
		if test.peer.Tries() != test.tries || test.peer.Agrees() != test.agrees {
			t.Errorf("%+v: tries %t, agrees %t", test.peer, test.peer.Tries(), test.peer.Agrees())
		}
	}
}
