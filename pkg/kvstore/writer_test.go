package kvstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// runWriter runs a writer until the test ends, or stop is called.
func runWriter(t testing.TB, c *Client, prefixes ...string) (w *Writer, stop func()) {
	t.Helper()
	w = NewWriter(WriterConfig{Client: c, Prefixes: prefixes, Name: "test", Logger: testLog(t)})
	return w, startWriter(t, w)
}

func startWriter(t testing.TB, w *Writer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func synced(t testing.TB, w *Writer) {
	t.Helper()
	if err := w.Synced(testContext(t)); err != nil {
		t.Fatal(err)
	}
}

// events returns what happened under a prefix since revision, in order.
func events(t *testing.T, c *Client, prefix string, revision int64) []string {
	t.Helper()
	put(t, c, prefix+"~end", "")
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	stream, err := pb.NewWatchClient(c.etcd.ActiveConnection()).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r := Prefix(prefix)
	err = stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(r.key), RangeEnd: []byte(r.end), StartRevision: revision,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range m.Events {
			key := string(e.Kv.Key)
			if key == prefix+"~end" {
				return got
			}
			if e.Type == mvccpb.Event_DELETE {
				key = "-" + key
			}
			got = append(got, key)
		}
	}
}

func revision(t *testing.T, c *Client) int64 {
	t.Helper()
	resp, err := c.rangeOnce(testContext(t), &pb.RangeRequest{Key: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

func TestWriterWritesOnlyTheDifference(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	put(t, c, "s/a/same", "same")
	put(t, c, "s/a/changed", "old")
	put(t, c, "s/a/gone", "gone")
	put(t, c, "s/ab", "not ours")
	put(t, c, "s/b", "one key")
	put(t, c, "s/bc", "not ours")
	before := revision(t, c)

	w, _ := runWriter(t, c, "s/a/", "s/b")
	w.Set("s/a/same", []byte("same"))
	w.Set("s/a/changed", []byte("new"))
	w.Set("s/a/added", []byte("added"))
	synced(t, w)
	want := map[string]string{
		"s/a/same": "same", "s/a/changed": "new", "s/a/added": "added", "s/a/gone": "gone",
		"s/ab": "not ours", "s/b": "one key", "s/bc": "not ours",
	}
	if diff := cmp.Diff(want, contents(t, c, "s/")); diff != "" {
		t.Errorf("before Complete: %s", diff)
	}

	w.Complete()
	synced(t, w)
	delete(want, "s/a/gone")
	delete(want, "s/b")
	if diff := cmp.Diff(want, contents(t, c, "s/")); diff != "" {
		t.Errorf("after Complete: %s", diff)
	}
	if diff := cmp.Diff([]string{"s/a/added", "s/a/changed", "-s/b", "-s/a/gone"}, events(t, c, "s/", before+1)); diff != "" {
		t.Error(diff)
	}
}

func TestWriterDeletesBeforeComplete(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	put(t, c, "a/1", "from a life before")
	put(t, c, "a/2", "from a life before")
	w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Name: "test", Logger: testLog(t)})
	w.Delete("a/1") // before it is known what there is
	w.Delete("a/never")
	startWriter(t, w)
	w.Set("a/3", []byte("v"))
	synced(t, w)
	w.Delete("a/3")
	w.Delete("a/never either")
	synced(t, w)
	if diff := cmp.Diff(map[string]string{"a/2": "from a life before"}, contents(t, c, "a/")); diff != "" {
		t.Error(diff)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, r := range w.records {
		if !r.seen.exists && r.wrote.revision <= r.seen.revision {
			t.Errorf("%q is remembered for nothing", key)
		}
	}
}

func TestWriterKeepsOrder(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"s/z/", "s/m/", "s/a/"}, Name: "test", Logger: testLog(t)})
	for i := range 200 { // more than a batch
		for _, p := range []string{"s/a/", "s/m/", "s/z/"} {
			w.Set(fmt.Sprintf("%s%d", p, i), []byte("v"))
		}
	}
	startWriter(t, w)
	synced(t, w)
	assertOrder(t, events(t, c, "s/", 1), "s/z/", "s/m/", "s/a/")

	before := revision(t, c)
	w.mu.Lock() // one round for all
	w.listed = false
	w.mu.Unlock()
	for i := range 200 {
		for _, p := range []string{"s/z/", "s/m/", "s/a/"} {
			w.Delete(fmt.Sprintf("%s%d", p, i))
		}
	}
	w.Set("s/a/last", []byte("v"))
	w.mu.Lock()
	w.listed = true
	w.mu.Unlock()
	synced(t, w)
	assertOrder(t, events(t, c, "s/", before+1), "s/a/last", "-s/a/", "-s/m/", "-s/z/")
}

