package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// claims are made of "class range" each.
func claims(t *testing.T, texts ...string) []trust.Claim {
	t.Helper()
	var sent []*joinpb.Claim
	for _, text := range texts {
		class, r, _ := strings.Cut(text, " ")
		sent = append(sent, &joinpb.Claim{Class: class, Range: r})
	}
	out, err := parseClaims(sent)
	check(t, err)
	return out
}

// agreedWith returns the claims of a peer that are in effect, "class range origin" each.
func (r *replica) agreedWith(name string) (out []string) {
	for _, c := range r.sessions.Beliefs()[name].Claims {
		if c.Since.IsZero() {
			r.site.t.Errorf("%v is agreed since never", c)
		}
		out = append(out, fmt.Sprintf("%s %s %s", c.Class, c.Range, c.Origin))
	}
	return out
}

// What each side claims is shown, agreed, and kept with its time on both; who says
// nothing is believed as before.
func TestClaimsAreAgreed(t *testing.T) {
	t.Parallel()
	east := newClaimant(t, "east", 1, claims(t, "pods 10.1.0.0/16", "nodes 192.0.2.0/24"), "10.1.3.0/24", "10.50.0.0/24")
	west := newClaimant(t, "west", 2, claims(t, "pods 10.2.0.0/16", "mesh 10.200.2.0/24", "nodes 192.0.2.0/24", "external 198.51.100.0/24"))
	said, err := east.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{})})
	check(t, err)
	all := strings.Join(said, "\n")
	for _, want := range []string{
		"west claims pods 10.2.0.0/16, mesh 10.200.2.0/24, nodes 192.0.2.0/24, external 198.51.100.0/24, and nothing else",
		"east claims pods 10.1.0.0/16, nodes 192.0.2.0/24; of mesh what it names first is agreed",
		"nodes of east have ranges outside of what it claims: 10.50.0.0/24",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	east.awaitState("west", peer.Synced, "")
	west.awaitState("east", peer.Synced, "")
	want := []string{"pods 10.2.0.0/16 agreed", "mesh 10.200.2.0/24 agreed", "nodes 192.0.2.0/24 agreed", "external 198.51.100.0/24 agreed"}
	if diff := cmp.Diff(want, east.agreedWith("west")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"pods 10.1.0.0/16 agreed", "nodes 192.0.2.0/24 agreed"}, west.agreedWith("east")); diff != "" {
		t.Error(diff)
	}
	if since := east.book.member("west").Reads.Since; !east.sessions.Beliefs()["west"].Claims[0].Since.Equal(since) {
		t.Errorf("agreed at another time than %s", since)
	}
	eventually(t, func() error {
		text, _, err := east.site.etcd.Get(east.ctx(), "causeway/claims/v1/west")
		var kept struct {
			Claims []trust.Claim `json:"claims"`
		}
		if err == nil && json.Unmarshal(text, &kept) == nil && len(kept.Claims) == 4 && kept.Claims[0].Origin == trust.Agreed {
			return nil
		}
		return fmt.Errorf("kept: %s, %w", text, err)
	})
}

