package kvstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	defaultProbe = 10 * time.Second

	// settled is how long following must have gone well for the next trouble
	// to be retried as fast as a first one.
	settled = 10 * time.Second
)

// Handler receives what Follow reads. Its methods are called by one goroutine,
// one at a time; while one runs, nothing is read from the store. An error
// ends Follow.
type Handler interface {
	// Changes gives new values and deletions. While watching they come in the
	// order of their revisions in each range; while listing in key order, and
	// deletions only after the list is complete. A value that did not change
	// since it was given last is left out, also when it was written again or
	// another store has it. Every key is in one of the ranges. The handler owns
	// the slice and the values.
	Changes(ctx context.Context, changes []Change) error
	// Complete says that everything in the store has been given: after each
	// listing, and when following goes on after Trouble (what was missed then
	// comes right after).
	Complete(ctx context.Context) error
	// Trouble says that the store is not followed at present, and why; again
	// with each attempt that fails, until Complete. What it says is the
	// handler's to log.
	Trouble(err error)
}

// FollowConfig says what to follow.
type FollowConfig struct {
	// Ranges must not overlap. They are listed at one revision, in their order;
	// what is gone in the meantime is given in the reverse of it.
	Ranges []Range
	// Require are keys without which nothing is listed: the store is not
	// ready, and what it lacks says nothing. They are looked for at the
	// revision that is listed then. Until they are there, Trouble says
	// ErrNotReady and what is known stays.
	Require []string
	// Proof is a key whose every value is a new one, like a heartbeat's. By it
	// a store is known again after a break, and following goes on where it was.
	// While the store has none, everything is listed again. Handler gets it only
	// if Ranges have it.
	Proof   string
	Handler Handler
	// KeyBytes bounds what is remembered of keys, with keyCost for each besides its
	// length. Follow ends with ErrTooManyKeys at a store that has more, or whose
	// list never ends. 0 means no bound, for a store of our own.
	KeyBytes int
	// Allow is told of each message that was read, before it is looked at: its bytes,
	// and whether it is part of a list. Nothing more is read until it returns. Its
	// error ends Follow. nil: as fast as the store answers.
	Allow func(ctx context.Context, bytes int, listing bool) error
	// Probe is how often the store is asked whether it is still the same and
	// alive; one that was wiped, or is silent, is noticed within three times
	// that. 0 means 10 s.
	Probe  time.Duration
	Logger *slog.Logger // nil: the client's
}

// Follow gives the handler the state of the ranges and every change until ctx
// ends, then returns nil; else it returns the handler's error, or ErrTooManyKeys,
// wrapped. It survives
// broken connections, compaction, and a store that is wiped or replaced. It
// keeps the keys in memory, not the values.
func (c *Client) Follow(ctx context.Context, cfg FollowConfig) error {
	if len(cfg.Ranges) == 0 {
		return errors.New("follow: no ranges are given")
	}
	if cfg.Probe == 0 {
		cfg.Probe = defaultProbe
	}
	if cfg.Logger == nil {
		cfg.Logger = c.log
	}
	f := &follower{
		client:  c,
		watcher: pb.NewWatchClient(c.etcd.ActiveConnection()),
		cfg:     cfg,
		seed:    maphash.MakeSeed(),
		ranges:  cfg.ranges(),
		known:   make(map[string]known),
	}
	f.next = make([]int64, len(f.ranges))
	return f.run(ctx)
}

// ranges are what is read: those that were asked for, and the proof.
func (c *FollowConfig) ranges() []Range {
	has := func(r Range) bool { return r.contains(c.Proof) }
	if c.Proof == "" || slices.ContainsFunc(c.Ranges, has) {
		return c.Ranges
	}
	return append(slices.Clip(c.Ranges), Key(c.Proof))
}

// keyCost is what a key that is remembered takes besides its length, in bytes.
const keyCost = 64

// known is what the handler was told of a key. The hash tells one value from
// another where a revision cannot: in another store.
type known struct {
	hash uint64
	turn uint32 // the listing or the watch after it in which the key was last met
}

// follower is the state of one Follow. One goroutine owns it.
type follower struct {
	client  *Client
	watcher pb.WatchClient
	cfg     FollowConfig
	seed    maphash.Seed
	ranges  []Range // the proof's is behind those of cfg

	known    map[string]known
	keyBytes int    // of known, see FollowConfig
	turn     uint32 // counts listings

	listed bool    // store and next are of a complete listing
	store  store   // what was listed
	next   []int64 // revision to watch from, for each range
}

// handlerError marks what, mostly of the handler, must end Follow rather than be tried again.
type handlerError struct{ error }

func (f *follower) run(ctx context.Context) error {
	again := newBackoff()
	for {
		begun := time.Now()
		err := f.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var fatal handlerError
		if errors.As(err, &fatal) {
			return fatal.error
		}
		f.cfg.Handler.Trouble(err)
		if time.Since(begun) > settled {
			again.Reset()
		}
		if !retry.Sleep(ctx, again.Next()) {
			return nil
		}
	}
}

