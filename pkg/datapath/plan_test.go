package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/causeway-mesh/causeway/bpf"
)

// model is what the maps would hold of one service, and a reader of it.
type model struct {
	t        *testing.T
	slots    map[bpf.SocketSlotKey]uint32
	backends map[uint32]target
	value    []int // slots of each group, as readers see them
	seldom   bool  // look at some moments only: there are many slots
	moments  int
}

// check follows every slot that a reader may draw.
func (m *model) check() {
	m.t.Helper()
	if m.moments++; m.seldom && m.moments%16 != 0 {
		return
	}
	for i, count := range m.value {
		for j := range count {
			if _, ok := m.backends[m.slots[slotKey(1, i, j)]]; !ok {
				m.t.Fatalf("slot %d of group %d leads nowhere", j, i)
			}
		}
	}
}

// run puts a plan in effect step by step, with a look at each.
func (m *model) run(p *plan) {
	for _, b := range p.created {
		m.backends[b.id] = b.target
		m.check()
	}
	for _, w := range append(slices.Clone(p.appended), p.replaced...) {
		m.slots[w.key] = w.backend.id
		m.check()
	}
	m.value = nil
	for _, g := range p.groups {
		m.value = append(m.value, len(g.slots))
	}
	m.check()
	for _, k := range p.droppedSlots {
		delete(m.slots, k)
	}
	for _, id := range p.droppedBackends {
		delete(m.backends, id)
	}
	m.check()
}

// got returns what a reader can draw, by group, sorted.
func (m *model) got() [][]string {
	var all [][]string
	for i, count := range m.value {
		var g []string
		for j := range count {
			g = append(g, m.backends[m.slots[slotKey(1, i, j)]].addrPort().String())
		}
		slices.Sort(g)
		all = append(all, g)
	}
	return all
}

// naive says what must be drawn: each backend once, in the first group that has it.
func naive(wanted []Group) [][]string {
	for len(wanted) > 0 && wanted[len(wanted)-1].empty() {
		wanted = wanted[:len(wanted)-1]
	}
	var all [][]string
	seen := map[string]bool{}
	for _, g := range wanted {
		var out []string
		for b := range g.all() {
			if !seen[b.String()] {
				seen[b.String()] = true
				out = append(out, b.String())
			}
		}
		slices.Sort(out)
		all = append(all, out)
	}
	return all
}

func randomGroups(random *rand.Rand) []Group {
	groups := make([]Group, random.IntN(4))
	for i := range groups {
		groups[i].Tier = uint8(random.IntN(2))
		groups[i].Weight = uint16(random.IntN(3))
		for range random.IntN(8) {
			groups[i].Backends = append(groups[i].Backends, addrPort(random.IntN(16)))
		}
	}
	return groups
}

func addrPort(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}), 80)
}

func TestPlanAgainstNaiveModel(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		m := &model{t: t, slots: map[bpf.SocketSlotKey]uint32{}, backends: map[uint32]target{}}
		e := &entry{id: 1}
		ids := uint32(0)
		newID := func() (uint32, error) { ids++; return ids, nil }
		for step := range 40 {
			wanted := randomGroups(random)
			p, err := newPlan(e, wanted, newID)
			if err != nil {
				t.Fatal(err)
			}
			m.run(p)
			e.groups = p.groups
			if diff := cmp.Diff(naive(wanted), m.got(), cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("seed %d, step %d: %s", seed, step, diff)
			}
			left := 0
			for _, g := range m.got() {
				left += len(g)
			}
			if len(m.slots) != left || len(m.backends) != left {
				t.Fatalf("seed %d, step %d: %d backends in use, %d slots and %d backends are kept", seed, step, left, len(m.slots), len(m.backends))
			}
			again, err := newPlan(e, wanted, newID)
			if err != nil || again.changed {
				t.Fatalf("seed %d, step %d: the same again changes something: %+v, %v", seed, step, again, err)
			}
		}
	}
}

