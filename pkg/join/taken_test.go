package join

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/gateway"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// beside returns a second replica of a cluster, which serves nobody.
func (r *replica) beside() *Manager {
	t := r.site.t
	t.Helper()
	config := r.cfg
	config.Dir = t.TempDir()
	// It knows no session: another replica's are another's.
	config.Peers = func() []peer.Status { return nil }
	config.Beliefs = func() map[string]peer.Belief { return nil }
	exclusions := gateway.NewExclusions(quiet())
	config.Exclude, config.Readmit = exclusions.Exclude, exclusions.Readmit
	m, err := New(config)
	check(t, err)
	run(t, m.Run)
	await(t, m.Loaded())
	return m
}

func reads(r *replica, id cluster.ID, claims ...trust.Claim) reading {
	return reading{
		Endpoints: []string{"https://127.0.0.1:1"}, CA: string(r.authority.CertPEM()), OneWay: true, ID: id, Claims: claims,
	}
}

// Two replicas that admit two clusters at the same moment do not both admit what only
// one can have, a range or an id.
func TestReplicasAdmitOne(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1, "10.1.0.0/16")
	second := east.beside()
	pods := claims(t, "pods 10.2.0.0/16")
	for _, c := range []struct {
		names   [2]string
		first   reading
		second  reading
		refused string
	}{
		{[2]string{"west", "north"}, reads(east, 2, pods...), reads(east, 3, pods...), "overlaps 10.2.0.0/16 (pods), which east has agreed with"},
		{[2]string{"south", "middle"}, reads(east, 7), reads(east, 7), "has the id 7, as has"},
	} {
		ended := make(chan error, 2)
		begin := make(chan struct{})
		admit := func(m *Manager, name string, r reading) {
			<-begin
			ended <- m.keep(east.ctx(), name, member{}, r)
		}
		go admit(east.Manager, c.names[0], c.first)
		go admit(second, c.names[1], c.second)
		close(begin)
		one, other := <-ended, <-ended
		if (one == nil) == (other == nil) {
			t.Fatalf("errors %v and %v, want one", one, other)
		}
		if err := errors.Join(one, other); !errors.Is(err, errTaken) || !strings.Contains(err.Error(), c.refused) {
			t.Errorf("got %v, want %q", err, c.refused)
		}
		if a, b := east.book.member(c.names[0]).Reads, second.book.member(c.names[1]).Reads; a != nil && b != nil {
			t.Error("both are peers")
		}
	}
}

// What the other replica has admitted counts before it is followed: what was read before
// it makes the change fail.
func TestAdmissionIsJudgedAgain(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	judged := 0
	err := east.book.admit(east.ctx(), "north", func(all map[string]member) error {
		if judged++; judged == 1 { // another one comes between the look and the change
			check(t, east.beside().keep(east.ctx(), "west", member{}, reads(east, 2)))
		}
		if _, there := all["west"]; there != (judged == 2) {
			t.Errorf("look %d: west is there: %v", judged, there)
		}
		return nil
	}, func(m member) (member, error) { return m, nil })
	check(t, err)
	if judged != 2 {
		t.Errorf("judged %d times", judged)
	}
}

// An admission that waits for etcd ends with its caller, and holds up no other.
func TestAdmissionEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	ctx, cancel := context.WithCancel(t.Context())
	held, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- east.book.admit(ctx, "west", func(map[string]member) error {
			close(held)
			<-ctx.Done()
			return nil
		}, func(m member) (member, error) { return m, nil })
	}()
	<-held
	check(t, east.keep(east.ctx(), "north", member{}, reads(east, 3)))
	cancel()
	if err := <-ended; err == nil {
		t.Error("it did not end with an error")
	}
}

