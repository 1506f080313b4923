package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/causeway-mesh/causeway/pkg/route"
)

func prefixes(text string) []netip.Prefix {
	var all []netip.Prefix
	for _, p := range strings.Fields(text) {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

func addrs(text string) []netip.Addr {
	var all []netip.Addr
	for _, a := range strings.Fields(text) {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func TestPlanRoutes(t *testing.T) {
	for name, tc := range map[string]struct {
		wanted, pods, nodes string
		others              []foreign
		leads, throws       string
		problems            int
	}{
		"nothing":           {},
		"alone":             {wanted: "10.2.0.0/16 10.3.0.0/16", leads: "10.2.0.0/16 10.3.0.0/16"},
		"beside others":     {wanted: "10.2.0.0/16", others: theirs("10.1.0.0/16 10.3.0.0/24"), leads: "10.2.0.0/16"},
		"within others":     {wanted: "10.2.0.0/16", others: theirs("10.0.0.0/8"), leads: "10.2.0.0/16"},
		"the same":          {wanted: "10.2.0.0/16 10.3.0.0/16", others: theirs("10.2.0.0/16"), leads: "10.3.0.0/16", problems: 1},
		"parts":             {wanted: "10.2.0.0/16", others: theirs("10.2.1.0/24 10.2.1.7/32"), leads: "10.2.0.0/16", throws: "10.2.1.0/24", problems: 2},
		"own address":       {wanted: "10.2.0.0/16", others: []foreign{{prefix: netip.MustParsePrefix("10.2.9.9/32"), own: true}}, leads: "10.2.0.0/16", throws: "10.2.9.9/32", problems: 1},
		"own mesh address":  {wanted: "10.2.0.0/16", others: []foreign{{prefix: netip.MustParsePrefix("10.2.9.9/32"), own: true, tunnel: true}}, leads: "10.2.0.0/16", throws: "10.2.9.9/32"},
		"in our table":      {wanted: "10.2.0.0/16", others: []foreign{{prefix: netip.MustParsePrefix("10.2.9.0/24"), first: true}}, leads: "10.2.0.0/16", problems: 1},
		"node":              {wanted: "10.2.0.0/16", nodes: "10.2.0.5 192.0.2.1", leads: "10.2.0.0/16", throws: "10.2.0.5/32"},
		"node is pod":       {wanted: "10.2.0.5/32", nodes: "10.2.0.5", problems: 1},
		"pods within":       {wanted: "10.0.0.0/8", pods: "10.1.0.0/16", leads: "10.0.0.0/8", throws: "10.1.0.0/16", problems: 1},
		"within pods":       {wanted: "10.1.2.0/24 10.2.0.0/16", pods: "10.1.0.0/16", leads: "10.2.0.0/16", problems: 1},
		"the same as pods":  {wanted: "10.1.0.0/16", pods: "10.1.0.0/16", problems: 1},
		"IPv6, all of it":   {wanted: "fd00:2::/64", others: theirs("fd00:2::5:0/112"), nodes: "fd00:2::1", leads: "fd00:2::/64", throws: "fd00:2::1/128 fd00:2::5:0/112", problems: 1},
		"hosts are hosts":   {wanted: "10.2.0.5/32 10.2.0.6/32", others: theirs("10.2.0.5/32"), leads: "10.2.0.6/32", problems: 1},
		"many of one route": {wanted: "10.2.0.0/16", others: theirs("10.2.1.0/24 10.2.1.0/24"), leads: "10.2.0.0/16", throws: "10.2.1.0/24", problems: 2},
	} {
		t.Run(name, func(t *testing.T) {
			got := planRoutes(prefixes(tc.wanted), prefixes(tc.pods), addrs(tc.nodes), tc.others)
			if text := join2(got.leads); text != tc.leads {
				t.Errorf("leads %s, want %s", text, tc.leads)
			}
			if text := join2(got.throws); text != tc.throws {
				t.Errorf("throws %s, want %s", text, tc.throws)
			}
			if len(got.problems) != tc.problems {
				t.Errorf("problems %v, want %d", got.problems, tc.problems)
			}
		})
	}
}

func theirs(text string) []foreign {
	var all []foreign
	for _, p := range prefixes(text) {
		all = append(all, foreign{prefix: p, text: p.String() + " table main"})
	}
	return all
}

func join2[T fmt.Stringer](items []T) string {
	var all []string
	for _, item := range items {
		all = append(all, item.String())
	}
	return strings.Join(all, " ")
}

// TestPlanRandom holds what a lookup in our table and then in theirs answers
// against a plain statement of the rule, address by address.
func TestPlanRandom(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	some := func(n int) []netip.Prefix {
		var all []netip.Prefix
		for range n {
			a := netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), byte(random.IntN(4) << 6), byte(random.IntN(4) << 6)})
			all = append(all, netip.PrefixFrom(a, 14+random.IntN(19)).Masked())
		}
		return all
	}
	for range 3000 {
		wanted, others := route.Canonical(some(1+random.IntN(4))), some(random.IntN(5))
		got := planRoutes(wanted, nil, nil, theirs(join2(others)))
		for range 20 {
			a := netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), byte(random.IntN(4) << 6), byte(random.IntN(4) << 6)})
			lead, led := route.Find(wanted, a)
			for _, o := range others {
				led = led && !(o.Contains(a) && o.Bits() >= lead.Bits())
			}
			_, is := route.Find(got.leads, a)
			if _, thrown := route.Find(got.throws, a); thrown {
				is = false
			}
			if is != led {
				t.Fatalf("wanted %v, others %v: %s led %t, want %t (leads %v, throws %v)", wanted, others, a, is, led, got.leads, got.throws)
			}
		}
	}
}

