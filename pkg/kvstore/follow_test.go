package kvstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// compact forgets all history up to now.
func compact(t *testing.T, c *Client) {
	t.Helper()
	resp, err := c.kv.Put(testContext(t), &pb.PutRequest{Key: []byte("elsewhere")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.kv.Compact(testContext(t), &pb.CompactionRequest{Revision: resp.Header.Revision, Physical: true}); err != nil {
		t.Fatal(err)
	}
}

func TestFollowGivesStateAndChanges(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	for i := range 3*pageKeys + 10 {
		put(t, c, fmt.Sprintf("a/%04d", i), "old")
	}
	put(t, c, "ab/other", "not followed")
	put(t, c, "single", "one")
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/"), Key("single")}, Handler: r})
	if n := len(r.waitComplete(t, 1).state); n != 3*pageKeys+11 {
		t.Errorf("%d keys when complete", n)
	}

	put(t, c, "a/0001", "new")
	put(t, c, "a/0001", "newer")
	put(t, c, "a/0002", "old") // written again, not changed
	put(t, c, "single2", "not followed")
	if err := c.Delete(testContext(t), "a/0003"); err != nil {
		t.Fatal(err)
	}
	put(t, c, "single", "two")
	put(t, c, "a/last", "last")
	r.waitFor(t, "a/last", "last")
	got := r.waitFor(t, "single", "two")
	want := contents(t, c, "a/")
	want["single"] = "two"
	if diff := cmp.Diff(want, got.state); diff != "" {
		t.Error(diff)
	}
	if got.complete != 1 || len(got.troubles) != 0 || got.changes != 3*pageKeys+11+4 || got.deletes != 1 {
		t.Errorf("complete %d, troubles %v, %d changes, %d deletes", got.complete, got.troubles, got.changes, got.deletes)
	}
}

func TestFollowResumesAfterARestart(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	for i := range 10 {
		put(t, c, fmt.Sprintf("a/%d", i), "v")
	}
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/"), Prefix("b/")}, Handler: r})
	r.waitComplete(t, 1)

	s.Away(func(c *Client) {
		put(t, c, "a/1", "while it was away")
		if err := c.Delete(testContext(t), "a/2"); err != nil {
			t.Fatal(err)
		}
		put(t, c, "b/1", "new")
	})
	r.waitComplete(t, 2)
	r.waitFor(t, "b/1", "new")
	r.waitFor(t, "a/1", "while it was away")
	if got := r.waitGone(t, "a/2"); got.changes != 12 {
		t.Errorf("%d values were given, 12 are new", got.changes)
	}
}

func TestFollowListsAgainAfterCompaction(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	put(t, c, "a/1", "v")
	put(t, c, "a/2", "v")
	put(t, c, "a/3", "v")
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
	r.waitComplete(t, 1)

	c = s.Away(func(c *Client) {
		put(t, c, "a/1", "w")
		if err := c.Delete(testContext(t), "a/2"); err != nil {
			t.Fatal(err)
		}
		compact(t, c)
	})
	r.waitComplete(t, 2)
	r.waitFor(t, "a/1", "w")
	r.waitGone(t, "a/2")
	put(t, c, "a/4", "x")
	if got := r.waitFor(t, "a/4", "x"); got.changes != 5 {
		t.Errorf("%d values were given, 5 are new", got.changes)
	}
}

// blocking is a handler that stands still when told.
type blocking struct {
	*recorder
	enter, leave chan struct{}
}

func (b *blocking) Changes(ctx context.Context, changes []Change) error {
	if string(changes[0].Value) == "block" {
		close(b.enter)
		<-b.leave
	}
	return b.recorder.Changes(ctx, changes)
}

func TestFollowListsAgainWhenCompactedUnderASlowReader(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	put(t, c, "a/gone", "v")
	h := &blocking{newRecorder(), make(chan struct{}), make(chan struct{})}
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: h})
	h.waitComplete(t, 1)

	put(t, c, "a/0", "block")
	<-h.enter
	// More than gRPC's window and etcd's channel hold, so that the watcher
	// falls behind, and what it has not sent is compacted.
	large := strings.Repeat("x", 16<<10)
	for i := range 300 {
		put(t, c, fmt.Sprintf("a/%d", i%10), fmt.Sprint(i, large))
	}
	if err := c.Delete(testContext(t), "a/gone"); err != nil {
		t.Fatal(err)
	}
	put(t, c, "a/last", "last")
	compact(t, c)
	close(h.leave)
	h.waitFor(t, "a/last", "last")
	got := h.waitGone(t, "a/gone")
	if diff := cmp.Diff(contents(t, c, "a/"), got.state); diff != "" {
		t.Error("state differs from the store")
	}
	if !slices.ContainsFunc(got.troubles, func(err error) bool { return errors.Is(err, ErrCompacted) }) {
		t.Errorf("troubles: %v", got.troubles)
	}
}

