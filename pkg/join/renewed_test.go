package join

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// another is a further replica of the cluster, with an empty directory.
func (r *replica) another() *replica {
	r.site.t.Helper()
	next := &replica{site: r.site, dir: r.site.t.TempDir(), peersDir: r.site.t.TempDir()}
	next.start()
	return next
}

// held is what a replica has on disk of a peer.
func (r *replica) held(name string) (held pki.Held) {
	r.site.t.Helper()
	check(r.site.t, paths(r.book.files.peer(name)).Replace(func(there pki.Held) pki.Held {
		held = there
		return there
	}))
	return held
}

// renew has the pair by which west is read signed anew by it, for a time, and says so.
func (r *replica) renew(west *replica, ttl time.Duration) {
	r.site.t.Helper()
	renewed, err := paths(r.book.files.peer("west")).RenewEarly(time.Now(), func(csrPEM []byte) ([]byte, error) {
		return west.authority.Sign(pki.Request{Role: pki.RolePeer, Name: "east", TTL: ttl}, csrPEM)
	})
	check(r.site.t, err)
	if !renewed {
		r.site.t.Fatal("the pair is another one meanwhile")
	}
	r.Renewed("west")
}

// recorded waits until the record of west has what a replica has on disk.
func (r *replica) recorded() {
	r.site.t.Helper()
	held := r.held("west")
	eventually(r.site.t, func() error {
		m, _, _, err := r.book.current(r.ctx(), "west")
		if err == nil && (m.Reads == nil || m.Reads.Cert != string(held.Pair.CertPEM) || m.Reads.Key != string(held.Pair.KeyPEM) || m.Reads.CA != string(held.CA)) {
			err = errors.New("the record has another pair, or other authorities, than the disk")
		}
		return err
	})
}

// A replica that is added after a renewal, and after the peer's authority was replaced,
// reads the peer by what stands in the record, though the pair of the join is worth
// nothing. Replicas that read it meanwhile keep their own pair.
func TestRenewedForAllReplicas(t *testing.T) {
	t.Parallel()
	west, first := newCluster(t, "west", 2), newCluster(t, "east", 1)
	_, err := first.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{})})
	check(t, err)
	second := first.another()
	second.awaitState("west", peer.Synced, "")
	joined := second.held("west")
	path := second.book.files.peer("west")
	before, err := os.Stat(path)
	check(t, err)

	first.renew(west, 3*peerTTL)
	first.recorded()
	eventually(t, func() error {
		if second.book.member("west").Reads.Cert == string(joined.Pair.CertPEM) {
			return errors.New("the second replica does not see the new record")
		}
		return nil
	})
	check(t, second.book.files.save("west", second.book.member("west")))
	if string(second.held("west").Pair.CertPEM) != string(joined.Pair.CertPEM) {
		t.Error("a pair that is in use was replaced by another replica's")
	}
	if after, err := os.Stat(path); err != nil || !after.Mode().IsRegular() || before.Size() != after.Size() {
		t.Errorf("the peer file changed: %v", err)
	}

	check(t, west.authority.Begin())
	trust := func(r *replica) {
		t.Helper()
		_, err := paths(r.book.files.peer("west")).Trust("west", west.authority.Bundle())
		check(t, err)
		r.Renewed("west")
	}
	trust(first)
	first.recorded()
	check(t, west.authority.Replace())
	first.renew(west, 4*peerTTL)
	first.recorded()
	check(t, west.authority.Finish())
	trust(first)
	first.recorded()

	third := first.another()
	if got := third.held("west"); string(got.CA) != string(west.authority.CertPEM()) || string(got.Pair.CertPEM) != string(first.held("west").Pair.CertPEM) {
		t.Error("the third replica has another pair or authority than the newest")
	}
	if got := second.held("west"); string(got.CA) != string(west.authority.CertPEM()) {
		eventually(t, func() error {
			if got := second.held("west"); string(got.CA) != string(west.authority.CertPEM()) {
				return errors.New("a replica that was cut off keeps a pair of an authority that is gone")
			}
			return nil
		})
	}
	third.awaitState("west", peer.Synced, "")
}

// A replica that was added when the pair of the join had ended reads the peer.
func TestAddedAfterTheEnd(t *testing.T) {
	t.Parallel()
	west, first := newCluster(t, "west", 2), newCluster(t, "east", 1)
	_, err := first.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{})})
	check(t, err)
	// The pair of the join is made one that ends soon.
	key, csr, err := pki.NewSigningRequest()
	check(t, err)
	short, err := west.authority.Sign(pki.Request{Role: pki.RolePeer, Name: "east", TTL: 10 * time.Second}, csr)
	check(t, err, first.book.update(first.ctx(), "west", func(m member) (member, error) {
		next := *m.Reads
		next.Cert, next.Key = string(short), string(key)
		m.Reads = &next
		return m, nil
	}))
	eventually(t, func() error { // it is in effect before it is on disk
		if string(first.held("west").Pair.CertPEM) != string(short) {
			return errors.New("the short pair is not on disk")
		}
		return nil
	})
	ends := leaf(pki.Pair{CertPEM: short, KeyPEM: key}).NotAfter
	first.renew(west, peerTTL)
	first.recorded()
	<-time.After(time.Until(ends.Add(time.Second)))
	first.another().awaitState("west", peer.Synced, "")
}

