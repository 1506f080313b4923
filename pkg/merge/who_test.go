package merge

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
)

const (
	blue  identity.Number = 70001
	green identity.Number = 70002
)

var shared = netip.MustParsePrefix("10.0.0.1/32")

// address is a change of the address shared: a pod with an identity, none for "".
func address(pod string, n identity.Number) Update {
	u := Update{Addresses: map[netip.Prefix]*endpoint.Address{shared: nil}}
	if pod != "" {
		u.Addresses[shared] = &endpoint.Address{Pod: pod, Identity: n}
	}
	return u
}

func meaning(n identity.Number, labels identity.Labels) Update {
	u := Update{Identities: map[identity.Number]*identity.Identity{n: nil}}
	if labels != "" {
		u.Identities[n] = &identity.Identity{Number: n, Labels: labels}
	}
	return u
}

func together(updates ...Update) Update {
	var out Update
	for _, u := range updates {
		if u.Addresses != nil {
			out.Addresses = u.Addresses
		}
		if u.Identities != nil {
			if out.Identities == nil {
				out.Identities = map[identity.Number]*identity.Identity{}
			}
			for n, i := range u.Identities {
				out.Identities[n] = i
			}
		}
	}
	return out
}

// have is what the nodes know: the identities, and whose the address is.
func (n *nodes) have() string {
	out := ""
	for _, i := range []identity.Number{blue, green} {
		if n.identities[i] != nil {
			out += fmt.Sprintf("%s ", n.identities[i].Labels)
		}
	}
	if o := n.addresses[shared]; o != nil {
		out += fmt.Sprintf("%s/%s=%d", o.Cluster, o.Pod, o.Identity)
	}
	return out
}

// An address is never known without its identity, in whatever order the two come
// and go, and what it was stays in use meanwhile.
func TestIdentityBeforeAddress(t *testing.T) {
	type step struct {
		u    Update
		want string
	}
	for name, steps := range map[string][]step{
		"address first": {
			{address("a", blue), ""},
			{meaning(blue, "blue"), "blue west/a=70001"},
		},
		"identity gone first": {
			{together(address("a", blue), meaning(blue, "blue")), "blue west/a=70001"},
			{meaning(blue, ""), "blue west/a=70001"},
			{address("", 0), ""},
		},
		"another identity, which comes later": {
			{together(address("a", blue), meaning(blue, "blue")), "blue west/a=70001"},
			{meaning(blue, ""), "blue west/a=70001"},
			{address("a", green), "blue west/a=70001"},
			{meaning(green, "green"), "green west/a=70002"},
		},
		"another identity at once": {
			{together(address("a", blue), meaning(blue, "blue")), "blue west/a=70001"},
			{together(address("b", green), meaning(green, "green"), meaning(blue, "")), "green west/b=70002"},
		},
		"identity back before its address went": {
			{together(address("a", blue), meaning(blue, "blue")), "blue west/a=70001"},
			{meaning(blue, ""), "blue west/a=70001"},
			{meaning(blue, "blue"), "blue west/a=70001"},
			{meaning(blue, "other"), "other west/a=70001"},
			{address("", 0), "other "},
		},
		"gone while it waits": {
			{together(address("a", blue), meaning(blue, "blue")), "blue west/a=70001"},
			{address("b", green), "blue west/a=70001"},
			{address("", 0), "blue "},
			{meaning(green, "green"), "blue green "},
		},
		"reserved": {{address("a", identity.Health), "west/a=4"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, n := New("east"), newNodes(t)
			for i, step := range steps {
				n.Apply(s.Apply("west", step.u))
				if got := n.have(); got != step.want {
					t.Fatalf("step %d: nodes have %q, want %q", i, got, step.want)
				}
			}
			n.Apply(s.Remove("west"))
			if got := n.have(); got != "" {
				t.Errorf("nodes have %q of a cluster that is removed", got)
			}
		})
	}
}

