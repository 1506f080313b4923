package kvstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// candidate runs an election until the test ends, or resign is called.
func candidate(t *testing.T, c *Client, name string) (e *Election, resign func()) {
	t.Helper()
	// No test waits for the end of a lease that one of them lets go.
	e = NewElection(ElectionConfig{Client: c, Name: name, Logger: testLog(t)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	resign = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(resign)
	return e, resign
}

// waitTerm waits until an election is, or is not, in a term, and returns it.
func waitTerm(t testing.TB, e *Election, writes bool) Term {
	t.Helper()
	deadline := time.After(patience)
	for {
		term, changed := e.Term()
		if term.Writes() == writes {
			return term
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("writes is not %v: %+v", writes, e.Standing())
		}
	}
}

func waitStanding(t testing.TB, e *Election, writer string) {
	t.Helper()
	for deadline := time.Now().Add(patience); e.Standing().Writer != writer; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q does not write: %+v", writer, e.Standing())
		}
	}
}

// looked looks until the store has answered in the time that a look has, which
// is a short one when the lease is.
func looked(t testing.TB, e *Election) {
	t.Helper()
	ctx := testContext(t)
	for {
		err := e.look(ctx)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// depose takes the election key away, as the end of its lease does.
func depose(t testing.TB, c *Client) {
	t.Helper()
	if err := c.Delete(testContext(t), electionKey); err != nil {
		t.Fatal(err)
	}
}

func TestElectionHasOneWriterAtATime(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	a, resignA := candidate(t, c, "a")
	first := waitTerm(t, a, true)
	b, _ := candidate(t, c, "b")
	waitStanding(t, b, "a")
	if s := a.Standing(); !s.Self || s.Writer != "a" || s.Err != nil {
		t.Errorf("a: %+v", s)
	}
	if term, _ := b.Term(); term.Writes() {
		t.Error("b writes too")
	}
	resignA()
	second := waitTerm(t, b, true)
	if first == second {
		t.Error("two terms are the same")
	}
	if term, _ := a.Term(); term.Writes() {
		t.Error("one that resigned writes")
	}
}

// One that stopped without a word is replaced once its lease ends.
func TestElectionTakesOverFromTheDead(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	dead := NewElection(ElectionConfig{Client: c, Name: "dead", TTL: 2 * time.Second})
	looked(t, dead)
	if term, _ := dead.Term(); !term.Writes() {
		t.Fatal("the first was not elected")
	}
	b, _ := candidate(t, c, "b")
	waitTerm(t, b, true)
	looked(t, dead) // it wakes
	if term, _ := dead.Term(); term.Writes() {
		t.Error("one that slept through the end of its term goes on writing")
	}
}

// The key was created and the answer to that lost: the next look finds it ours.
func TestElectionFindsWhatItWon(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	e := NewElection(ElectionConfig{Client: c, Name: "a", TTL: patience})
	if err := e.stand(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if term, _ := e.Term(); term.Writes() {
		t.Fatal("it cannot know yet")
	}
	if err := e.look(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if term, _ := e.Term(); !term.Writes() {
		t.Error("it does not know its own key")
	}
}

func TestElectionBeginsAnewInAnotherStore(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	e, _ := candidate(t, c, "a")
	waitTerm(t, e, true)
	s.Wipe()
	s.Start()
	waitTerm(t, e, false)
	waitTerm(t, e, true)
}

// Of writers of one name that are elected in turn only the elected one writes,
// whatever the others were doing when they were deposed; each goes on where the
// store is.
func TestElectedWritersTakeTurns(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	type replica struct {
		election *Election
		writer   *Writer
	}
	var all []replica
	for i := range 3 {
		e, _ := candidate(t, c, fmt.Sprint("r", i))
		w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Marks: []string{"mark"}, Name: "test", Election: e, Logger: testLog(t)})
		startWriter(t, w)
		w.Complete()
		all = append(all, replica{e, w})
	}
	want := map[string]string{}
	rng := rand.New(rand.NewPCG(7, 7))
	for turn := range 12 {
		for range 300 { // every replica sees the same source
			key, value := fmt.Sprint("a/", rng.IntN(200)), fmt.Sprint(turn)
			want[key] = value
			for _, r := range all {
				r.writer.Set(key, []byte(value))
			}
		}
		depose(t, c)
	}
	for {
		err := errors.New("nobody writes")
		for _, r := range all {
			if e := r.writer.Synced(testContext(t)); e == nil {
				err = nil
			} else if !errors.Is(e, ErrStandby) {
				t.Fatal(e)
			}
		}
		if err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
	if got := contents(t, c, "a/"); !maps.Equal(got, want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
}

// What a deposed writer has under way, and all that it tries before it knows, is
// refused by the store.
func TestDeposedWriterChangesNothing(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	e := NewElection(ElectionConfig{Client: c, Name: "a", TTL: patience})
	if err := e.look(testContext(t)); err != nil {
		t.Fatal(err)
	}
	w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Name: "test", Election: e, Logger: testLog(t)})
	w.listed = true
	w.Set("a/1", []byte("first"))
	if err := w.round(testContext(t)); err != nil {
		t.Fatal(err)
	}
	depose(t, c)
	before := revision(t, c)
	term, _ := e.Term()
	w.Set("a/1", []byte("late"))
	for range 3 { // the first with the fence that it has, the others moving it
		if err := w.round(testContext(t)); !errors.Is(err, ErrDeposed) {
			t.Errorf("a round returned %v", err)
		}
	}
	if _, err := c.Claim(testContext(t), term, []Claim{{Key: "claim"}}); !errors.Is(err, ErrDeposed) {
		t.Errorf("a claim returned %v", err)
	}
	if err := c.beat(testContext(t), term, "beat", nil, 2*time.Second); !errors.Is(err, ErrDeposed) {
		t.Errorf("a heartbeat returned %v", err)
	}
	if err := w.Retire(testContext(t)); err != nil {
		t.Error(err)
	}
	if after := revision(t, c); after != before {
		t.Errorf("the store went from revision %d to %d", before, after)
	}
}

func TestWriterOfOneTermEndsWithIt(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	e, _ := candidate(t, c, "a")
	w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Name: "test", Election: e, Term: waitTerm(t, e, true), Logger: testLog(t)})
	startWriter(t, w)
	w.Set("a/1", []byte("1"))
	synced(t, w)
	depose(t, c)
	waitTerm(t, e, false)
	waitTerm(t, e, true)
	w.Set("a/2", []byte("2"))
	if err := w.Synced(testContext(t)); !errors.Is(err, ErrStandby) {
		t.Errorf("Synced returned %v in the term after", err)
	}
}