// session lists if it must, and watches until something goes wrong.
func (f *follower) session(ctx context.Context) error {
	resume := false
	if f.listed {
		found, err := f.client.check(ctx, f.store)
		if err != nil && !errors.Is(err, ErrOtherStore) {
			return err
		}
		resume = found == storeSame
		if !resume {
			f.cfg.Logger.Info("store changed or forgot its history, list everything again",
				"range", f.cfg.Ranges[0].String(), "revision", f.store.revision)
		}
	}
	if !resume {
		if err := f.relist(ctx); err != nil {
			return err
		}
	}
	err := f.watch(ctx, resume)
	if errors.Is(err, ErrCompacted) || errors.Is(err, ErrOtherStore) || isTooLarge(err) {
		f.listed = false
	}
	return err
}

// relist gives the handler everything that it does not have yet, then the
// deletions, which nobody can know before the list is complete.
func (f *follower) relist(ctx context.Context) error {
	f.listed = false
	f.turn++
	now := store{anchor: anchor{key: f.anchorKey()}}
	if err := f.require(ctx, &now); err != nil {
		return err
	}
	for _, r := range f.ranges {
		header, err := f.client.list(ctx, r, now.revision, func(resp *pb.RangeResponse) error {
			return f.page(ctx, resp, &now)
		})
		if err != nil {
			return err
		}
		if err := now.join(header); err != nil {
			return fmt.Errorf("list %q: %w", r, err)
		}
	}
	if err := f.forget(ctx); err != nil {
		return err
	}
	f.store, f.listed = now, true
	for i := range f.next {
		f.next[i] = now.revision + 1
	}
	return handled(f.cfg.Handler.Complete(ctx))
}

// require looks for the keys without which the store is not ready.
func (f *follower) require(ctx context.Context, now *store) error {
	for _, key := range f.cfg.Require {
		resp, err := f.client.rangeOnce(ctx, &pb.RangeRequest{Key: []byte(key), Revision: now.revision, KeysOnly: true})
		if err != nil {
			return fmt.Errorf("look for %q: %w", key, err)
		}
		if err := now.join(resp.Header); err != nil {
			return fmt.Errorf("look for %q: %w", key, err)
		}
		if len(resp.Kvs) == 0 {
			return fmt.Errorf("look for %q: %w", key, ErrNotReady)
		}
	}
	return nil
}

// page passes on what is new in one page of a list.
func (f *follower) page(ctx context.Context, resp *pb.RangeResponse, now *store) error {
	if err := f.allow(ctx, proto.Size(resp), true); err != nil {
		return err
	}
	var changes []Change
	for _, kv := range resp.Kvs {
		hash := maphash.Bytes(f.seed, kv.Value)
		key := string(kv.Key)
		if key == f.cfg.Proof {
			now.anchor.advance(f.seed, kv, hash)
		}
		if !f.asked(key) {
			continue
		}
		old, ok, err := f.note(key, hash)
		if err != nil {
			return err
		}
		if !ok || old.hash != hash {
			changes = append(changes, Change{Key: key, Value: kv.Value, Revision: kv.ModRevision})
		}
	}
	return f.give(ctx, changes)
}

// note remembers what a key has, if there is room, and returns what it had.
func (f *follower) note(key string, hash uint64) (old known, had bool, err error) {
	old, had = f.known[key]
	if !had {
		bytes := f.keyBytes + len(key) + keyCost
		if f.cfg.KeyBytes > 0 && bytes > f.cfg.KeyBytes {
			return old, had, handlerError{fmt.Errorf("follow %q, %d keys: %w", f.cfg.Ranges[0], len(f.known), ErrTooManyKeys)}
		}
		f.keyBytes = bytes
	}
	f.known[key] = known{hash: hash, turn: f.turn}
	return old, had, nil
}

// drop forgets a key.
func (f *follower) drop(key string) {
	if _, had := f.known[key]; had {
		f.keyBytes -= len(key) + keyCost
		delete(f.known, key)
	}
}

// asked reports whether the handler is to have what is read of key.
func (f *follower) asked(key string) bool {
	return key != f.cfg.Proof || len(f.ranges) == len(f.cfg.Ranges)
}

// anchorKey is what a check of the store asks for.
func (f *follower) anchorKey() string {
	return cmp.Or(f.cfg.Proof, f.cfg.Ranges[0].key)
}

// forget gives the deletion of every key that the last listing did not have, the
// ranges in reverse: what a key refers to goes after it.
func (f *follower) forget(ctx context.Context) error {
	gone := make([][]Change, len(f.cfg.Ranges))
	for key, k := range f.known {
		if k.turn == f.turn {
			continue
		}
		f.drop(key)
		for i, r := range f.cfg.Ranges {
			if r.contains(key) {
				gone[i] = append(gone[i], Change{Key: key, Deleted: true})
			}
		}
	}
	for _, changes := range slices.Backward(gone) {
		for page := range slices.Chunk(changes, pageKeys) {
			if err := f.give(ctx, page); err != nil {
				return err
			}
		}
	}
	return nil
}

// give passes changes to the handler.
func (f *follower) give(ctx context.Context, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	return handled(f.cfg.Handler.Changes(ctx, changes))
}

// allow waits until what was read may be looked at.
func (f *follower) allow(ctx context.Context, bytes int, listing bool) error {
	if f.cfg.Allow == nil {
		return nil
	}
	return handled(f.cfg.Allow(ctx, bytes, listing))
}

func handled(err error) error {
	if err != nil {
		return handlerError{err}
	}
	return nil
}