func TestFollowNoticesAWipedStore(t *testing.T) {
	t.Parallel()
	for _, sameID := range []bool{false, true} {
		t.Run(fmt.Sprintf("same cluster id %v", sameID), func(t *testing.T) {
			s, c := startStore(t)
			put(t, c, "a/kept", "v")
			put(t, c, "a/changed", "v")
			put(t, c, "a/gone", "v")
			r := newRecorder()
			follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Require: []string{"marker"}, Handler: r})
			if got := r.waitTrouble(t); !errors.Is(got.troubles[0], ErrNotReady) || len(got.state) != 0 {
				t.Errorf("without the marker: %v", got)
			}
			put(t, c, "marker", "")
			r.waitComplete(t, 1)
			id := clusterID(t, c)

			token := s.token()
			s.Wipe()
			if sameID {
				s.setToken(token)
			}
			c = s.Start()
			if (clusterID(t, c) == id) != sameID {
				t.Fatalf("cluster id %x after %x", clusterID(t, c), id)
			}
			for i := range 20 { // beyond the revision that the reader saw last
				put(t, c, "elsewhere", fmt.Sprint(i))
			}
			put(t, c, "a/changed", "w")
			put(t, c, "a/kept", "v")
			got := r.wait(t, "waiting for the new marker", func(got received) bool {
				broke := slices.IndexFunc(got.troubles, func(err error) bool { return !errors.Is(err, ErrNotReady) })
				return broke >= 0 && slices.ContainsFunc(got.troubles[broke:], func(err error) bool { return errors.Is(err, ErrNotReady) })
			})
			if len(got.state) != 3 || got.deletes != 0 {
				t.Errorf("while the new store has no marker: %v", got.state)
			}
			put(t, c, "marker", "")
			got = r.waitComplete(t, 2)
			if diff := cmp.Diff(map[string]string{"a/kept": "v", "a/changed": "w"}, got.state); diff != "" {
				t.Error(diff)
			}
			if got.changes != 4 || got.deletes != 1 {
				t.Errorf("%d changes, %d deletes", got.changes, got.deletes)
			}
			put(t, c, "a/more", "x")
			r.waitFor(t, "a/more", "x")
		})
	}
}