// Who renewed at the same moment as another replica keeps its own, and the record has
// one of both; what ends is taken from there.
func TestRenewedAtTheSameMoment(t *testing.T) {
	t.Parallel()
	west, first := newCluster(t, "west", 2), newCluster(t, "east", 1)
	_, err := first.join(&joinpb.AcceptRequest{Invitation: west.invite(&joinpb.InviteRequest{})})
	check(t, err)
	second := first.another()
	first.renew(west, 3*peerTTL)
	second.renew(west, 4*peerTTL)
	own := []pki.Held{first.held("west"), second.held("west")}
	eventually(t, func() error {
		m, _, _, err := first.book.current(first.ctx(), "west")
		if err == nil && m.Reads.Cert != string(own[1].Pair.CertPEM) {
			err = errors.New("the record does not have the newer pair")
		}
		return err
	})
	for i, r := range []*replica{first, second} {
		check(t, r.book.files.save("west", r.book.member("west")))
		if string(r.held("west").Pair.CertPEM) != string(own[i].Pair.CertPEM) {
			t.Errorf("replica %d lost its pair", i)
		}
	}
	first.book.revise(time.Now().Add(7 * peerTTL / 2)) // the first has ended by this clock, and by the true one is valid
	if string(first.held("west").Pair.CertPEM) != string(own[0].Pair.CertPEM) {
		t.Error("a valid pair was dropped")
	}
}

// A disconnect, another join, and what is not newer change no record by a renewal.
func TestNotWrittenBack(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	from := time.Now().Add(-time.Minute).Truncate(time.Second)
	joined, next := s.issue(time.Hour, from), s.issue(2*time.Hour, from)
	m := s.member(joined)
	s.must(s.files.save("east", m))
	same := func(what string, m member) {
		t.Helper()
		if got := s.files.renewed("east", m); string(got.encode()) != string(m.encode()) {
			t.Errorf("%s is written back", what)
		}
	}
	same("the pair of the join", m)
	s.must(next.Save(s.path(".crt"), s.path(".key")))
	got := s.files.renewed("east", m)
	if got.Reads.Cert != string(next.CertPEM) || got.Reads.Key != string(next.KeyPEM) || m.Reads.Cert != string(joined.CertPEM) {
		t.Error("a renewed pair is not written back")
	}
	s.must(s.files.save("east", got))
	same("what is in the record", got)
	if !s.holds(next) || got.Reads.origin() != m.Reads.origin() {
		t.Error("the record with the renewed pair is taken for another join's")
	}
	same("what was disconnected", member{Out: time.Now()})
	other := *m.Reads
	other.Origin = "another join"
	same("an older join's", member{Reads: &other})
	same("an older one", s.member(s.issue(3*time.Hour, from)))
}

// What another authority signed is of a later time, though the one before signed a pair
// that says to be of after it, as one whose clock was ahead does.
func TestNewestByAuthority(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	old := s.member(s.issue(time.Hour, time.Time{}))
	s.must(s.files.save("east", old))
	next := newShelf(t)
	eventually(t, func() error { // certificates know whole seconds
		if next = newShelf(t); !madeAt(next.authority.CertPEM()).After(madeAt(s.authority.CertPEM())) {
			return errors.New("both authorities are of the same second")
		}
		return nil
	})
	there := pki.Held{CA: next.authority.CertPEM(), Pair: *next.issue(time.Hour, time.Time{})}
	late := s.issue(100*time.Hour, time.Time{})
	reads := s.member(late).Reads
	if !pki.Newer(leaf(*late), leaf(there.Pair)) {
		t.Fatal("the pair of before does not say that it is of after")
	}
	if !ahead(there, reads) {
		t.Error("what the new authority signed is not written back")
	}
	if got := better(there, reads, true, true); !bytes.Equal(got.Pair.CertPEM, there.Pair.CertPEM) {
		t.Error("a valid pair is dropped for one of an authority that is gone")
	}
}

// Who saw a record from the middle of a rotation takes the one of its end, though all of
// it was signed within a second.
func TestTakenAfterRotation(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	joined := s.member(s.issue(time.Hour, time.Time{}))
	s.must(s.authority.Begin())
	middle := *joined.Reads
	middle.Origin, middle.CA = joined.Reads.origin(), string(s.authority.Bundle())
	s.must(s.files.save("east", member{Reads: &middle}))
	s.must(s.authority.Replace())
	last := s.issue(time.Hour, time.Time{})
	s.must(s.authority.Finish())
	end := middle
	end.CA, end.Cert, end.Key = string(s.authority.CertPEM()), string(last.CertPEM), string(last.KeyPEM)
	s.must(s.files.save("east", member{Reads: &end}))
	if !s.holds(last) || !bytes.Equal(paths(s.path("")).Held().CA, s.authority.CertPEM()) {
		t.Error("a pair stays that the peer takes no more")
	}
}
