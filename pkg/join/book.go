package join

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// How long after an attempt that failed what etcd lacks is put back again.
const (
	firstRestore = time.Second
	lastRestore  = 30 * time.Second
)

// inEffectTimeout bounds how long a change waits to be seen by this replica.
const inEffectTimeout = 10 * time.Second

// book is what is known of other clusters. What is in etcd counts, for all
// replicas alike; the files are a copy, which is put back where etcd has lost it.
// Nothing is forgotten because a key is gone: whoever leaves has a record that
// says so.
type book struct {
	etcd    *kvstore.Client
	files   files
	log     *slog.Logger
	exclude func(name string, before time.Time)
	readmit func(name string, before time.Time)

	saving sync.Mutex // held while files are written

	unwritten, unreached telling // of what is not in etcd yet

	mu      sync.Mutex
	members map[string]member
	stored  map[string][]byte // in etcd, as far as it was followed
	behind  map[string]bool   // whose record etcd lacks
	unsaved map[string]bool   // whose record the disk lacks
	ahead   map[string]bool   // whose files may be newer than the record
	ways    map[string]wayTo  // what clusters said last of where they are reached
	changed chan struct{}     // closed and replaced when members changes

	loaded  chan struct{} // closed when etcd was read once
	restore chan struct{} // wakes the loop that puts back
	resave  chan struct{} // wakes the loop that saves again
	writes  chan struct{} // wakes the loop that writes renewed pairs back
}

func newBook(etcd *kvstore.Client, dir string, log *slog.Logger, exclude, readmit func(string, time.Time)) *book {
	return &book{
		etcd: etcd, files: files{dir: dir}, log: log, exclude: exclude, readmit: readmit,
		members: map[string]member{}, stored: map[string][]byte{}, behind: map[string]bool{}, unsaved: map[string]bool{}, ahead: map[string]bool{}, ways: map[string]wayTo{},
		changed: make(chan struct{}), loaded: make(chan struct{}), restore: make(chan struct{}, 1), resave: make(chan struct{}, 1), writes: make(chan struct{}, 1),
	}
}

// load takes in what the files say.
func (b *book) load() error {
	known, err := b.files.load()
	if known == nil {
		return err
	}
	if err != nil {
		b.log.Error("a file of a joined cluster is not used, what etcd has of it is", "error", err)
	}
	for name, m := range known {
		b.take(name, m)
	}
	return nil
}

// run follows etcd until ctx ends.
func (b *book) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return b.etcd.Follow(ctx, kvstore.FollowConfig{
			Ranges: []kvstore.Range{kvstore.Prefix(memberPrefix)}, Proof: wire.HeartbeatKey, Handler: (*followed)(b), Logger: b.log,
		})
	})
	g.Go(func() error {
		repeat(ctx, b.restore, b.putBackAll)
		return nil
	})
	g.Go(func() error {
		repeat(ctx, b.resave, b.saveAll)
		return nil
	})
	g.Go(func() error {
		repeat(ctx, b.writes, b.writeAll)
		return nil
	})
	g.Go(func() error {
		every(ctx, reviseEvery, b.revise)
		return nil
	})
	g.Go(func() error {
		every(ctx, followEvery, func(time.Time) { b.writeReached(ctx) })
		return nil
	})
	return g.Wait()
}

// followed is the book as the handler of what etcd says.
type followed book

// Changes takes in records; one that is gone is put back.
func (f *followed) Changes(_ context.Context, changes []kvstore.Change) error {
	b := (*book)(f)
	for _, c := range changes {
		name := memberName(c.Key)
		if c.Deleted {
			b.lost(name)
			continue
		}
		m, err := parseMember(name, c.Value)
		if err != nil {
			b.log.Error("record of a joined cluster is not used", "key", c.Key, "error", err)
			continue
		}
		b.mu.Lock()
		b.stored[name] = c.Value
		known := b.members[name]
		b.mu.Unlock()
		if known.outdates(m) { // etcd was set back: who was put out stays out, and unread
			m = known
			b.lost(name)
		}
		b.take(name, m)
	}
	return nil
}

// Complete puts back what only the files know.
func (f *followed) Complete(context.Context) error {
	b := (*book)(f)
	b.mu.Lock()
	names := slices.Collect(maps.Keys(b.members))
	b.mu.Unlock()
	for _, name := range names {
		b.mu.Lock()
		_, there := b.stored[name]
		b.mu.Unlock()
		if !there {
			b.lost(name)
		}
		b.renewed(name) // an earlier run may have ended before it was written
	}
	select {
	case <-b.loaded:
	default:
		close(b.loaded)
	}
	return nil
}