// A claim to what is another cluster's is refused by both sides before anything changes.
func TestClaimsAreRefused(t *testing.T) {
	t.Parallel()
	east := newClaimant(t, "east", 1, claims(t, "pods 10.1.0.0/16", "nodes 192.0.2.0/24"))
	west := newClaimant(t, "west", 2, claims(t, "pods 10.2.0.0/16"))
	_, err := west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	check(t, err)
	east.awaitState("west", peer.Synced, "")
	north := newClaimant(t, "north", 3, claims(t, "pods 10.0.0.0/8", "nodes 10.1.9.0/24", "mesh 192.0.2.128/25"))
	_, err = north.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	for _, want := range []string{
		"10.1.0.0/16 (pods) of east overlaps 10.0.0.0/8 (pods) of north", "10.1.0.0/16 (pods) of east overlaps 10.1.9.0/24 (nodes) of north",
		"192.0.2.0/24 (nodes) of east overlaps 192.0.2.128/25 (mesh) of north", "10.0.0.0/8 (pods) of north overlaps 10.96.0.0/12, which is reserved in east",
		"10.0.0.0/8 (pods) of north is taken: another cluster has it, or a part of it; the log of east says which",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
	if err != nil && strings.Contains(err.Error(), "west") {
		t.Errorf("north hears of west: %v", err)
	}
	at := north.facts()
	if home := said(east.unfit(at)); !strings.Contains(home, "10.0.0.0/8 (pods) of north overlaps 10.2.0.0/16 (pods), which east has agreed with west") {
		t.Errorf("at home: %s", home)
	}
	if east.book.member("north").Reads != nil || len(east.agreedWith("north")) > 0 {
		t.Error("north is a peer")
	}
	// A peer that joins anew does not stand in its own way, and its new claims count.
	again := east.invite(&joinpb.InviteRequest{Peer: "west"})
	west.stop()
	west.site.claims = claims(t, "pods 10.2.0.0/16", "pods 10.3.0.0/16")
	west.start()
	before := east.sessions.Beliefs()["west"].Claims[0].Since
	_, err = west.join(&joinpb.AcceptRequest{Invitation: again})
	check(t, err)
	eventually(t, func() error {
		if diff := cmp.Diff([]string{"pods 10.2.0.0/16 agreed", "pods 10.3.0.0/16 agreed"}, east.agreedWith("west")); diff != "" {
			return fmt.Errorf("%s", diff)
		}
		return nil
	})
	if now := east.sessions.Beliefs()["west"].Claims[0].Since; !now.Equal(before) {
		t.Errorf("what was agreed at %s is so since %s", before, now)
	}
}

func TestParseClaims(t *testing.T) {
	for _, tc := range []struct{ class, text, want string }{
		{"pods", "10.1.0.0/16", ""},
		{"pod", "10.1.0.0/16", "is not known"},
		{"pods", "10.1.0.1/16", "bits are set"},
		{"nodes", "0.0.0.0/0", "shorter than"},
		{"mesh", "x", "is not a range"},
		{strings.Repeat("a", 17), "10.1.0.0/16", "no class"},
		{"external", "::ffff:10.1.0.0/112", "no plain"},
	} {
		_, err := parseClaims([]*joinpb.Claim{{Class: tc.class, Range: tc.text}})
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %s: %v, want %q", tc.class, tc.text, err, tc.want)
		}
	}
	if _, err := parseClaims(make([]*joinpb.Claim, maxClaims+1)); err == nil {
		t.Error("too many are taken")
	}
	if got := claims(t, "nodes 10.2.0.0/16", "pods 10.1.0.0/16", "nodes 10.2.0.0/16"); len(got) != 2 || got[0].Class != trust.Pods {
		t.Errorf("got %v", got)
	}
}