// TestProblemsBounded: a table full of contradictions is not told route by route.
func TestProblemsBounded(t *testing.T) {
	var others []foreign
	for i := range 500 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i / 256), byte(i)}), 32)
		others = append(others, foreign{prefix: p})
	}
	got := planRoutes(prefixes("10.2.0.0/16"), nil, nil, others)
	if len(got.problems) != maxProblems || len(got.throws) != len(others) {
		t.Errorf("%d problems, %d throws", len(got.problems), len(got.throws))
	}
}

// TestElements shows prefixes as intervals: the first address, and the first one behind.
func TestElements(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"10.1.0.0/16":                         "10.1.0.0 )10.2.0.0",
		"10.1.0.0/16 10.2.0.0/16 10.4.0.1/32": "10.1.0.0 )10.2.0.0 10.2.0.0 )10.3.0.0 10.4.0.1 )10.4.0.2",
		"255.255.0.0/16":                      "255.255.0.0",
		"10.0.0.0/8 255.255.255.255/32":       "10.0.0.0 )11.0.0.0 255.255.255.255",
		"fd00:1::/64 fd00:1:0:1::/64 fd00:2::1/128": "fd00:1:: )fd00:1:0:1:: fd00:1:0:1:: )fd00:1:0:2:: fd00:2::1 )fd00:2::2",
		"ffff::/16": "ffff::",
	} {
		var got []string
		for _, e := range elements(prefixes(text)) {
			a, _ := netip.AddrFromSlice(e.Key)
			mark := ""
			if e.IntervalEnd {
				mark = ")"
			}
			got = append(got, mark+a.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func TestHardwareAddress(t *testing.T) {
	seen := map[string]bool{}
	for _, mesh := range []string{"10.200.0.1", "10.200.0.2", "fd00::1", "10.200.0.1 fd00::1"} {
		a := hardwareAddress(addrs(mesh))
		if len(a) != 6 || a[0]&3 != 2 || seen[a.String()] || !bytes.Equal(a, hardwareAddress(addrs(mesh))) {
			t.Errorf("%s: %s", mesh, a)
		}
		seen[a.String()] = true
	}
}

func TestSample(t *testing.T) {
	got := join2(sample(addrs("192.0.2.1 192.0.2.2 192.0.3.1 2001:db8::1 2001:db8::2 2001:db8:0:1::1")))
	if want := "192.0.2.1 192.0.3.1 2001:db8::1 2001:db8:0:1::1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestValidate(t *testing.T) {
	good := func() Desired {
		return Desired{
			Mesh: addrs("10.200.0.1 fd00::1"), LocalPods: prefixes("10.1.0.0/16"), MeshRanges: prefixes("10.201.0.0/16"),
			Routes: []Route{{netip.MustParsePrefix("10.2.0.0/16"), route.VXLAN}, {netip.MustParsePrefix("fd00:3::/64"), route.Native}},
		}
	}
	d := good()
	if err := d.validate(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Desired){
		"two of a family": func(d *Desired) { d.Mesh = addrs("10.200.0.1 10.200.0.2") },
		"loopback":        func(d *Desired) { d.Mesh = addrs("127.0.0.1") },
		"no mode":         func(d *Desired) { d.Routes[0].Mode = "" },
		"default route":   func(d *Desired) { d.Routes[0].Prefix = netip.MustParsePrefix("0.0.0.0/0") },
		"bits":            func(d *Desired) { d.LocalPods = prefixes("10.1.0.1/16") },
		"mesh range":      func(d *Desired) { d.MeshRanges = []netip.Prefix{{}} },
		"negative MTU":    func(d *Desired) { d.MTU = -1 },
	} {
		d := good()
		spoil(&d)
		if err := d.validate(); !errors.Is(err, ErrDesired) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRuleset: what the table says changes with all that it depends on, and with
// nothing else.
func TestRuleset(t *testing.T) {
	base := Desired{Port: 8473, Mesh: addrs("10.200.0.1"), LocalPods: prefixes("10.1.0.0/16")}
	rules := newRuleset("mesh0", &base)
	for name, tc := range map[string]struct {
		change func(*Desired)
		rules  bool // are others too
		equal  bool
	}{
		"as it is":          {change: func(*Desired) {}, equal: true},
		"port":              {change: func(d *Desired) { d.Port = 8474 }, rules: true},
		"mesh":              {change: func(d *Desired) { d.Mesh = addrs("10.200.0.2") }, rules: true},
		"both":              {change: func(d *Desired) { d.Mesh = addrs("10.200.0.1 fd00::1") }, rules: true},
		"pods":              {change: func(d *Desired) { d.LocalPods = prefixes("10.1.0.0/16 10.5.0.0/16") }},
		"native peer":       {change: func(d *Desired) { d.Routes = []Route{{netip.MustParsePrefix("10.2.0.0/16"), route.Native}} }},
		"peer with tunnels": {change: func(d *Desired) { d.Routes = []Route{{netip.MustParsePrefix("10.2.0.0/16"), route.VXLAN}} }, equal: true},
	} {
		d := base
		tc.change(&d)
		r := newRuleset("mesh0", &d)
		if r.equal(&rules) != tc.equal || (r.digest != rules.digest) != tc.rules {
			t.Errorf("%s: equal %t, digest %s of %s", name, r.equal(&rules), r.digest, rules.digest)
		}
		if again := newRuleset("mesh0", &d); !again.equal(&r) {
			t.Errorf("%s: %s and then %s", name, r.digest, again.digest)
		}
	}
	if r := newRuleset("mesh1", &base); r.digest == rules.digest {
		t.Error("the same table for another device")
	}
}

// TestFirst: packets meet one chain a hook, and leave it for what the kernel
// compares in place.
func TestFirst(t *testing.T) {
	both := newRuleset("mesh0", &Desired{Port: 8473, Mesh: addrs("10.200.0.1 fd00::1"), LocalPods: prefixes("10.1.0.0/16 fd01::/64")})
	hooks, known := map[int64]string{}, map[string]bool{}
	for i := range both.chains {
		c := &both.chains[i]
		if other := hooks[c.hookNumber()]; c.hook != nil && other != "" {
			t.Errorf("chains %s and %s are at one hook", c.name, other)
		}
		hooks[c.hookNumber()], known[c.name] = c.name, true
		for _, rule := range c.rules {
			first, ok := rule.exprs[0].(*expr.Payload)
			if c.hook != nil && c.kind == nftables.ChainTypeFilter && (!ok || first.Base != expr.PayloadBaseTransportHeader) {
				t.Errorf("chain %s: %q begins with %+v", c.name, rule.what, rule.exprs[0])
			}
			if to, ok := rule.exprs[len(rule.exprs)-1].(*expr.Verdict); ok && to.Kind == expr.VerdictGoto && !known[to.Chain] {
				t.Errorf("chain %s goes to %s, which is not before it", c.name, to.Chain)
			}
		}
	}
}

// TestComments reads what others leave in a rule's user data, whole or not.
func TestComments(t *testing.T) {
	for want, data := range map[string][]byte{
		"hello": append([]byte{1, 2, 0, 0}, comment("hello")...),
		"":      {0, 200, 'x'},
		"x":     {0, 1, 'x'},
	} {
		if got := commentOf(data); got != want {
			t.Errorf("%v: %q, want %q", data, got, want)
		}
	}
	if diff := cmp.Diff(uint64(0), packetsOf([]byte{1, 2, 3})); diff != "" {
		t.Error(diff)
	}
	value := binary.BigEndian.AppendUint64(nil, 7)
	counter := attribute(1, append(attribute(1, []byte("counter\x00")), attribute(2, attribute(2, value))...))
	if got := packetsOf(counter); got != 7 {
		t.Errorf("%d packets", got)
	}
}