// Trouble changes nothing: what is known stays.
func (f *followed) Trouble(err error) {
	f.log.Debug("joined clusters are not followed in etcd", "error", err)
}

// lost marks a record to be put back.
func (b *book) lost(name string) {
	b.mu.Lock()
	delete(b.stored, name)
	b.behind[name] = true
	b.mu.Unlock()
	select {
	case b.restore <- struct{}{}:
	default:
	}
}

// repeat calls attempt when it is woken, and again until that reports success, until
// ctx ends.
func repeat(ctx context.Context, wake <-chan struct{}, attempt func(context.Context) bool) {
	again := retry.Backoff{First: firstRestore, Limit: lastRestore}
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		for !attempt(ctx) {
			if !retry.Sleep(ctx, again.Next()) {
				return
			}
		}
		again.Reset()
	}
}

// every calls do from time to time until ctx ends.
func every(ctx context.Context, period time.Duration, do func(now time.Time)) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			do(now)
		}
	}
}

// putBackAll writes to etcd what it lacks.
func (b *book) putBackAll(ctx context.Context) bool {
	b.mu.Lock()
	names := slices.Sorted(maps.Keys(b.behind))
	b.mu.Unlock()
	for _, name := range names {
		err := b.swap(ctx, name, nil, func(m member) (member, error) { return m, nil })
		if err != nil {
			b.log.Debug("record of a joined cluster is not in etcd yet, will retry", "cluster", name, "error", err)
			return false
		}
		b.log.Info("record of a joined cluster is put back in etcd", "cluster", name)
		b.mu.Lock()
		delete(b.behind, name)
		b.mu.Unlock()
	}
	return true
}

// take makes m what is known of a cluster, in memory, for the gateway, and on disk.
func (b *book) take(name string, m member) {
	b.mu.Lock()
	reset := m.Resets > b.members[name].Resets
	b.members[name] = m
	close(b.changed)
	b.changed = make(chan struct{})
	b.mu.Unlock()
	if reset {
		b.readmit(name, m.Out)
	}
	if !m.Out.IsZero() {
		b.exclude(name, m.Out)
	}
	b.save(name)
}

// save writes what is known of a cluster to disk, and has it done again where that fails.
// Of several calls each writes the newest.
func (b *book) save(name string) bool {
	b.saving.Lock()
	defer b.saving.Unlock()
	err := b.files.save(name, b.member(name))
	b.mu.Lock()
	before := b.unsaved[name]
	delete(b.unsaved, name)
	if err != nil {
		b.unsaved[name] = true
	}
	b.mu.Unlock()
	switch {
	case err != nil && !before:
		b.log.Error("joined cluster is not written to disk, will retry", "cluster", name, "error", err)
	case err == nil && before:
		b.log.Info("joined cluster is written to disk after all", "cluster", name)
	}
	if err != nil {
		select {
		case b.resave <- struct{}{}:
		default:
		}
	}
	return err == nil
}

// saveAll writes to disk what it lacks.
func (b *book) saveAll(context.Context) bool {
	b.mu.Lock()
	names := slices.Sorted(maps.Keys(b.unsaved))
	b.mu.Unlock()
	all := true
	for _, name := range names {
		all = b.save(name) && all
	}
	return all
}

// errBusy is returned when others change a record all the time.
var errBusy = errors.New("somebody else changes the same, try again")

// update changes the record of a cluster for all replicas and returns when this
// one has it in effect, or what somebody made of it since. change may be called several
// times.
func (b *book) update(ctx context.Context, name string, change func(member) (member, error)) error {
	return b.admit(ctx, name, nil, change)
}

