package kvtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

func TestStores(t *testing.T) {
	for name, open := range map[string]func(*testing.T) backend{"embedded": newEmbedded, "external": newExternal} {
		t.Run(name, func(t *testing.T) {
			for _, test := range []struct {
				name string
				run  func(*testing.T, *rig)
			}{
				{"cut", testCut},
				{"delay", testDelay},
				{"stall", testStall},
				{"lost answers", testLostAnswers},
				{"late requests", testLateRequests},
				{"claims", testClaims},
				{"compaction", testCompaction},
				{"replaced", testReplaced},
				{"election", testElection},
				{"quota", testQuota},
			} {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					test.run(t, newRig(t, open(t)))
				})
			}
		})
	}
}

// rig is a writer and a reader of one store, each behind a proxy of its own, and
// a client that nothing happens to.
type rig struct {
	t      *testing.T
	store  backend
	direct *kvstore.Client

	writing, reading *proxy
	client           *kvstore.Client // the writer's
	writer           *kvstore.Writer
	reader           *reader
	want             map[string]string
	random           *mathrand.Rand
	turn             int
}

func newRig(t *testing.T, b backend) *rig {
	seed := mathrand.Uint64()
	t.Logf("seed %d", seed)
	r := &rig{t: t, store: b, writing: b.wire(), reading: b.wire(), want: map[string]string{}, random: mathrand.New(mathrand.NewPCG(seed, 0))}
	b.start()
	r.direct, r.client = b.dial(b.wire()), b.dial(r.writing)
	r.writer = kvstore.NewWriter(kvstore.WriterConfig{Client: r.client, Prefixes: []string{"a/", "b/"}, Marks: []string{"mark"}, Name: "kvtest"})
	running(t, r.writer.Run)
	r.reader = &reader{state: map[string]string{}}
	follower := b.dial(r.reading)
	running(t, func(ctx context.Context) error {
		return follower.Follow(ctx, kvstore.FollowConfig{
			Ranges: []kvstore.Range{kvstore.Prefix("")}, // one: events of two come in any order
			Proof:  proof, Handler: r.reader, Probe: time.Second,
		})
	})
	r.writer.Complete()
	return r
}

// proof is the key by which the reader knows the store.
const proof = "proof"

func running(t *testing.T, fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- fn(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// change sets and deletes some keys; b/x says which value of a/x it refers to.
func (r *rig) change(n int) {
	for range n {
		key := fmt.Sprint(r.random.IntN(80))
		r.turn++
		if r.random.IntN(4) == 0 {
			for _, k := range []string{"b/" + key, "a/" + key} {
				delete(r.want, k)
				r.writer.Delete(k)
			}
			continue
		}
		for _, k := range []string{"a/" + key, "b/" + key} {
			r.want[k] = fmt.Sprint(r.turn)
			r.writer.Set(k, []byte(r.want[k]))
		}
	}
	r.want["mark"] = fmt.Sprint(r.turn)
	r.writer.Set("mark", []byte(r.want["mark"]))
}

// converges checks that store and reader come to what was meant, whatever
// happened before.
func (r *rig) converges() {
	r.t.Helper()
	if err := r.writer.Synced(within(r.t)); err != nil {
		r.t.Fatal(err)
	}
	if err := r.direct.Put(within(r.t), proof, []byte(rand.Text())); err != nil {
		r.t.Fatal(err)
	}
	if got := r.stored(); !maps.Equal(got, r.want) {
		r.t.Fatalf("the store has\n%v\nwant\n%v", got, r.want)
	}
	eventually(r.t, "the reader", func() error {
		if got := r.reader.copy(); !maps.Equal(got, r.want) {
			return fmt.Errorf("has\n%v\nwant\n%v", got, r.want)
		}
		return nil
	})
	r.reader.check(r.t)
	if f := r.writer.Failures(); len(f) > 0 {
		r.t.Errorf("refused: %v", f)
	}
}

func (r *rig) stored() map[string]string {
	r.t.Helper()
	got, err := r.list()
	if err != nil {
		r.t.Fatal(err)
	}
	return got
}

func (r *rig) list() (map[string]string, error) {
	got := map[string]string{}
	err := r.direct.List(within(r.t), kvstore.Prefix(""), func(i kvstore.Item) error {
		if ours(i.Key) {
			got[i.Key] = string(i.Value)
		}
		return nil
	})
	return got, err
}

// ours reports whether a key is the rig's writer's.
func ours(key string) bool {
	return strings.HasPrefix(key, "a/") || strings.HasPrefix(key, "b/") || key == "mark"
}

// reader keeps what it is given, and notes what it must never be: a b/x without
// its a/x at the end of a revision.
type reader struct {
	mu    sync.Mutex
	state map[string]string
	wrong []string
}

func (r *reader) Changes(_ context.Context, changes []kvstore.Change) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, c := range changes {
		switch {
		case !ours(c.Key):
		case c.Deleted:
			delete(r.state, c.Key)
		default:
			r.state[c.Key] = string(c.Value)
		}
		if last := i == len(changes)-1 || changes[i+1].Revision != c.Revision; !last {
			continue
		}
		for key := range r.state {
			if x, ok := strings.CutPrefix(key, "b/"); ok && r.state["a/"+x] == "" {
				r.wrong = append(r.wrong, fmt.Sprintf("revision %d: %s refers to what is not there", c.Revision, key))
			}
		}
	}
	return nil
}

func (r *reader) Complete(context.Context) error { return nil }
func (r *reader) Trouble(error)                  {}

func (r *reader) copy() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.state)
}

