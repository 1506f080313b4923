package rotation

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

// Whoever has several certificates of the old authority is named once, with what it lacks.
func TestBehindByHolder(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	got := byHolder([]Behind{
		{Role: pki.RoleAgent, Name: "n1", Reason: "away", Seen: at(1), Ends: at(9)},
		{Role: pki.RolePeer, Name: "west", Reason: "follows", Seen: at(5), Ends: at(6), follows: true},
		{Role: pki.RolePeer, Name: "west", Reason: "away", Seen: at(4), Ends: at(8)},
	})
	if len(got) != 2 || got[0].Reason != "away" {
		t.Fatalf("got %+v", got)
	}
	if w := got[1]; w.Reason != "away (2 certificates)" || w.follows || !w.Seen.Equal(at(5)) || !w.Ends.Equal(at(8)) {
		t.Errorf("got %+v", w)
	}
	if got := byHolder(nil); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	var many []Behind
	for i := range shownNames + 3 {
		many = append(many, Behind{Role: pki.RoleAgent, Name: fmt.Sprint(i)})
	}
	if text := names(many); !strings.HasSuffix(text, "agent 19, 3 more") {
		t.Errorf("named: %s", text)
	}
}

// A pair that was made for a peer and never shown keeps the old authority, until there is
// another one for it or it has shown one.
func TestIssuedPairsAreWaitedFor(t *testing.T) {
	b := newBed(t, t.TempDir())
	old := b.authority.Roots()[0].Fingerprint
	now := time.Now()
	b.issued = []Issued{{Name: "cilium", Since: now.Add(-time.Hour), Ends: now.Add(time.Hour), Root: old}, {Name: "gone", Since: now.Add(-time.Hour), Ends: now.Add(time.Hour), Root: [sha256.Size]byte{1}}, {Name: "older", Since: now.Add(-time.Hour), Ends: now.Add(time.Hour)}}
	if behind := b.behind(); len(behind) != 0 {
		t.Errorf("nothing is replaced: %+v", behind)
	}
	must(t, b.authority.Begin())
	must(t, b.authority.Replace())
	behind := b.behind()
	if len(behind) != 2 || names(behind) != "peer cilium, peer older" || !strings.Contains(behind[0].Reason, "causeway peers renew cilium") {
		t.Fatalf("behind: %+v", behind)
	}
	if _, err := (&operator{Manager: b.Manager}).Finish(t.Context(), &rotationpb.FinishRequest{}); err == nil || !strings.Contains(err.Error(), "peer cilium, peer older") {
		t.Errorf("ended: %v", err)
	}
	b.holder(pki.RolePeer, "older") // shows a certificate, of the new authority
	b.issued[0].Root = b.newest()   // was given another one
	if behind := b.behind(); len(behind) != 0 {
		t.Errorf("behind: %+v", behind)
	}
}

// A pair that was taken back is no sign that the one has come that was made after it; and
// what is advised does help at that stage.
func TestIssuedAnewAfterOut(t *testing.T) {
	b := newBed(t, t.TempDir())
	before := b.holder(pki.RolePeer, "cilium") // shows the first
	b.conns = map[pki.Subject][sha256.Size]byte{}
	b.out[before.subject] = true
	now := time.Now()
	b.issued = []Issued{{Name: "cilium", Since: now, Ends: now.Add(time.Hour), Root: b.newest()}}
	must(t, b.authority.Begin())
	look := func(want string) {
		t.Helper()
		if behind := b.behind(); len(behind) != 1 || !strings.Contains(behind[0].Reason, want) {
			t.Errorf("behind: %+v, want %q", behind, want)
		}
	}
	look("take it back: causeway disconnect cilium, or let the new authority sign")
	must(t, b.authority.Replace())
	look("give it another one: causeway peers renew cilium, or take it back: causeway disconnect cilium")
	b.issued = nil // it was
	if behind := b.behind(); len(behind) != 0 {
		t.Errorf("behind: %+v", behind)
	}
}

// A second start says how far the first one is.
func TestStartSaysWhatIsUnderWay(t *testing.T) {
	b := newBed(t, t.TempDir())
	server := &operator{Manager: b.Manager}
	start := func(want string) {
		t.Helper()
		_, err := server.Start(t.Context(), &rotationpb.StartRequest{})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	west := b.holder(pki.RolePeer, "west")
	must(t, b.authority.Begin())
	must(t, b.authority.Replace())
	start("peer west still need the old authority; wait for them, or cut them off: causeway ca rotate --finish --force")
	b.out = map[pki.Subject]bool{west.subject: true}
	b.conns = map[pki.Subject][sha256.Size]byte{}
	start("nobody needs the old authority; it ends by itself 10m0s after the start")
}

// Who trusts more than can be told is told so.
func TestTooManyTrusted(t *testing.T) {
	ctx := pki.ContextWithSubject(t.Context(), pki.Subject{Cluster: "east", Role: pki.RolePeer, Name: "west"})
	_, err := (&holders{}).Trust(ctx, &rotationpb.TrustRequest{Trusted: make([][]byte, maxTrusted+1)})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "trusts 65 certificates, more than 64") {
		t.Errorf("got %v", err)
	}
}

// Who asks all the time waits; others do not wait for that.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all turns
		west, north := pki.Subject{Role: pki.RolePeer, Name: "west"}, pki.Subject{Role: pki.RolePeer, Name: "north"}
		begun := time.Now()
		for range turnsAtOnce + 10*turnsPerSecond {
			must(t, all.take(t.Context(), west))
		}
		if took := time.Since(begun); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("it took %s", took)
		}
		begun = time.Now()
		must(t, all.take(t.Context(), north))
		if took := time.Since(begun); took != 0 {
			t.Errorf("another one waited %s", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := all.take(ctx, west); err == nil {
			t.Error("it waits for a caller who has gone")
		}
		for i := range maxTurns {
			must(t, all.take(t.Context(), pki.Subject{Name: fmt.Sprint(i)}))
		}
		if len(all.all) > maxTurns {
			t.Errorf("%d are kept", len(all.all))
		}
	})
}