// admit is update for a change that judge refuses, or not, by what is known of all
// clusters. Of several that are admitted at a time, at whichever replicas, each is judged
// by those before it. judge may be nil, and called several times.
func (b *book) admit(ctx context.Context, name string, judge func(map[string]member) error, change func(member) (member, error)) error {
	var want []byte
	err := b.swap(ctx, name, judge, func(m member) (member, error) {
		next, err := change(m)
		want = next.encode()
		return next, err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, inEffectTimeout, errors.New("etcd is not followed at present"))
	defer cancel()
	for {
		b.mu.Lock()
		m, changed := b.members[name], b.changed
		b.mu.Unlock()
		if bytes.Equal(m.encode(), want) {
			return nil
		}
		if text, found, err := b.etcd.Get(ctx, memberPrefix+name); err == nil && found {
			if now, err := parseMember(name, text); err == nil {
				want = now.encode()
			}
		}
		if bytes.Equal(m.encode(), want) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("cluster %s is changed in etcd and not in effect here yet: %w", name, context.Cause(ctx))
		}
	}
}

// swap changes a record in etcd by compare-and-swap. A record that etcd lacks is
// the one that is known here. For judge, see admit.
func (b *book) swap(ctx context.Context, name string, judge func(map[string]member) error, change func(member) (member, error)) error {
	key := memberPrefix + name
	again := retry.Backoff{First: 5 * time.Millisecond, Limit: 100 * time.Millisecond}
	for range 10 {
		beside, err := b.judged(ctx, judge)
		if err != nil {
			return err
		}
		m, old, found, err := b.current(ctx, name)
		if err != nil {
			return err
		}
		next, err := change(m)
		if err != nil {
			return err
		}
		value := next.encode()
		if found && bytes.Equal(old, value) {
			return nil
		}
		done, err := b.etcd.SwapAll(ctx, append(beside, kvstore.Swap{Key: key, Old: old, Found: found, Value: value})...)
		if err != nil {
			// It may be done all the same, and only the answer was lost.
			if now, there, failed := b.etcd.Get(ctx, key); failed == nil && there && bytes.Equal(now, value) {
				return nil
			}
			return err
		}
		if done {
			return nil
		}
		if !retry.Sleep(ctx, again.Next()) {
			return context.Cause(ctx)
		}
	}
	return fmt.Errorf("change the record of cluster %s: %w", name, errBusy)
}

// judged asks judge, if there is one, and returns what makes a change fail that comes
// after another admission than those that judge saw.
func (b *book) judged(ctx context.Context, judge func(map[string]member) error) ([]kvstore.Swap, error) {
	if judge == nil {
		return nil, nil
	}
	text, found, err := b.etcd.Get(ctx, admissionKey) // before the others are read
	if err != nil {
		return nil, err
	}
	all := b.all()
	err = b.etcd.List(ctx, kvstore.Prefix(memberPrefix), func(item kvstore.Item) error {
		name := memberName(item.Key)
		m, err := parseMember(name, item.Value)
		if err == nil && !all[name].outdates(m) { // what can not be read was logged when it was followed
			all[name] = m
		}
		return nil
	})
	if err == nil {
		err = judge(all)
	}
	count, _ := strconv.ParseUint(string(text), 10, 64) // what is no number is replaced by one
	next := strconv.AppendUint(nil, count+1, 10)
	return []kvstore.Swap{{Key: admissionKey, Old: text, Found: found, Value: next}}, err
}

// current returns a record as etcd has it now, besides the text that is there. One
// that etcd lacks is the one that is known here.
func (b *book) current(ctx context.Context, name string) (m member, text []byte, found bool, err error) {
	text, found, err = b.etcd.Get(ctx, memberPrefix+name)
	if err != nil {
		return member{}, nil, false, err
	}
	known := b.member(name)
	if !found {
		return known, nil, false, nil
	}
	if m, err = parseMember(name, text); err != nil {
		return member{}, nil, false, err
	}
	if known.outdates(m) { // etcd was set back
		m = known
	}
	return m, text, true, nil
}

// maxAhead is how far Out may be ahead of the clock to be waited for: the rest of
// the second in which a cluster was put out, and what replicas' clocks differ by.
const maxAhead = 5 * time.Second

// settle waits until the time has come from which the clusters are out that were put
// out a moment ago, so that an invitation of now is newer.
func (b *book) settle(ctx context.Context) {
	var wait time.Duration
	for _, m := range b.all() {
		if ahead := time.Until(m.Out); ahead <= maxAhead {
			wait = max(wait, ahead)
		}
	}
	retry.Sleep(ctx, wait)
}

func (b *book) member(name string) member {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.members[name]
}

// all returns what is known of every cluster.
func (b *book) all() map[string]member {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.members)
}

// lacking returns of how many clusters the disk lacks the record.
func (b *book) lacking() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(len(b.unsaved))
}