func (r *reader) check(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) > 0 {
		t.Errorf("%d times, the first: %s", len(r.wrong), r.wrong[0])
	}
}

func testCut(t *testing.T, r *rig) {
	for i := range 30 {
		r.change(40)
		[]*proxy{r.writing, r.reading}[r.random.IntN(2)].cut()
		if i%5 == 0 {
			r.converges()
		}
	}
	r.converges()
}

func testDelay(t *testing.T, r *rig) {
	for _, p := range []*proxy{r.writing, r.reading} {
		p.set(rules{delay: 20 * time.Millisecond})
	}
	for range 5 {
		r.change(100)
		r.writing.cut()
		r.change(100)
		r.converges()
	}
}

// A path that is silent for longer than a keepalive: the connections are given
// up, and nothing is lost or done twice.
func testStall(t *testing.T, r *rig) {
	r.change(100)
	for _, p := range []*proxy{r.reading, r.writing} {
		p.set(rules{stall: true})
		r.change(100)
		eventually(t, "the stall", func() error {
			if p == r.writing && r.writer.Err() == nil {
				return errors.New("is not noticed")
			}
			return nil
		})
		r.change(50)
		p.set(rules{})
		r.converges()
	}
}

// Writes take effect, and nobody hears of it.
func testLostAnswers(t *testing.T, r *rig) {
	r.change(50)
	r.converges()
	for range 4 {
		r.writing.set(rules{mute: true})
		before := r.stored()
		r.change(60)
		eventually(t, "the write", func() error {
			if maps.Equal(before, r.stored()) {
				return errors.New("has not arrived")
			}
			return nil
		})
		r.change(60)
		r.writing.set(rules{})
		r.writing.cut()
		r.converges()
	}
}

// Requests that were given up arrive after those that were made instead.
func testLateRequests(t *testing.T, r *rig) {
	r.change(100)
	r.converges()
	for range 3 {
		pipes := r.writing.hold()
		r.change(60) // on the way, in a connection that does not deliver
		eventually(t, "the round", func() error {
			if r.writer.Err() == nil { // until it is given up
				abandon(pipes)
				return errors.New("goes on")
			}
			return nil
		})
		r.change(60)
		r.converges()
		r.writing.release(pipes)
		// All that is late has arrived when the store has closed those
		// connections, of which a new request on a new one knows nothing: what
		// counts is that no order of them does harm.
		r.change(5)
		r.converges()
	}
}