// Marks come after what they speak for and go before it, also into a store that
// was emptied, and are not pruned.
func TestWriterMarks(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	put(t, c, "mark/old", "1")
	put(t, c, "a/old", "1")
	w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Marks: []string{"mark/"}, Name: "test", Logger: testLog(t)})
	startWriter(t, w)
	w.Set("mark/new", []byte("1"))
	for i := range 300 {
		w.Set(fmt.Sprint("a/", i), []byte("1"))
	}
	w.Complete()
	synced(t, w)
	got := contents(t, c, "")
	if got["mark/old"] == "" || got["mark/new"] == "" || got["a/old"] != "" || len(got) != 302 {
		t.Errorf("%d keys: marks %q and %q, a/old %q", len(got), got["mark/old"], got["mark/new"], got["a/old"])
	}
	s.Wipe()
	c2 := s.Start()
	w.Set("a/more", []byte("1"))
	synced(t, w)
	resp, err := c2.kv.Range(testContext(t), &pb.RangeRequest{Key: []byte("a/"), RangeEnd: []byte("n")})
	if err != nil {
		t.Fatal(err)
	}
	revisions := map[string]int64{}
	for _, kv := range resp.Kvs {
		revisions[string(kv.Key)] = kv.ModRevision
	}
	for key, at := range revisions {
		if at > revisions["mark/new"] {
			t.Errorf("%s was written after the mark", key)
		}
	}
}

func TestHoldDir(t *testing.T) {
	dir := t.TempDir()
	release, err := HoldDir(testContext(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := HoldDir(testContext(t), dir); !errors.Is(err, ErrDirInUse) {
		t.Errorf("a second process got %v", err)
	}
	release()
	again, err := HoldDir(testContext(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