// token is what a store is told apart by when it has a data directory of its own.
func (s *testStore) token() []byte {
	s.t.Helper()
	token, err := os.ReadFile(filepath.Join(s.dir, "member", "token"))
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// setToken gives an empty data directory the token of another one, as one has
// it that is configured with a fixed token.
func (s *testStore) setToken(token []byte) {
	s.t.Helper()
	if _, err := (&dataDir{path: s.dir}).token(); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "member", "token"), token, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// A store that was wiped is filled again by a writer that has nearly the same
// to say, in the same order: at the revision that the reader saw last stands
// what stood there before.
func TestFollowKnowsAStoreThatWasFilledAgain(t *testing.T) {
	t.Parallel()
	for _, proof := range []string{"", "proof", "a/proof"} {
		t.Run("proof "+proof, func(t *testing.T) {
			s, c := startStore(t)
			other := proof
			if proof == "" {
				other = "no proof"
			}
			fill := func(second string) {
				put(t, c, "a/1", "v")
				put(t, c, other, rand.Text())
				put(t, c, second, "v")
				put(t, c, "a/last", "v")
			}
			fill("a/old")
			r := newRecorder()
			follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Proof: proof, Handler: r})
			r.waitComplete(t, 1)
			token := s.token()
			s.Wipe()
			s.setToken(token)
			c = s.Start()
			fill("a/new")
			r.waitComplete(t, 2)
			put(t, c, "a/after", "v")
			r.waitFor(t, "a/after", "v")
			got := r.waitGone(t, "a/old")
			if diff := cmp.Diff(contents(t, c, "a/"), got.state); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// messages is a log that keeps what was said.
type messages struct {
	slog.Handler
	mu   sync.Mutex
	text []string
}

func (m *messages) Enabled(context.Context, slog.Level) bool { return true }
func (m *messages) Handle(_ context.Context, r slog.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.text = append(m.text, r.Message)
	return nil
}

func (m *messages) all() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return strings.Join(m.text, "\n")
}

// By its proof a store is known again: what the reader has is not listed.
func TestFollowGoesOnByItsProof(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	put(t, c, "proof", "one")
	put(t, c, "a/1", "v")
	r := newRecorder()
	var logged messages
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Proof: "proof", Handler: r, Logger: slog.New(&logged)})
	r.waitComplete(t, 1)
	put(t, c, "proof", "two")
	for n := range 3 {
		put(t, c, "a/1", fmt.Sprint(n)) // behind the proof, so that has been seen
		r.waitFor(t, "a/1", fmt.Sprint(n))
		c = s.Away(func(c *Client) {
			if n == 1 {
				put(t, c, "proof", "three")
			}
		})
		r.waitComplete(t, n+2)
	}
	if text := logged.all(); strings.Contains(text, "list everything again") {
		t.Error(text)
	}
	if _, ok := r.waitComplete(t, 1).state["proof"]; ok {
		t.Error("the proof was given, and nobody asked for it")
	}
}

func TestFollowEndsWithTheHandlersError(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	put(t, c, "a/1", "v")
	r := newRecorder()
	r.fail = errors.New("stop here")
	err := c.Follow(testContext(t), FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
	if !errors.Is(err, r.fail) {
		t.Errorf("Follow: %v", err)
	}
	if len(r.got.troubles) != 0 {
		t.Errorf("troubles: %v", r.got.troubles)
	}
	if err := c.Follow(testContext(t), FollowConfig{Handler: r}); err == nil {
		t.Error("Follow without ranges goes on")
	}
}

func TestFollowSaysWhatIsWrong(t *testing.T) {
	c, err := Dial(ClientConfig{Endpoints: []string{"unix://" + t.TempDir() + "/nothing.sock"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
	if text := r.waitTrouble(t).troubles[0].Error(); !strings.Contains(text, "a/*") || !strings.Contains(text, "no such file") {
		t.Errorf("trouble: %s", text)
	}
}

func TestFollowSurvivesItsProbes(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/"), Prefix("b/")}, Handler: r, Probe: 100 * time.Millisecond})
	r.waitComplete(t, 1)
	for i := range 200 { // an anchor that moves, goes, and is compacted, under probes
		key := fmt.Sprintf("a/%d", i%3)
		put(t, c, key, fmt.Sprint(i))
		r.waitFor(t, key, fmt.Sprint(i))
		if i%10 == 0 {
			if err := c.Delete(testContext(t), key); err != nil {
				t.Fatal(err)
			}
		}
		if i%50 == 0 {
			compact(t, c)
		}
	}
	put(t, c, "b/1", "end")
	for _, err := range r.waitFor(t, "b/1", "end").troubles {
		if !errors.Is(err, ErrWatchStuck) { // a machine that is slower than such probes is no other store
			t.Errorf("trouble: %v", err)
		}
	}
}
