package trust

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// Class is what the addresses of a claim are for.
type Class string

// The classes. Pods' and mesh ranges are one peer's alone. Several may claim one
// range of nodes, whose addresses exclude each other one by one, and of external
// backends, which all may use.
const (
	Pods     Class = "pods"
	Mesh     Class = "mesh"
	Nodes    Class = "nodes"
	External Class = "external" // backends that are no pods
)

// Classes returns all of them, as people are shown them.
func Classes() []Class { return []Class{Pods, Mesh, Nodes, External} }

// rank is the place of a class in the order; -1: there is no such class.
func rank(c Class) int {
	switch c {
	case Pods:
		return 0
	case Mesh:
		return 1
	case Nodes:
		return 2
	case External:
		return 3
	}
	return -1
}

// Origin is how a claim came to be agreed.
type Origin string

// The origins. What is declared or agreed keeps other peers out; the others, which are
// as wide as a guess, let their peer in alone.
const (
	Declared Origin = "declared" // by the peer's file
	Agreed   Origin = "agreed"   // when the peer joined
	Approved Origin = "approved" // by a person
	Observed Origin = "observed" // it was there when the peer was first read
)

// Claim is a range that a peer may use.
type Claim struct {
	Class  Class        `json:"class"`
	Range  netip.Prefix `json:"range"`
	Origin Origin       `json:"origin"`
	Since  time.Time    `json:"since"`
}

// exclusive reports whether the claim keeps other peers out of its range.
func (c Claim) exclusive() bool {
	return (c.Class == Pods || c.Class == Mesh) && (c.Origin == Declared || c.Origin == Agreed)
}

// Contends reports whether the claims of two clusters can not both be held to: they
// have addresses in common, and those of pods or of a mesh range are one cluster's alone.
func (c Claim) Contends(d Claim) bool {
	alone := func(c Class) bool { return c == Pods || c == Mesh }
	return (alone(c.Class) || alone(d.Class)) && c.Range.Overlaps(d.Range)
}

// CompareClaims orders claims by class and range.
func CompareClaims(a, b Claim) int {
	return cmp.Or(cmp.Compare(rank(a.Class), rank(b.Class)), route.Compare(a.Range, b.Range))
}

// Validate returns what is wrong with a claim.
func (c Claim) Validate() error {
	if rank(c.Class) < 0 {
		return fmt.Errorf("claim to %s: class %q is not known", c.Range, c.Class)
	}
	return route.ValidatePrefix(c.Range)
}

// The part around an address that is taken as agreed with it where a peer's file
// claims nothing: so a node that is added next to the others needs no approval.
const (
	observedBits4 = 16
	observedBits6 = 48
)

// maxObserved is how many ranges of a class are observed, or wait for approval.
const maxObserved = 1024

// around returns the range that is observed with p.
func around(p netip.Prefix) netip.Prefix {
	bits := observedBits4
	if p.Addr().Is6() {
		bits = observedBits6
	}
	return netip.PrefixFrom(p.Addr(), min(bits, p.Bits())).Masked()
}
