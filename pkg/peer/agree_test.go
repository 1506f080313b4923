package peer

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

func claimed(class trust.Class, text string, origin trust.Origin, since time.Time) trust.Claim {
	return trust.Claim{Class: class, Range: netip.MustParsePrefix(text), Origin: origin, Since: since}
}

// What a peer said when it joined is agreed from its first listing on; what it names
// elsewhere waits, though nothing was named before, and is not its alone when approved.
func TestAgreedAtJoin(t *testing.T) {
	t.Parallel()
	l, west := newLocal(t), newRemote(t, "west", 2)
	west.claims("10.30.0.1", "far")
	west.claims("10.9.0.1", "inside")
	l.connect(west) // for its certificate
	joined := "agreed:\n  since: 2026-11-22T20:00:00Z\n  podCIDRs: [10.9.0.0/16]\n"
	l.remove("west")
	eventually(t, func() error {
		if n := len(l.Status()); n > 0 {
			return fmt.Errorf("%d peers", n)
		}
		return nil
	})
	l.declare(west, joined)
	l.awaitOwner("10.9.0.1", "west/inside")
	l.awaitRefusal("west", trust.AddressRange)
	since := time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	agreed := claimed(trust.Pods, "10.9.0.0/16", trust.Agreed, since)
	pods := func() (out []trust.Claim) {
		for _, c := range l.Beliefs()["west"].Claims {
			if c.Class == trust.Pods {
				out = append(out, c)
			}
		}
		return out
	}
	if diff := cmp.Diff([]trust.Claim{agreed}, pods(), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		t.Error(diff)
	}
	if l.Beliefs()["west"].Declared {
		t.Error("it can not be approved")
	}
	eventually(t, func() error { // it is judged anew now and then, and does not wait in between
		_, err := l.Approve("west", nil)
		return err
	})
	l.awaitOwner("10.30.0.1", "west/far")
	if got := pods(); len(got) != 2 || got[1].Origin != trust.Approved {
		t.Errorf("claims %v", got)
	}
}

func TestWithJoined(t *testing.T) {
	early, late := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	joined := []trust.Claim{claimed(trust.Pods, "10.2.0.0/16", trust.Agreed, late)}
	for name, tc := range map[string]struct{ kept, joined, want []trust.Claim }{
		"nothing was said": {
			kept: []trust.Claim{claimed(trust.Pods, "10.9.0.0/16", trust.Observed, early)},
			want: []trust.Claim{claimed(trust.Pods, "10.9.0.0/16", trust.Observed, early)},
		},
		"what was observed of other classes stays": {
			kept: []trust.Claim{
				claimed(trust.Pods, "10.9.0.0/16", trust.Observed, early), claimed(trust.Nodes, "192.0.0.0/16", trust.Observed, early),
			},
			joined: joined,
			want:   []trust.Claim{joined[0], claimed(trust.Nodes, "192.0.0.0/16", trust.Observed, early)},
		},
		"what was approved stays, what was agreed before goes": {
			kept: []trust.Claim{
				claimed(trust.Pods, "10.8.0.0/16", trust.Agreed, early), claimed(trust.Pods, "10.9.0.0/16", trust.Approved, early),
			},
			joined: joined,
			want:   []trust.Claim{joined[0], claimed(trust.Pods, "10.9.0.0/16", trust.Approved, early)},
		},
		"the first time counts": {
			kept:   []trust.Claim{claimed(trust.Pods, "10.2.0.0/16", trust.Agreed, early)},
			joined: joined,
			want:   []trust.Claim{claimed(trust.Pods, "10.2.0.0/16", trust.Agreed, early)},
		},
		"who joins anew and says nothing takes back what it said": {
			kept: []trust.Claim{
				claimed(trust.Pods, "10.2.0.0/16", trust.Agreed, early), claimed(trust.Pods, "10.9.0.0/16", trust.Approved, early),
				claimed(trust.Nodes, "192.0.0.0/16", trust.Observed, early),
			},
			joined: []trust.Claim{},
			want:   []trust.Claim{claimed(trust.Pods, "10.9.0.0/16", trust.Approved, early), claimed(trust.Nodes, "192.0.0.0/16", trust.Observed, early)},
		},
		"but not that of a guess": {
			kept:   []trust.Claim{claimed(trust.Pods, "10.2.0.0/16", trust.Approved, early)},
			joined: joined, want: joined,
		},
	} {
		got := withJoined(tc.kept, tc.joined)
		if diff := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if again := withJoined(got, tc.joined); !cmp.Equal(got, again, cmpopts.EquateComparable(netip.Prefix{})) {
			t.Errorf("%s: another time %v", name, again)
		}
	}
}

// A mesh range alone, which flags always say, leaves all else to the peer's first word.
func TestOpenClasses(t *testing.T) {
	of := func(classes ...trust.Class) (kept []trust.Claim) {
		for _, c := range classes {
			kept = append(kept, trust.Claim{Class: c})
		}
		return kept
	}
	for _, tc := range []struct{ kept, want []trust.Class }{
		{nil, trust.Classes()},
		{[]trust.Class{trust.Mesh}, []trust.Class{trust.Pods, trust.Nodes, trust.External}},
		{[]trust.Class{trust.Pods}, []trust.Class{trust.Mesh, trust.Nodes}},
		{[]trust.Class{trust.Nodes}, []trust.Class{trust.Pods, trust.Mesh}},
		{[]trust.Class{trust.External}, []trust.Class{trust.Pods, trust.Mesh, trust.Nodes}},
	} {
		if diff := cmp.Diff(tc.want, openClasses(of(tc.kept...))); diff != "" {
			t.Errorf("%v: %s", tc.kept, diff)
		}
	}
}

func TestAgreedInFile(t *testing.T) {
	file, err := ParseFile([]byte(goodFile+"agreed:\n  since: 2026-11-22T20:00:00Z\n  podCIDRs: [10.2.0.0/16]\n  meshCIDR: [10.200.2.0/24]\n"), "/peers")
	if err != nil {
		t.Fatal(err)
	}
	since := time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC)
	want := []trust.Claim{claimed(trust.Pods, "10.2.0.0/16", trust.Agreed, since), claimed(trust.Mesh, "10.200.2.0/24", trust.Agreed, since)}
	if diff := cmp.Diff(want, file.Agreed, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || file.Claims != nil {
		t.Errorf("%s, declared %v", diff, file.Claims)
	}
	for text, joined := range map[string]bool{"": false, "agreed:\n  since: 2026-11-22T20:00:00Z\n": true} {
		file, err := ParseFile([]byte(goodFile+text), "/peers")
		if err != nil || len(file.Agreed) > 0 || (file.Agreed != nil) != joined {
			t.Errorf("%q: agreed %#v, %v", text, file.Agreed, err)
		}
	}
	if _, err := ParseFile([]byte(goodFile+"agreed: {podCIDRs: [x]}\n"), "/peers"); err == nil {
		t.Error("a range that is none is taken")
	}
}