// The writes for one change of a large service are few, whatever its size.
func TestPlanIsSmall(t *testing.T) {
	const n = 10_000
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = addrPort(i)
	}
	e := &entry{id: 1}
	ids := uint32(0)
	newID := func() (uint32, error) { ids++; return ids, nil }
	plan := func(backends []netip.AddrPort) *plan {
		p, err := newPlan(e, []Group{{Backends: backends}}, newID)
		if err != nil {
			t.Fatal(err)
		}
		e.groups = p.groups
		return p
	}
	plan(all)
	shuffled := slices.Clone(all)
	rand.Shuffle(n, func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if p := plan(shuffled); p.changed {
		t.Error("another order changes something")
	}
	p := plan(slices.Delete(slices.Clone(all), 17, 18))
	if len(p.created)+len(p.appended) != 0 || len(p.replaced) != 1 || len(p.droppedSlots) != 1 || len(p.droppedBackends) != 1 {
		t.Errorf("one removed: %+v", p)
	}
	p = plan(all)
	if len(p.created) != 1 || len(p.appended) != 1 || len(p.replaced)+len(p.droppedSlots)+len(p.droppedBackends) != 0 {
		t.Errorf("one added: %+v", p)
	}
	swapped := append([]netip.AddrPort{addrPort(n)}, all[1:]...)
	p = plan(swapped)
	if len(p.created) != 1 || len(p.replaced) != 1 || len(p.droppedBackends) != 1 || len(p.appended)+len(p.droppedSlots) != 0 {
		t.Errorf("one exchanged: %+v", p)
	}
}

// A process may die between filling a hole and lowering the count.
func TestPlanOfTwiceTheSameBackend(t *testing.T) {
	a, b := backend{targetOf(addrPort(1)), 7}, backend{targetOf(addrPort(2)), 8}
	e := &entry{id: 1, groups: []group{{slots: []backend{a, b, a}}}}
	p, err := newPlan(e, []Group{{Backends: []netip.AddrPort{addrPort(1), addrPort(2)}}}, func() (uint32, error) {
		return 0, errors.New("no id is needed")
	})
	if err != nil {
		t.Fatal(err)
	}
	if !p.changed || len(p.droppedSlots) != 1 || len(p.droppedBackends) != 0 || len(p.replaced) != 0 {
		t.Errorf("got %+v", p)
	}
}