// What a peer's file says it may claim counts, and not what it said when it joined.
func TestDeclaredClaimsCount(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	beliefs := map[string]peer.Belief{}
	m := *east.Manager
	m.cfg.Beliefs = func() map[string]peer.Belief { return beliefs }
	all := map[string]member{"west": {Reads: &reading{ID: 2, Claims: claims(t, "pods 10.0.0.0/8")}}}
	north := Facts{Name: "north", ID: 3, Claims: claims(t, "pods 10.3.0.0/16")}
	if wrong := m.taken(north, all); len(wrong) != 1 {
		t.Errorf("it is west's: %v", wrong)
	}
	beliefs["west"] = peer.Belief{Claims: claims(t, "pods 10.2.0.0/16")}
	if wrong := m.taken(north, all); len(wrong) != 1 {
		t.Errorf("no file says else: %v", wrong)
	}
	beliefs["west"] = peer.Belief{Declared: true, Claims: claims(t, "pods 10.2.0.0/16")}
	if wrong := m.taken(north, all); len(wrong) != 0 {
		t.Errorf("its file says less: %v", wrong)
	}
}

// A peer's id is what it says now; while nobody knows that, what it said when it joined.
func TestIDs(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	var sessions []peer.Status
	m := *east.Manager
	m.cfg.Peers = func() []peer.Status { return sessions }
	all := map[string]member{"west": {Reads: &reading{ID: 2}}}
	if has := m.sameID(2, "north", all); len(has) != 1 || has[0] != "west, which is a peer of east" {
		t.Errorf("2 is %v", has)
	}
	if has := m.sameID(2, "west", all); len(has) != 0 {
		t.Errorf("west stands in its own way: %v", has)
	}
	sessions = []peer.Status{{Name: "west", ID: 5}}
	if has := m.sameID(2, "north", all); len(has) != 0 {
		t.Errorf("west has another id: %v", has)
	}
	if has := m.sameID(5, "north", all); len(has) != 1 {
		t.Errorf("5 is %v", has)
	}
}

// A peer is known by the authority of the join, and by what it replaced that by.
func TestKnownAuthorities(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	_, err := west.join(&joinpb.AcceptRequest{Invitation: east.invite(&joinpb.InviteRequest{})})
	check(t, err)
	west.awaitState("east", peer.Synced, "")
	r := west.book.member("east").Reads
	before := [sha256.Size]byte(east.fingerprint())
	if !west.book.knows("east", r, before) || west.book.knows("east", r, [sha256.Size]byte(west.fingerprint())) {
		t.Error("east is not known by its authority alone")
	}
	check(t, east.authority.Begin(), east.authority.Replace())
	after := [sha256.Size]byte(east.fingerprint())
	if after == before || west.book.knows("east", r, after) {
		t.Error("the new one is known before anybody said so")
	}
	_, err = paths(west.book.files.peer("east")).Trust("east", east.authority.Bundle())
	check(t, err)
	if !west.book.knows("east", r, after) {
		t.Error("the new one is not known")
	}
}

// What would be refused is named before anything changes.
func TestFits(t *testing.T) {
	t.Parallel()
	east, west := newCluster(t, "east", 1), newCluster(t, "west", 2)
	check(t, east.keep(east.ctx(), "north", member{}, reads(east, 3, claims(t, "pods 10.3.0.0/16")...)))
	facts := west.facts()
	facts.ID, facts.Claims = 3, claims(t, "pods 10.3.1.0/24", "mesh 10.96.7.0/24")
	request := &joinpb.FitsRequest{Facts: protoFacts(facts), Fingerprint: west.fingerprint()}
	answer, err := east.membership.Fits(east.ctx(), request)
	check(t, err)
	all := strings.Join(answer.Problems, "\n")
	for _, want := range []string{
		"west has the id 3, as has north, which is a peer of east", "10.96.7.0/24 (mesh) of west overlaps 10.96.0.0/12, which is reserved in east",
		"10.3.1.0/24 (pods) of west overlaps 10.3.0.0/16 (pods), which east has agreed with north",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	check(t, east.keep(east.ctx(), "west", member{}, reads(east, 2))) // by another authority than it has
	request.Facts = protoFacts(west.facts())
	answer, err = east.membership.Fits(east.ctx(), request)
	check(t, err)
	if len(answer.Problems) != 1 || !strings.Contains(answer.Problems[0], "west is not the cluster that east has as a peer of that name") {
		t.Errorf("said %v", answer.Problems)
	}
	request.Fingerprint = nil
	if _, err := east.membership.Fits(east.ctx(), request); err == nil {
		t.Error("no fingerprint is taken")
	}
	request.Facts.Name = "east"
	if _, err := east.membership.Fits(east.ctx(), request); err == nil {
		t.Error("it fits with itself")
	}
}