// assertOrder checks that events come in the order of prefixes, with all of them present.
func assertOrder(t *testing.T, events []string, prefixes ...string) {
	t.Helper()
	at := 0
	for i, e := range events {
		for !strings.HasPrefix(e, prefixes[at]) {
			if at++; at == len(prefixes) {
				t.Fatalf("%q at place %d of %d is out of order", e, i, len(events))
			}
		}
	}
	if at != len(prefixes)-1 {
		t.Errorf("nothing of %v", prefixes[at+1:])
	}
}

func TestWriterLeavesOutWhatIsRefused(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	w, _ := runWriter(t, c, "a/")
	want := map[string]string{}
	for i := range 100 {
		key := fmt.Sprintf("a/%d", i)
		if key == "a/10" || key == "a/20" {
			continue // what was written before would stay
		}
		want[key] = fmt.Sprint(i)
		w.Set(key, []byte(want[key]))
	}
	w.Set("a/10", make([]byte, 1700<<10)) // above etcd's limit
	w.Set("a/20", make([]byte, 3<<20))    // above what gRPC takes
	w.Set("a/", nil)                      // fine, though odd
	w.Set("b/1", []byte("not ours"))
	synced(t, w)
	want["a/"] = ""
	if diff := cmp.Diff(want, contents(t, c, "a/")); diff != "" {
		t.Error(diff)
	}
	failures := w.Failures()
	for _, key := range []string{"a/10", "a/20", "b/1"} {
		if f := failures[key]; f.Reason == "" || f.Since.IsZero() {
			t.Errorf("failure of %q: %+v", key, f)
		}
	}
	if len(failures) != 3 {
		t.Errorf("failures: %v", failures)
	}

	w.Set("a/10", []byte("small again"))
	w.Delete("a/20")
	w.Delete("b/1")
	synced(t, w)
	want["a/10"] = "small again"
	if diff := cmp.Diff(want, contents(t, c, "a/")); diff != "" {
		t.Error(diff)
	}
	if failures := w.Failures(); len(failures) != 0 {
		t.Errorf("failures: %v", failures)
	}
}

func TestWriterTriesARefusedValueAgain(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	w, _ := runWriter(t, c, "a/")
	w.Set("a/1", make([]byte, 2<<20))
	synced(t, w)
	first := w.Failures()["a/1"]
	w.mu.Lock()
	r := w.records["a/1"]
	delay := r.refused.delay
	r.refused.due = time.Now().Add(-time.Second)
	w.mu.Unlock()
	for again := false; !again; { // the writer's own pace decides when
		synced(t, w)
		w.Set("a/2", fmt.Append(nil, rand.Int()))
		w.mu.Lock()
		again = r.refused.delay == 2*delay && r.refused.due.After(time.Now())
		w.mu.Unlock()
	}
	if f := w.Failures()["a/1"]; f != first {
		t.Errorf("failure %+v became %+v", first, f)
	}
}

// interrupted is a store whose answer to one transaction is lost on the way, or
// which it never reached.
type interrupted struct {
	pb.KVClient
	txn func(n int) error // asked before the nth, from 1 on
	n   int
}

func (i *interrupted) Txn(ctx context.Context, req *pb.TxnRequest, opts ...grpc.CallOption) (*pb.TxnResponse, error) {
	i.n++
	if err := i.txn(i.n); err != nil {
		return nil, err
	}
	return i.KVClient.Txn(ctx, req, opts...)
}