// A claim whose answer is lost is one's own when it is made again, and never
// somebody else's.
func testClaims(t *testing.T, r *rig) {
	claims := func(who string) (out []kvstore.Claim) {
		for i := range 150 {
			out = append(out, kvstore.Claim{Key: fmt.Sprint("claims/", i), Value: []byte(who)})
		}
		return out
	}
	r.writing.set(rules{mute: true})
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := r.client.Claim(short, kvstore.Alone(), claims("one")); err == nil {
		t.Fatal("an answer came through")
	}
	r.writing.set(rules{})
	r.writing.cut()
	others, err := r.direct.Claim(within(t), kvstore.Alone(), claims("two"))
	if err != nil {
		t.Fatal(err)
	}
	var mine map[string][]byte
	eventually(t, "claiming again", func() error {
		mine, err = r.client.Claim(within(t), kvstore.Alone(), claims("one"))
		return err
	})
	for i := range 150 {
		key := fmt.Sprint("claims/", i)
		one, two := !bytes.Equal(mine[key], []byte("two")), others[key] == nil
		if one == two {
			t.Errorf("%s: it is one's %v and two's %v", key, one, two)
		}
	}
}

// History is dropped under a reader that is away, and one that is connected.
func testCompaction(t *testing.T, r *rig) {
	r.change(100)
	r.converges()
	for range 4 {
		r.reading.set(rules{shut: true})
		r.reading.cut()
		r.change(100)
		if err := r.writer.Synced(within(t)); err != nil {
			t.Fatal(err)
		}
		etcd := r.direct.Etcd()
		now, err := etcd.Get(within(t), "mark")
		if err == nil {
			_, err = etcd.Compact(within(t), now.Header.Revision, clientv3.WithCompactPhysical())
		}
		if err != nil {
			t.Fatal(err)
		}
		r.reading.set(rules{})
		r.change(20)
		r.converges()
	}
}

// The store is emptied, and its address the same.
func testReplaced(t *testing.T, r *rig) {
	for range 2 {
		r.change(300)
		r.converges()
		r.store.wipe()
		r.change(30)
		r.store.start()
		eventually(t, "the new store", func() error {
			got, err := r.list()
			if err == nil && len(got) == 0 {
				err = errors.New("is empty")
			}
			return err
		})
		r.converges()
	}
}

// One that is cut off from the store is replaced, and knows when it is back.
func testElection(t *testing.T, r *rig) {
	stand := func(name string, ttl time.Duration) (*kvstore.Election, *proxy) {
		p := r.store.wire()
		e := kvstore.NewElection(kvstore.ElectionConfig{Client: r.store.dial(p), Name: name, TTL: ttl})
		running(t, e.Run)
		return e, p
	}
	writes := func(e *kvstore.Election, want bool) {
		t.Helper()
		eventually(t, "the election", func() error {
			if term, _ := e.Term(); term.Writes() != want {
				return fmt.Errorf("writes is not %v: %+v", want, e.Standing())
			}
			return nil
		})
	}
	one, wire := stand("one", 2*time.Second) // which is waited for
	writes(one, true)
	two, _ := stand("two", patience)
	old, _ := one.Term()
	wire.set(rules{shut: true})
	wire.cut()
	writes(two, true)
	if _, err := r.direct.Claim(within(t), old, []kvstore.Claim{{Key: "claims/x"}}); !errors.Is(err, kvstore.ErrDeposed) {
		t.Errorf("a claim of the one that was replaced: %v", err)
	}
	wire.set(rules{})
	writes(one, false)
}

// Out of quota nothing can be written and all can be read; when there is room
// again it goes on by itself.
func testQuota(t *testing.T, r *rig) {
	r.change(50)
	r.converges()
	value := bytes.Repeat([]byte("x"), 256<<10)
	puts := 0
	for ; puts < 400 && r.direct.Put(within(t), "fill", value) == nil; puts++ {
	}
	if puts == 400 {
		t.Fatal("the quota is not reached")
	}
	r.change(100)
	eventually(t, "room", func() error {
		if err := r.store.room(within(t)); err != nil {
			return err
		}
		return r.direct.Delete(within(t), "fill")
	})
	r.converges()
}
