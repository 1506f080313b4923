package join

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// twin is a second replica of a cluster.
func (r *replica) twin() *replica {
	r.site.t.Helper()
	second := &replica{site: r.site, dir: r.site.t.TempDir(), peersDir: r.site.t.TempDir()}
	second.start()
	return second
}

// A cluster that was put out by a clock that was far ahead comes back by an invitation
// for it: what was signed before stays refused, at all replicas and over a restart.
func TestOutFarAhead(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	second := east.twin()
	request, key := asked(t, "causeway://east/peer/west")
	before, err := east.send(east.offer(east.invite(&joinpb.InviteRequest{Peer: "west"}), request))
	check(t, err)
	far := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	check(t, east.book.update(east.ctx(), "west", func(old member) (member, error) { return member{Out: far}, nil }))
	ahead := east.book.member("west")
	if _, err := east.send(east.offer(east.invite(&joinpb.InviteRequest{}), request)); err == nil {
		t.Error("it comes back by an invitation for anybody")
	}
	other, otherKey := asked(t, "causeway://east/peer/west")
	after, err := east.send(east.offer(east.invite(&joinpb.InviteRequest{Peer: "west"}), other))
	check(t, err)
	reads := func(r *replica, chain, key []byte) codes.Code {
		conn := r.dialWith(string(chain), string(key))
		defer func() { _ = conn.Close() }()
		_, err := pb.NewKVClient(conn).Range(r.ctx(), &pb.RangeRequest{Key: []byte(wire.HeartbeatKey)})
		return status.Code(err)
	}
	look := func(r *replica) {
		t.Helper()
		eventually(t, func() error {
			if got := reads(r, after.GetChain(), otherKey); got != codes.OK {
				return fmt.Errorf("the new certificate: %s", got)
			}
			return nil
		})
		if got := reads(r, before.GetChain(), key); got != codes.Unauthenticated {
			t.Errorf("the old certificate: %s", got)
		}
	}
	look(east)
	look(second)
	// A record from before the reset counts no more, wherever it comes from.
	check(t, east.site.etcd.Put(east.ctx(), memberPrefix+"west", ahead.encode()))
	eventually(t, func() error {
		text, _, err := east.site.etcd.Get(east.ctx(), memberPrefix+"west")
		if m, wrong := parseMember("west", text); err != nil || wrong != nil || m.Resets != 1 {
			return fmt.Errorf("etcd has %s, %w", text, err)
		}
		return nil
	})
	east.stop()
	east.start()
	look(east)
}

func TestOutdates(t *testing.T) {
	now := time.Now()
	early, late, reset := member{Out: now}, member{Out: now.Add(time.Hour)}, member{Out: now.Add(time.Minute), Resets: 1}
	for i, tc := range []struct {
		m, n member
		want bool
	}{{late, early, true}, {early, late, false}, {early, early, false}, {reset, late, true}, {late, reset, false}, {early, member{}, true}} {
		if got := tc.m.outdates(tc.n); got != tc.want {
			t.Errorf("%d: %v", i, got)
		}
	}
}

// What can not be written to disk is, as soon as it can be, and is counted until then.
func TestSaveAgain(t *testing.T) {
	t.Parallel()
	east := newCluster(t, "east", 1)
	inTheWay := east.book.files.member("west")
	check(t, os.MkdirAll(inTheWay+"/full", 0o700))
	out := time.Now().UTC().Truncate(time.Second)
	check(t, east.book.update(east.ctx(), "west", func(member) (member, error) { return member{Out: out}, nil }))
	eventually(t, func() error {
		if n := east.book.lacking(); n != 1 {
			return fmt.Errorf("the disk lacks %v", n)
		}
		return nil
	})
	check(t, os.RemoveAll(inTheWay))
	eventually(t, func() error {
		text, err := os.ReadFile(inTheWay)
		if err != nil {
			return err
		}
		if m, err := parseMember("west", text); err != nil || !m.Out.Equal(out) || east.book.lacking() != 0 {
			return fmt.Errorf("the disk has %s, lacks %v, %w", text, east.book.lacking(), err)
		}
		return nil
	})
}

// Two replicas that take one invitation at the same time do it with one key.
func TestPendingAtTwoReplicas(t *testing.T) {
	t.Parallel()
	first := newCluster(t, "west", 2)
	second := first.twin()
	inv, err := ParseInvitation(newCluster(t, "east", 1).invite(&joinpb.InviteRequest{}))
	check(t, err)
	keys, errs := make([]string, 8), make([]error, 8)
	var group sync.WaitGroup
	for i := range keys {
		group.Go(func() {
			p, err := []*replica{first, second}[i%2].pendingKey(t.Context(), inv)
			keys[i], errs[i] = p.Key, err
		})
	}
	group.Wait()
	check(t, errs...)
	for _, key := range keys {
		if key != keys[0] || key == "" {
			t.Error("several keys were made")
		}
	}
}

// A change that others have changed again at once was made all the same, and is said
// to be so.
func TestUpdateInACrowd(t *testing.T) {
	t.Parallel()
	first := newCluster(t, "east", 1)
	second := first.twin()
	const each = 3
	errs := make([]error, 4)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() {
			for range each {
				err := []*replica{first, second}[i%2].book.update(t.Context(), "west", func(m member) (member, error) {
					m.Resets++
					return m, nil
				})
				errs[i] = errors.Join(errs[i], err)
			}
		})
	}
	group.Wait()
	check(t, errs...)
	eventually(t, func() error {
		for _, r := range []*replica{first, second} {
			if n := r.book.member("west").Resets; n != each*len(errs) {
				return fmt.Errorf("%d of %d changes", n, each*len(errs))
			}
		}
		return nil
	})
}

// Strangers that ask while etcd is away all hear so, and the log once.
func TestStrangersLogLittle(t *testing.T) {
	var log bytes.Buffer
	s := newInviter(&Manager{log: slog.New(slog.NewTextHandler(&log, nil)), metrics: newMetrics(nil, &book{})})
	for range 5 {
		if err := s.unavailable(errBusy); status.Code(err) != codes.Unavailable {
			t.Errorf("it is told %v", err)
		}
	}
	if n := bytes.Count(log.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("%d lines: %s", n, log.String())
	}
}
