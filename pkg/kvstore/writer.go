package kvstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// WriterConfig says what a writer owns.
type WriterConfig struct {
	Client *Client
	// Prefixes are what the writer owns, in the order in which things are to
	// be written; deletions go in the reverse order. One that does not end in
	// "/" is one key. They must not overlap.
	Prefixes []string
	// Marks are keys, or prefixes, that speak for all the others: they are
	// written after them and deleted before them, and not pruned, so that what
	// an earlier run said holds until this one takes it back.
	Marks []string
	// Election decides when this process writes; nil when no other one may.
	// While another does, the writer only follows what is in the store.
	Election *Election
	// Term, when it is not zero, is the only one in which the writer writes.
	Term Term
	// Pace is from the beginning of a round of writes to the next one's, at
	// least: what is Set meanwhile is written together, which spares the store
	// a transaction for each. 0 for what others wait for.
	Pace time.Duration
	// Name tells the writer from others in logs and metrics.
	Name       string
	Logger     *slog.Logger          // nil: the client's
	Registerer prometheus.Registerer // may be nil
}

// Failure is a value that the store refuses.
type Failure struct {
	Reason string
	Since  time.Time
}

// Writer makes the keys under its prefixes what it was told, and keeps them
// so: it follows what the store has, and writes the difference. So nothing is
// written that is there already, and a store that was wiped and another's hand
// on the keys are repaired.
//
// Every transaction compares a key of the writer's own, the fence, which is
// written anew before the first one and after each that failed. So a request
// that was given up and arrives late after all (its connection broke, its
// answer was lost) changes nothing, nor does one that reaches another store.
// Of two writers of one name, the one that wrote the fence last writes.
//
// A store that is out of quota takes deletions, which are then written first and
// alone, behind a fence that is not there; the rest waits (ErrNoSpace).
//
// It keeps every value that was Set, once, since the store may lose them. Its
// methods may be called concurrently.
type Writer struct {
	cfg      WriterConfig
	log      *slog.Logger
	ranges   []Range
	seed     maphash.Seed
	started  atomic.Bool
	wake     chan struct{} // holds one token when there may be work
	counters *writerMetrics

	mu        sync.Mutex
	records   map[string]*record
	dirty     map[string]struct{} // keys to be looked at in the next round
	repair    map[string]struct{} // the same, a moment later: see rest
	failures  map[string]Failure
	pruning   bool  // Complete was called
	listed    bool  // the records know what the store has, and it is followed
	trouble   error // why nothing is written at present
	fence     int64 // revision at which the fence was written; 0: it must be
	fenceTerm Term  // in which it was
	// epoch counts the times that what we knew of the store was put in
	// doubt. The outcome of a request from an earlier one says nothing.
	epoch int
	calls int64         // Set, Delete and Complete so far
	done  int64         // those of them that are written
	moved chan struct{} // closed and replaced when done moves
}

// NewWriter makes a writer that writes nothing before Run.
func NewWriter(cfg WriterConfig) *Writer {
	if cfg.Logger == nil {
		cfg.Logger = cfg.Client.log
	}
	w := &Writer{
		cfg:      cfg,
		log:      cfg.Logger.With("writer", cfg.Name),
		seed:     maphash.MakeSeed(),
		wake:     make(chan struct{}, 1),
		records:  make(map[string]*record),
		dirty:    make(map[string]struct{}),
		repair:   make(map[string]struct{}),
		failures: make(map[string]Failure),
		moved:    make(chan struct{}),
	}
	for _, p := range slices.Concat(cfg.Prefixes, cfg.Marks) {
		if strings.HasSuffix(p, "/") {
			w.ranges = append(w.ranges, Prefix(p))
		} else {
			w.ranges = append(w.ranges, Key(p))
		}
	}
	w.counters = newWriterMetrics(w)
	return w
}

// Set makes value the key's value. It never blocks. The writer owns value from now on.
func (w *Writer) Set(key string, value []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	rank := w.rank(key)
	if rank < 0 {
		w.failures[key] = Failure{Reason: "key is under none of the writer's prefixes", Since: time.Now()}
		return
	}
	r := w.records[key]
	if r == nil {
		r = w.newRecord(rank)
		w.records[key] = r
	}
	hash := maphash.Bytes(w.seed, value)
	if !r.wanted || r.hash != hash {
		w.forgive(key, r)
	}
	r.value, r.hash, r.wanted, r.drop = value, hash, true, false
	w.touch(key, r)
}

