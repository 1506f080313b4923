package trust_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// What a peer says of itself takes nothing from one that had it in use before, and that
// is seen; what a file declares does, and so does what was said first.
func TestUsedBefore(t *testing.T) {
	t.Parallel()
	at := func(origin trust.Origin, class trust.Class, text string, second int64) trust.Claim {
		return trust.Claim{Class: class, Range: prefix(text), Origin: origin, Since: time.Unix(second, 0)}
	}
	for name, tc := range map[string]struct {
		used, said trust.Claim
		stays      bool
	}{
		"pods observed":         {at(trust.Observed, trust.Pods, "10.2.0.0/16", 1), at(trust.Agreed, trust.Pods, "10.2.0.0/16", 2), true},
		"pods approved":         {at(trust.Approved, trust.Pods, "10.2.0.0/24", 1), at(trust.Agreed, trust.Pods, "10.0.0.0/8", 2), true},
		"pods in a mesh range":  {at(trust.Observed, trust.Pods, "10.2.0.0/16", 1), at(trust.Agreed, trust.Mesh, "10.2.0.0/17", 2), true},
		"said first":            {at(trust.Observed, trust.Pods, "10.2.0.0/16", 2), at(trust.Agreed, trust.Pods, "10.2.0.0/16", 1), false},
		"said at the same time": {at(trust.Observed, trust.Pods, "10.2.0.0/16", 1), at(trust.Agreed, trust.Pods, "10.2.0.0/16", 1), false},
		"declared later":        {at(trust.Observed, trust.Pods, "10.2.0.0/16", 1), at(trust.Declared, trust.Pods, "10.2.0.0/16", 2), false},
	} {
		b := trust.NewBook(nil, nil)
		b.Claims("west", []trust.Claim{tc.used}, nil, func() {})
		west := judge(b, "west", 2)
		p := prefix("10.2.0.7/32")
		if err := west.Address(addressAt(p)); err != nil {
			t.Fatalf("%s: before: %v", name, err)
		}
		b.Claims("evil", []trust.Claim{tc.said}, nil, func() {})
		west.Anew()
		if err := west.Address(addressAt(p)); (err == nil) != tc.stays {
			t.Errorf("%s: west's own: %v", name, err)
		}
		if by := b.Lost("evil")[tc.said]; (by == "west") != tc.stays {
			t.Errorf("%s: evil's claim is lost to %q", name, by)
		}
		b.Remove("west")
		if lost := b.Lost("evil"); len(lost) > 0 {
			t.Errorf("%s: lost to who is gone: %v", name, lost)
		}
	}
	// A peer's nodes stay, as wide as the guess around them is.
	b := trust.NewBook(nil, nil)
	b.Claims("west", []trust.Claim{at(trust.Observed, trust.Nodes, "192.168.0.0/16", 1)}, nil, func() {})
	said := at(trust.Agreed, trust.Pods, "192.168.0.0/16", 2)
	b.Claims("evil", []trust.Claim{said}, nil, func() {})
	if err := judge(b, "west", 2).Node(nodeOf("w1", "192.168.0.2")); err != nil {
		t.Errorf("west's node: %v", err)
	}
	// Its own guesses are in nobody's way.
	b.Claims("north", []trust.Claim{at(trust.Observed, trust.Pods, "10.9.0.0/16", 1), at(trust.Agreed, trust.Pods, "10.9.0.0/16", 2)}, nil, func() {})
	if lost := b.Lost("north"); len(lost) > 0 || b.Lost("evil")[said] != "west" {
		t.Errorf("north lost %v, evil %v", lost, b.Lost("evil"))
	}
}

func addressAt(p netip.Prefix) *endpoint.Address {
	return &endpoint.Address{Prefix: p, Identity: first}
}