// What the nodes have of one cluster does not stand for what another says.
func TestWaitingAddressChangesHands(t *testing.T) {
	s, n := New("east"), newNodes(t)
	n.Apply(s.Apply("west", together(address("a", blue), meaning(blue, "blue"))))
	n.Apply(s.Apply("north", address("b", green)))
	n.Apply(s.Apply("west", address("", 0)))
	if got := n.have(); got != "blue " {
		t.Errorf("nodes have %q", got)
	}
	n.Apply(s.Apply("north", meaning(green, "green")))
	if got := n.have(); got != "blue green north/b=70002" {
		t.Errorf("nodes have %q", got)
	}
}

// Of clusters that claim one address the first has it, the own one always; the
// next has it when that has gone, in the order in which they came. Those whom it
// concerns hear it.
func TestContestedAddress(t *testing.T) {
	n := newNodes(t)
	e := NewEngine("east", n)
	var heard []string
	for _, c := range []string{"west", "north", "south"} {
		e.Hear(c, func(r Ruling) {
			heard = append(heard, fmt.Sprintf("%s: %s has %s", r.Cluster, r.Holder, r.Prefix.Addr()))
		})
	}
	for i, step := range []struct {
		cluster string
		pod     string // "" removes the claim, "all" the cluster
		owner   string
		heard   []string
	}{
		{"west", "w", "west/w=0", nil},
		{"south", "s", "west/w=0", []string{"south: west has 10.0.0.1"}},
		{"north", "n", "west/w=0", []string{"north: west has 10.0.0.1"}},
		{"south", "s2", "west/w=0", nil}, // keeps its place
		{"west", "w2", "west/w2=0", nil},
		{"east", "e", "east/e=0", []string{"west: east has 10.0.0.1"}},
		{"west", "w", "east/e=0", nil},
		{"east", "", "west/w=0", []string{"west: west has 10.0.0.1"}},
		{"west", "all", "south/s2=0", []string{"south: south has 10.0.0.1"}},
		{"west", "w", "south/s2=0", []string{"west: south has 10.0.0.1"}},
		{"north", "", "south/s2=0", nil},
		{"south", "", "west/w=0", []string{"west: west has 10.0.0.1"}},
		{"west", "", "", nil},
	} {
		heard = nil
		if step.pod == "all" {
			e.Remove(step.cluster)
		} else {
			e.Apply(step.cluster, address(step.pod, 0))
		}
		if got := n.have(); got != step.owner {
			t.Errorf("step %d: the address is %q, want %q", i, got, step.owner)
		}
		if diff := cmp.Diff(step.heard, heard); diff != "" {
			t.Errorf("step %d (-want +heard):\n%s", i, diff)
		}
	}
	e.Hear("west", nil)
	e.Apply("east", address("e", 0))
	e.Apply("west", address("w", 0))
	if len(heard) > 0 {
		t.Errorf("heard %q after the end", heard)
	}
}

// A large cluster goes in pieces, so that others are heard in between, and at no
// time is an address left without its identity.
func TestRemoveInPieces(t *testing.T) {
	n := newNodes(t)
	pieces := 0
	e := NewEngine("east", sinkFunc(func(d Delta) {
		pieces++
		if size := len(d.Addresses) + len(d.Identities) + len(d.Nodes); pieces > 1 && size > 2*removePiece {
			t.Errorf("a piece of %d", size)
		}
		n.Apply(d)
		for prefix, o := range n.addresses {
			if n.identities[o.Identity] == nil {
				t.Fatalf("%s has no identity", prefix)
			}
		}
	}))
	u := Update{Addresses: map[netip.Prefix]*endpoint.Address{}, Identities: map[identity.Number]*identity.Identity{}}
	for i := range 3000 {
		n := blue + identity.Number(i/3)
		u.Identities[n] = &identity.Identity{Number: n}
		u.Addresses[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)] = &endpoint.Address{Identity: n}
	}
	e.Apply("west", u)
	e.Remove("west")
	if len(n.addresses)+len(n.identities) > 0 || pieces < 4000/removePiece {
		t.Errorf("%d addresses and %d identities are left after %d pieces", len(n.addresses), len(n.identities), pieces)
	}
}

type sinkFunc func(Delta)

func (f sinkFunc) Apply(d Delta) { f(d) }
