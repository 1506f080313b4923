package clusterpeer

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/renewal"
)

// TestStatusOf checks what each state of a peer is as conditions.
func TestStatusOf(t *testing.T) {
	t.Parallel()
	m := &Manager{cfg: Config{Dir: "/data/clusterpeers/", Files: "/data/peers"}}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	claim := func(text string) trust.Claim {
		return trust.Claim{Class: trust.Pods, Range: netip.MustParsePrefix(text)}
	}
	with := func(change func(*peer.Status)) *peer.Status {
		p := &peer.Status{
			Name: "west", ID: 2, State: peer.Synced, File: "/data/clusterpeers/west", Certificate: renewal.Standing{Ends: now.Add(49 * time.Hour)},
			Refused: map[string]int{"identity": 2, "quota": 1, "malformed": 0},
		}
		change(p)
		return p
	}
	same := func(*peer.Status) {}
	secret := kube.ClusterPeerSpec{SecretRef: &kube.ClusterPeerSecret{Name: "west"}}
	for name, test := range map[string]struct {
		object object
		peer   *peer.Status
		belief peer.Belief
		origin string
		want   []string // status and reason of Accepted, Ready, ClaimsAgreed, CertificateValid
		says   string   // in one of the messages
	}{
		"all is well":   {peer: with(same), origin: "ClusterPeer", want: []string{"True Accepted", "True Synced", "True Agreed", "True Valid"}, says: "until 2026-01-04T04:04:05Z"},
		"not begun":     {object: object{ClusterPeer: kube.ClusterPeer{Spec: secret}}, want: []string{"True Accepted", "False NotRead", "Unknown NotRead", "Unknown NotRead"}},
		"not joined":    {want: []string{"True Accepted", "False NotJoined", "Unknown NotRead", "Unknown NotRead"}, says: "has joined"},
		"spec is wrong": {object: object{refusal: &refusal{reasonSecretMissing, "no Secret"}}, peer: with(same), origin: "ClusterPeer", want: []string{"False SecretMissing", "True Synced", "True Agreed", "True Valid"}, says: "stays in force"},
		"joined": {
			peer: with(func(p *peer.Status) { p.File, p.Bounds = "/data/joined/west", "/data/clusterpeers/west" }), origin: "joined",
			want: []string{"True Accepted", "True Synced", "True Agreed", "True Valid"},
		},
		"a file counts": {
			peer: with(func(p *peer.Status) { p.File = "/data/peers/west" }), origin: "file",
			want: []string{"False DeclaredElsewhere", "True Synced", "True Agreed", "True Valid"}, says: "/data/peers/west",
		},
		"away": {
			peer: with(func(p *peer.Status) { p.State, p.Reason = peer.Disconnected, "no answer" }), origin: "ClusterPeer",
			want: []string{"True Accepted", "False Disconnected", "True Agreed", "True Valid"}, says: "no answer",
		},
		"the id that is meant": {
			object: object{ClusterPeer: kube.ClusterPeer{Spec: kube.ClusterPeerSpec{ID: 2}}}, peer: with(same), origin: "ClusterPeer",
			want: []string{"True Accepted", "True Synced", "True Agreed", "True Valid"},
		},
		"another id": {
			object: object{ClusterPeer: kube.ClusterPeer{Spec: kube.ClusterPeerSpec{ID: 3}}}, peer: with(same), origin: "ClusterPeer",
			want: []string{"True Accepted", "False OtherID", "True Agreed", "True Valid"}, says: "its id is 2, and spec.id is 3",
		},
		"an id that is not known yet": {
			object: object{ClusterPeer: kube.ClusterPeer{Spec: kube.ClusterPeerSpec{ID: 3}}}, peer: with(func(p *peer.Status) { p.ID, p.State = 0, peer.Connecting }), origin: "ClusterPeer",
			want: []string{"True Accepted", "False Connecting", "True Agreed", "True Valid"},
		},
		"no file that can be used": {
			peer: with(func(p *peer.Status) { p.State, p.File = peer.Connecting, "" }),
			want: []string{"True Accepted", "False Connecting", "True Agreed", "True Valid"}, says: "the cluster is connecting",
		},
		"claims wait": {
			peer: with(func(p *peer.Status) { p.Waiting = 2 }), belief: peer.Belief{Declared: true, Waiting: []trust.Claim{claim("10.9.0.0/16"), claim("10.8.0.0/16")}}, origin: "ClusterPeer",
			want: []string{"True Accepted", "True Synced", "False Waiting", "True Valid"}, says: "10.8.0.0/16 for pods, 10.9.0.0/16 for pods; to agree, add it to spec.claims",
		},
		"claims wait that nobody declared": {
			peer: with(same), belief: peer.Belief{Waiting: []trust.Claim{claim("10.9.0.0/16")}}, origin: "ClusterPeer",
			want: []string{"True Accepted", "True Synced", "False Waiting", "True Valid"}, says: "causeway peers approve west",
		},
		"claims are lost": {
			peer: with(same), belief: peer.Belief{Lost: map[trust.Claim]string{claim("10.9.0.0/16"): "north"}}, origin: "ClusterPeer",
			want: []string{"True Accepted", "True Synced", "False Lost", "True Valid"}, says: "10.9.0.0/16, which north has",
		},
		"certificate ended": {
			peer: with(func(p *peer.Status) { p.Certificate.Ends = now }), origin: "ClusterPeer",
			want: []string{"True Accepted", "True Synced", "True Agreed", "False Ended"},
		},
		"certificate is not renewed": {
			peer: with(func(p *peer.Status) { p.Certificate.Problem = "refused there" }), origin: "ClusterPeer",
			want: []string{"True Accepted", "True Synced", "True Agreed", "True NotRenewed"}, says: "refused there",
		},
	} {
		test.object.Metadata.Generation = 7
		got := m.statusOf(&test.object, test.peer, test.belief, now)
		var conditions []string
		var messages string
		for _, c := range got.Conditions {
			conditions = append(conditions, c.Status+" "+c.Reason)
			messages += c.Message + "\n"
			if c.ObservedGeneration != 7 || c.LastTransitionTime != "2026-01-02T03:04:05Z" {
				t.Errorf("%s: %+v", name, c)
			}
		}
		if diff := cmp.Diff(test.want, conditions); diff != "" || !strings.Contains(messages, test.says) || got.Origin != test.origin {
			t.Errorf("%s: origin %q, messages %s(-want +got):\n%s", name, got.Origin, messages, diff)
		}
		if test.peer != nil && (got.Refused != 3 || !cmp.Equal(got.RefusedByReason, map[string]int64{"identity": 2, "quota": 1}) || got.CertificateDaysLeft == nil) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestTransitions checks that a condition says since when it is as it is, and that
// the same status is not written again.
func TestTransitions(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := peer.Status{Name: "west", State: peer.Synced, File: "/d/west"}
	m := &Manager{cfg: Config{
		Dir: "/d", Files: "/peers", Peers: func() []peer.Status { return []peer.Status{p} }, Beliefs: func() map[string]peer.Belief { return nil },
	}}
	m.objects = map[string]*object{"west": {}}
	write := func(at time.Time) []string {
		var since []string
		for _, w := range m.due(at) {
			m.objects[w.name].status = w.status
			for _, c := range w.status.Conditions {
				since = append(since, c.Type+" "+strings.TrimPrefix(c.LastTransitionTime, "2026-01-02T"))
			}
		}
		return since
	}
	if got := write(begin); !slices.Contains(got, "Ready 03:04:05Z") {
		t.Errorf("first: %q", got)
	}
	if got := write(begin.Add(time.Minute)); got != nil {
		t.Errorf("the same is written again: %q", got)
	}
	p.State = peer.Disconnected
	if got := write(begin.Add(2 * time.Minute)); !slices.Contains(got, "Ready 03:06:05Z") || !slices.Contains(got, "Accepted 03:04:05Z") {
		t.Errorf("changed: %q", got)
	}
	p.State = peer.Synced
	if got := write(begin.Add(2*time.Minute + statusPause - time.Second)); got != nil {
		t.Errorf("written too soon: %q", got)
	}
	if got := write(begin.Add(2*time.Minute + statusPause)); !slices.Contains(got, "Ready 03:06:10Z") {
		t.Errorf("changed back: %q", got)
	}
}