// A round that fails after its first batch has keys that were deleted, seen to
// be gone, and forgotten.
func TestWriterGoesOnAfterHalfARound(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	for i := range maxBatchOps + 50 {
		put(t, c, fmt.Sprintf("a/%03d", i), "v")
	}
	w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Name: "test", Logger: testLog(t)})
	forgotten := func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.records) <= 50
	}
	c.kv = &interrupted{KVClient: c.kv, txn: func(n int) error {
		if n != 3 { // the fence, the first batch
			return nil
		}
		for !forgotten() {
			time.Sleep(time.Millisecond) // between two looks
		}
		return status.Error(codes.Unavailable, "cut")
	}}
	startWriter(t, w)
	w.Complete()
	synced(t, w)
	if got := contents(t, c, "a/"); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestWriterFillsAWipedStoreInOrder(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	w, _ := runWriter(t, c, "s/b/", "s/a/", "s/marker")
	want := map[string]string{"s/marker": "done"}
	for i := range 300 {
		for _, p := range []string{"s/a/", "s/b/"} {
			key := fmt.Sprintf("%s%d", p, i)
			want[key] = "v"
			w.Set(key, []byte("v"))
		}
	}
	w.Complete()
	synced(t, w)
	w.Set("s/marker", []byte("done"))
	synced(t, w)

	s.Wipe()
	// While nothing answers, something goes and something comes.
	w.Delete("s/a/0")
	w.Set("s/b/new", []byte("v"))
	delete(want, "s/a/0")
	want["s/b/new"] = "v"
	c = s.Start()
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("s/")}, Handler: r})
	r.waitFor(t, "s/marker", "done")
	if diff := cmp.Diff(want, contents(t, c, "s/")); diff != "" {
		t.Error(diff)
	}
	assertOrder(t, events(t, c, "s/", 1), "s/b/", "s/a/", "s/marker")
	synced(t, w) // it hears of its last round after others may
	if err := w.Err(); err != nil {
		t.Errorf("Err: %v", err)
	}
}

func TestWriterRepairsWhatOthersDo(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	w, _ := runWriter(t, c, "a/")
	w.Set("a/1", []byte("v"))
	w.Set("a/2", []byte("v"))
	w.Complete()
	synced(t, w)
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
	r.waitComplete(t, 1)

	put(t, c, "a/1", "foreign")
	put(t, c, "a/3", "foreign")
	if err := c.Delete(testContext(t), "a/2"); err != nil {
		t.Fatal(err)
	}
	// Each comes and is put right; which of that is seen together nobody knows.
	r.wait(t, "what others did, and its repair", func(got received) bool { return got.changes >= 2+2+2 && got.deletes >= 1+1 })
	if diff := cmp.Diff(map[string]string{"a/1": "v", "a/2": "v"}, contents(t, c, "a/")); diff != "" {
		t.Error(diff)
	}
}

func TestWriterSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	w, _ := runWriter(t, c, "a/")
	w.Set("a/1", []byte("v"))
	synced(t, w)
	s.Stop()
	w.Set("a/1", []byte("w"))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := w.Synced(ctx); err == nil || !strings.Contains(err.Error(), `"test"`) {
		t.Errorf("Synced without a store: %v", err)
	}
	for deadline := time.Now().Add(patience); w.Err() == nil; time.Sleep(10 * time.Millisecond) { // between two looks
		if time.Now().After(deadline) {
			t.Fatal("Err is nil without a store")
		}
	}
	c = s.Start()
	synced(t, w)
	if err := w.Err(); err != nil {
		t.Errorf("Err: %v", err)
	}
	if got := contents(t, c, "a/"); got["a/1"] != "w" {
		t.Errorf("got %v", got)
	}
}

// Whatever is set and deleted, and however often the store goes away under it,
// in the end it has just what was set last.
func TestWriterConverges(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	w, _ := runWriter(t, c, "a/", "b/")
	w.Complete()
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	for i := range 8 {
		for range 5000 {
			key := fmt.Sprintf("%c/%d", 'a'+rune(rng.IntN(2)), rng.IntN(300))
			if rng.IntN(3) == 0 {
				delete(want, key)
				w.Delete(key)
				continue
			}
			want[key] = fmt.Sprint(rng.IntN(5))
			w.Set(key, []byte(want[key]))
		}
		switch i % 4 {
		case 0:
			s.Stop() // in the middle of it
			s.Start()
		case 1:
			s.Wipe()
			s.Start()
		case 2:
			synced(t, w)
		}
	}
	synced(t, w)
	if diff := cmp.Diff(want, contents(t, s.dial(), "")); diff != "" {
		t.Error(diff)
	}
	if len(w.Failures()) != 0 {
		t.Errorf("failures: %v", w.Failures())
	}
}