func TestPlanWithoutIDs(t *testing.T) {
	broken := errors.New("none left")
	e := &entry{id: 1}
	if _, err := newPlan(e, []Group{{Backends: []netip.AddrPort{addrPort(1)}}}, func() (uint32, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

// Whatever single byte is wrong, and whatever two values are mixed, the seal shows it.
func TestSeal(t *testing.T) {
	key := encodeKey(frontend("10.96.0.1:80"))
	e := &entry{id: 1, generation: 1, groups: []group{{slots: []backend{
		{targetOf(addrPort(1)), 1}, {targetOf(addrPort(2)), 2},
	}}}}
	before := encodeService(key, e)
	e.generation++
	e.groups[0].slots[1] = backend{targetOf(addrPort(3)), 3}
	after := encodeService(key, e)
	bytesOf := func(v bpf.SocketService) []byte {
		b, err := binary.Append(nil, binary.NativeEndian, v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := func(b []byte, k bpf.SocketServiceKey) bool {
		var v bpf.SocketService
		if _, err := binary.Decode(b, binary.NativeEndian, &v); err != nil {
			t.Fatal(err)
		}
		return v.Seal == sealOf(&v, sealServiceKey(&k))
	}
	old, next := bytesOf(before), bytesOf(after)
	if !good(old, key) || !good(next, key) {
		t.Fatal("a whole value has a wrong seal")
	}
	if good(old, encodeKey(frontend("10.96.0.1:81"))) {
		t.Error("the value of another key is taken")
	}
	for i := range old {
		broken := slices.Clone(old)
		broken[i] ^= 1
		if good(broken, key) {
			t.Errorf("byte %d does not matter", i)
		}
	}
	for i := range old {
		for _, mixed := range [][]byte{
			slices.Concat(old[:i], next[i:]), slices.Concat(next[:i], old[i:]),
		} {
			if good(mixed, key) && !slices.Equal(mixed, old) && !slices.Equal(mixed, next) {
				t.Errorf("a mixture at byte %d is taken", i)
			}
		}
	}
}

func TestValidate(t *testing.T) {
	d := &Datapath{} // a refused service reaches no map
	b4, b6 := addrPort(1), netip.MustParseAddrPort("[fd00::1]:80")
	for name, s := range map[string]Service{
		"no address":       {Frontend: Frontend{Protocol: TCP}},
		"no port":          one("10.96.0.1:0", b4),
		"sctp":             {Frontend: Frontend{Addr: netip.MustParseAddrPort("10.96.0.1:53"), Protocol: 132}},
		"bad terminating":  {Frontend: frontend("10.96.0.1:80"), Terminating: []netip.AddrPort{b6}},
		"bad part":         {Frontend: frontend("10.96.0.1:80"), Groups: []Group{{Parts: [][]netip.AddrPort{{b6}}}}},
		"half a second":    {Frontend: frontend("10.96.0.1:80"), Session: time.Second / 2},
		"past session":     {Frontend: frontend("10.96.0.1:80"), Session: -time.Second},
		"loopback":         one("127.0.0.1:80", b4),
		"mapped loopback":  one("[::ffff:127.0.0.1]:80", b4),
		"unspecified":      one("0.0.0.0:80", b4),
		"multicast":        one("[ff02::1]:80", b6),
		"link-local":       one("169.254.169.254:80", b4),
		"other family":     one("10.96.0.1:80", b6),
		"other family v6":  one("[fd00::96]:80", b4),
		"backend port 0":   one("10.96.0.1:80", netip.MustParseAddrPort("10.1.0.1:0")),
		"loopback backend": one("10.96.0.1:80", netip.MustParseAddrPort("127.0.0.1:80")),
		"no backend":       one("10.96.0.1:80", netip.AddrPort{}),
		"nine groups":      {Frontend: frontend("10.96.0.1:80"), Groups: make([]Group, 9)},
	} {
		t.Run(name, func(t *testing.T) {
			if err := d.Update(s); !errors.Is(err, ErrService) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRanked(t *testing.T) {
	same := []Group{{Tier: maxTier}, {Tier: 0}}
	if got := ranked(same); &got[0] != &same[0] {
		t.Errorf("got %+v", got)
	}
	high := []Group{{Tier: 255, Weight: 7}, {Tier: 3}, {Tier: 99}, {Tier: 3}}
	want := []Group{{Tier: 2, Weight: 7}, {Tier: 0}, {Tier: 1}, {Tier: 0}}
	if diff := cmp.Diff(want, ranked(high)); diff != "" || high[0].Tier != 255 {
		t.Error(diff)
	}
}

func BenchmarkPlanOneChangeOf10000(b *testing.B) {
	const n = 10_000
	all := make([]netip.AddrPort, n+1)
	for i := range all {
		all[i] = addrPort(i)
	}
	e := &entry{id: 1}
	ids := uint32(0)
	newID := func() (uint32, error) { ids++; return ids, nil }
	i := 0
	for b.Loop() {
		p, err := newPlan(e, []Group{{Backends: all[i%2 : n+i%2]}}, newID)
		if err != nil {
			b.Fatal(err)
		}
		e.groups = p.groups
		i++
	}
}

func ExampleFrontend_String() {
	fmt.Println(Frontend{Addr: netip.MustParseAddrPort("10.96.0.1:80"), Protocol: TCP})
	// Output: 10.96.0.1:80/tcp
}