func TestClaimsForPeople(t *testing.T) {
	many := make([]string, 0, shownRanges+2)
	for i := range cap(many) {
		many = append(many, fmt.Sprintf("nodes 10.%d.0.0/16", i))
	}
	for want, texts := range map[string][]string{
		"west claims no ranges: what it names first is agreed":                                nil,
		"west claims pods 10.1.0.0/16; of mesh and nodes what it names first is agreed":       {"pods 10.1.0.0/16"},
		"west claims pods 10.1.0.0/16, mesh 10.9.0.0/24, nodes 10.2.0.0/16, and nothing else": {"pods 10.1.0.0/16", "mesh 10.9.0.0/24", "nodes 10.2.0.0/16"},
	} {
		if got := heldTo("west", claims(t, texts...)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := claimsText(claims(t, many...)); !strings.HasSuffix(got, "10.7.0.0/16 2 more") {
		t.Errorf("got %q", got)
	}
}

// Who joins anew without claims is held to none, as the join says.
func TestClaimsAreTakenBack(t *testing.T) {
	t.Parallel()
	east := newClaimant(t, "east", 1, claims(t, "pods 10.1.0.0/16"))
	west := newClaimant(t, "west", 2, claims(t, "pods 10.2.0.0/16"))
	_, err := west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	check(t, err)
	agreed := func(want ...string) {
		t.Helper()
		eventually(t, func() error {
			if diff := cmp.Diff(want, east.agreedWith("west")); diff != "" {
				return fmt.Errorf("agreed: %s", diff)
			}
			return nil
		})
	}
	agreed("pods 10.2.0.0/16 agreed")
	again := east.invite(&joinpb.InviteRequest{Peer: "west"})
	west.stop()
	west.site.claims = nil
	west.start()
	said, err := west.join(&joinpb.AcceptRequest{Invitation: again})
	check(t, err)
	if all := strings.Join(said, "\n"); !strings.Contains(all, "west claims no ranges") {
		t.Errorf("said %s", all)
	}
	agreed()
}

// Who joins gets no range that another peer uses, however that was agreed.
func TestUsedRangesStay(t *testing.T) {
	used := map[string]peer.Belief{"west": {Claims: []trust.Claim{
		{Class: trust.Pods, Range: netip.MustParsePrefix("10.2.0.0/16"), Origin: trust.Observed},
		{Class: trust.Pods, Range: netip.MustParsePrefix("10.4.0.0/16"), Origin: trust.Approved},
		{Class: trust.Nodes, Range: netip.MustParsePrefix("192.168.0.0/16"), Origin: trust.Observed},
	}}}
	m := &Manager{
		cfg: Config{
			Cluster: cluster.Config{Name: "east", ID: 1, Size: 255}, Version: "v1.0.0",
			Ranges: func() []netip.Prefix { return nil }, Addresses: func() []string { return nil },
			Peers: func() []peer.Status { return nil }, Beliefs: func() map[string]peer.Belief { return used },
		},
		book: newBook(nil, t.TempDir(), slog.New(slog.DiscardHandler), nil, nil),
	}
	for _, c := range []struct {
		claim string
		taken bool
	}{
		{"pods 10.2.0.0/16", true},
		{"pods 10.4.128.0/17", true},
		{"mesh 10.0.0.0/8", true},
		{"pods 192.168.7.0/24", true},
		{"nodes 10.2.0.0/16", true},
		{"nodes 192.168.0.0/16", false}, // two clusters may be in one network
		{"pods 10.3.0.0/16", false},
	} {
		evil := m.facts()
		evil.Name, evil.ID, evil.Claims = "evil", 3, claims(t, c.claim)
		wrong := said(m.unfit(evil))
		if got := strings.Contains(wrong, "which its peer west uses"); got != c.taken || (wrong != "") != c.taken {
			t.Errorf("%s: refused with %q, want refused %v", c.claim, wrong, c.taken)
		}
		evil.Name = "west" // its own
		if wrong := m.unclaimable(evil, m.book.all()); len(wrong) > 0 {
			t.Errorf("%s: west is refused what it has: %v", c.claim, wrong)
		}
	}
}

// Two clusters that join at once with one range do not both get it.
func TestOneOfTwoGetsARange(t *testing.T) {
	east := newClaimant(t, "east", 1, claims(t, "pods 10.1.0.0/16"))
	west := newClaimant(t, "west", 2, claims(t, "pods 10.2.0.0/16"))
	north := newClaimant(t, "north", 3, claims(t, "pods 10.2.0.0/16"))
	passes := []string{east.invite(&joinpb.InviteRequest{}), east.invite(&joinpb.InviteRequest{})}
	ended := make(chan error, 2)
	go func() { _, err := west.join(&joinpb.AcceptRequest{Invitation: passes[0]}); ended <- err }()
	go func() { _, err := north.join(&joinpb.AcceptRequest{Invitation: passes[1]}); ended <- err }()
	first, second := <-ended, <-ended
	if (first == nil) == (second == nil) {
		t.Fatalf("errors %v and %v, want one", first, second)
	}
	if refused := errors.Join(first, second).Error(); !strings.Contains(refused, "10.2.0.0/16 (pods)") {
		t.Errorf("refused with %q", refused)
	}
	if w, n := east.book.member("west").Reads, east.book.member("north").Reads; (w == nil) == (n == nil) {
		t.Errorf("peers west %v and north %v, want one", w, n)
	}
}

// The id of a cluster that only reads this one is taken.
func TestReaderKeepsItsID(t *testing.T) {
	east := newCluster(t, "east", 1, "10.1.0.0/16")
	_, err := east.membership.Issue(east.ctx(), &joinpb.IssueRequest{Name: "reader", Id: 7})
	check(t, err)
	west := newCluster(t, "west", 7, "10.2.0.0/16")
	_, err = west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	if err == nil || !strings.Contains(err.Error(), "west has the id 7, which another cluster has that east knows") {
		t.Errorf("joined with the reader's id: %v", err)
	}
	if home := said(east.unfit(west.facts())); !strings.Contains(home, "as has reader, which reads east") {
		t.Errorf("at home: %s", home)
	}
}

// An invitation may bound what the joining cluster claims, which has to say all of it then.
func TestAllowedClaims(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	west := newClaimant(t, "west", 2, claims(t, "pods 10.2.0.0/16", "nodes 192.0.2.0/25", "mesh 10.200.2.0/24"))
	bounded := func(allow ...string) *joinpb.AcceptRequest {
		t.Helper()
		answer, err := east.membership.Invite(east.ctx(), &joinpb.InviteRequest{Allow: allow})
		check(t, err)
		if len(answer.Allow) == 0 {
			t.Error("it is not said what is allowed")
		}
		return &joinpb.AcceptRequest{Invitation: answer.Invitation}
	}
	_, err := west.join(bounded("10.2.0.0/17", "192.0.2.0/24", "10.200.0.0/16"))
	if err == nil || !strings.Contains(err.Error(), "10.2.0.0/16 (pods) of west is more than the invitation allows, which is 10.2.0.0/17 10.200.0.0/16 192.0.2.0/24") ||
		strings.Contains(err.Error(), "(nodes)") || strings.Contains(err.Error(), "(mesh)") {
		t.Errorf("more pods: %v", err)
	}
	silent := newClaimant(t, "silent", 3, claims(t, "pods 10.3.0.0/16"))
	if _, err := silent.join(bounded("10.0.0.0/8")); err == nil || !strings.Contains(err.Error(), "silent does not say what it claims of mesh and nodes") {
		t.Errorf("no word on mesh and nodes: %v", err)
	}
	if east.book.member("west").Reads != nil || east.book.member("silent").Reads != nil {
		t.Error("one of them is a peer")
	}
	// Two halves are one range.
	_, err = west.join(bounded("10.2.0.0/17", "10.2.128.0/17", "192.0.2.0/24", "10.200.0.0/16"))
	check(t, err)
	described, err := east.membership.Describe(east.ctx(), &joinpb.DescribeRequest{})
	check(t, err)
	if last := described.Invitations[0]; len(last.Allow) != 3 || last.Allow[0] != "10.2.0.0/16" {
		t.Errorf("listed: %v", last)
	}
	for _, text := range []string{"10.2.0.1/16", "x", "::ffff:10.1.0.0/112"} {
		if _, err := east.membership.Invite(east.ctx(), &joinpb.InviteRequest{Allow: []string{text}}); err == nil || !strings.Contains(err.Error(), "is not a range") {
			t.Errorf("%s is allowed: %v", text, err)
		}
	}
}