func TestLateRequestChangesNothing(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	w, stop := runWriter(t, c, "a/")
	w.Set("a/1", []byte("first"))
	synced(t, w)
	stop()
	w.Set("a/1", []byte("late"))
	late, ok := w.take()
	if ok != nil || len(late.ops) != 1 || late.fence == 0 {
		t.Fatalf("round: %+v", late)
	}
	w.putBack(late.ops) // as when there was no answer
	w.Set("a/1", []byte("second"))
	if err := w.round(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if err := w.write(testContext(t), late.ops, late); !errors.Is(err, ErrFenced) {
		t.Errorf("write behind the fence: %v", err)
	}
	if got := contents(t, c, "a/"); got["a/1"] != "second" {
		t.Errorf("got %v", got)
	}
}

func TestWriteThatWasNotSeenIsUncertainAfterABreak(t *testing.T) {
	w := NewWriter(WriterConfig{Prefixes: []string{"a/"}, Name: "test", Logger: testLog(t)})
	h, ctx := watched{w}, t.Context()
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(h.Changes(ctx, []Change{{Key: "a/1", Value: []byte("v1"), Revision: 5}}))
	step(h.Complete(ctx))
	w.Set("a/1", []byte("v2"))
	now, _ := w.take()
	step(w.settle(now.ops, &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: 10}}, now.epoch))
	h.Trouble(errors.New("the watch broke before it showed revision 10"))
	w.Set("a/1", []byte("v1"))
	step(h.Complete(ctx))
	if now, ok := w.take(); ok != nil || len(now.ops) != 1 || string(now.ops[0].value) != "v1" {
		t.Errorf("the store may have v2, but the next round is %+v", now)
	}
}

func TestWritersOfOneNameTakeTurns(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	first, _ := runWriter(t, c, "a/")
	first.Set("a/1", []byte("v"))
	synced(t, first)
	second, _ := runWriter(t, c, "a/")
	second.Set("a/1", []byte("v"))
	second.Set("a/2", []byte("v"))
	synced(t, second)
	first.Set("a/3", []byte("v"))
	synced(t, first) // it takes the fence back, after one refusal
	if got := contents(t, c, "a/"); len(got) != 3 {
		t.Errorf("got %v", got)
	}
}

func TestWriterMetrics(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	registry := prometheus.NewRegistry()
	w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Name: "test", Registerer: registry})
	stop := startWriter(t, w)
	w.Set("a/1", []byte("v"))
	w.Set("a/2", make([]byte, 2<<20))
	synced(t, w)
	w.Delete("a/1")
	synced(t, w)
	want := map[string]float64{
		"causeway_kvstore_written_keys_total": 1, "causeway_kvstore_deleted_keys_total": 1,
		"causeway_kvstore_repaired_keys_total": 0, "causeway_kvstore_write_retries_total": 0,
		"causeway_kvstore_pending_keys": 0, "causeway_kvstore_refused_keys": 1,
	}
	if diff := cmp.Diff(want, gather(t, registry)); diff != "" {
		t.Error(diff)
	}
	other := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Name: "test", Registerer: registry})
	if err := other.Run(testContext(t)); err == nil {
		t.Error("two writers of one name share their metrics")
	}
	stop()
	if got := gather(t, registry); len(got) != 0 {
		t.Errorf("metrics of a writer that ended: %v", got)
	}
	if err := w.Run(testContext(t)); err == nil {
		t.Error("Run runs twice")
	}
}

func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return got
}

// Large transactions of all writers take turns, and give them back, also when
// the store is away.
func TestWritersTakeTurnsToCommit(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	if err := c.commits.Acquire(t.Context(), maxCommits); err != nil {
		t.Fatal(err)
	}
	w, _ := runWriter(t, c, "a/")
	w.Set("a/1", []byte("x"))
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := w.Synced(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("written out of turn: %v", err)
	}
	c.commits.Release(maxCommits)
	synced(t, w)
	s.Stop()
	if _, err := c.commit(testContext(t), &pb.TxnRequest{}); err == nil {
		t.Error("committed to a store that is away")
	}
	if !c.commits.TryAcquire(maxCommits) {
		t.Error("a turn was not given back")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := c.commit(ended, &pb.TxnRequest{}); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a turn ends with %v", err)
	}
}