// Delete makes the key absent. It never blocks.
func (w *Writer) Delete(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	r := w.records[key]
	if r == nil {
		delete(w.failures, key)
		if w.listed || w.rank(key) < 0 {
			return
		}
		// The store may have it. The record waits for the list.
		r = w.newRecord(w.rank(key))
		w.records[key] = r
	}
	if r.wanted {
		w.forgive(key, r)
	}
	r.value, r.wanted, r.drop = nil, false, true
	w.touch(key, r)
}

// Value returns what a key was Set to, which is not to be changed; nil for a key
// that is to be absent.
func (w *Writer) Value(key string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r := w.records[key]; r != nil && r.wanted {
		return r.value
	}
	return nil
}

// Complete says that everything that should exist has been Set: from now on
// what the store has and nobody Set is deleted. It never blocks.
func (w *Writer) Complete() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	if w.pruning {
		return
	}
	w.pruning = true
	for key, r := range w.records {
		w.touch(key, r)
	}
}

// Synced waits until everything that was Set, Deleted and Completed before the
// call is in the store, but for what the store refuses (see Failures). It
// returns ErrStandby, wrapped, when another process writes.
func (w *Writer) Synced(ctx context.Context) error {
	w.mu.Lock()
	target := w.calls
	w.mu.Unlock()
	for {
		w.mu.Lock()
		done, moved := w.done, w.moved
		w.mu.Unlock()
		if done >= target {
			return nil
		}
		_, changed := w.cfg.Election.Term()
		if !w.term().Writes() {
			return fmt.Errorf("wait for %q to be written: %w", w.cfg.Name, ErrStandby)
		}
		w.poke()
		select {
		case <-moved:
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for %q to be written: %w", w.cfg.Name, ctx.Err())
		}
	}
}

// Failures returns the keys whose value the store refuses at present. The
// caller owns the map.
func (w *Writer) Failures() map[string]Failure {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.failures)
}

// Err says why nothing can be written at present; nil when all is well. What
// waits is written once it can be.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trouble
}

// Run writes until ctx ends, then returns nil. It may be called once.
func (w *Writer) Run(ctx context.Context) error {
	if !w.started.CompareAndSwap(false, true) {
		return errors.New("run writer: Run was called before")
	}
	unregister, err := w.counters.register(w.cfg.Registerer)
	if err != nil {
		return fmt.Errorf("run writer %q: %w", w.cfg.Name, err)
	}
	defer unregister()
	ctx, cancel := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() {
		defer cancel()
		followed <- w.cfg.Client.Follow(ctx, FollowConfig{Ranges: w.ranges, Proof: string(w.fenceKey()), Handler: watched{w}, Logger: w.log})
	}()
	w.loop(ctx)
	cancel()
	if err := <-followed; err != nil {
		return fmt.Errorf("run writer %q: %w", w.cfg.Name, err)
	}
	return nil
}

// term is the one in which the writer may write at present, zero for none.
func (w *Writer) term() Term {
	now, _ := w.cfg.Election.Term()
	if w.cfg.Term != (Term{}) && w.cfg.Term != now {
		return Term{}
	}
	return now
}

func (w *Writer) newRecord(rank int) *record {
	return &record{rank: int32(rank), mark: rank >= len(w.cfg.Prefixes)}
}

// rank is the place of the key's prefix in the order of writing; -1: it is not ours.
func (w *Writer) rank(key string) int {
	for i, r := range w.ranges {
		if r.contains(key) {
			return i
		}
	}
	return -1
}

// touch puts the key to the next round if it is not as it should be. The caller holds mu.
func (w *Writer) touch(key string, r *record) {
	if r.needs(w.pruning) {
		w.dirty[key] = struct{}{}
		w.poke()
	}
}

// forgive gives a refused key a new chance. The caller holds mu.
func (w *Writer) forgive(key string, r *record) {
	r.refused = nil
	delete(w.failures, key)
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
