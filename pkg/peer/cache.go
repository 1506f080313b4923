package peer

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// cachePace is how far the cache lags behind at least. A transaction for each
// change, with its write to the disk, would cost most of all that a change costs.
const cachePace = time.Second

// cache is what a peer said, kept in our own etcd for a restart while the peer
// is away. It is written behind what memory has, and may lag.
type cache struct {
	layout wire.Layout
	etcd   *kvstore.Client
	state  *kvstore.Writer
	// marks are the peer's config and the markers that say that the state is
	// whole.
	marks *kvstore.Writer
	// whole wakes run with the turn in which everything has been set.
	whole chan int

	mu sync.Mutex
	// turn counts the times that the cache was withdrawn.
	turn int
}

func newCache(peer string, etcd *kvstore.Client, log *slog.Logger) *cache {
	l := wire.Layout{Cluster: peer, Cached: true}
	var state, marks []string
	for _, kind := range wire.Kinds() {
		state = append(state, l.Prefix(kind))
		marks = append(marks, l.Marker(kind))
	}
	// The writers' own metrics would be one series a peer, for ever: the
	// session counts what it passes on.
	writer := func(name string, prefixes []string) *kvstore.Writer {
		return kvstore.NewWriter(kvstore.WriterConfig{Client: etcd, Name: name, Prefixes: prefixes, Pace: cachePace, Logger: log})
	}
	return &cache{
		layout: l, etcd: etcd,
		state: writer("cache of "+peer, state),
		marks: writer("marks of "+peer, append(marks, wire.ConfigKey(peer))),
		whole: make(chan int, 1),
	}
}

// config returns the config that an earlier run cached, nil for none: then what
// is cached is part of a state that was never whole, or that was being drained,
// and is not to be used.
func (c *cache) config(ctx context.Context) (*cluster.Config, error) {
	name := c.layout.Cluster
	value, found, err := c.etcd.Get(ctx, wire.ConfigKey(name))
	if err != nil {
		return nil, fmt.Errorf("read the cached config of %s: %w", name, err)
	}
	if !found {
		return nil, nil
	}
	config, err := wire.DecodeConfig(name, value)
	if err != nil {
		return nil, nil // of another version of ours; the peer says it again
	}
	return &config, nil
}

// load gives fn everything that an earlier run cached. whole says that it is all
// that the peer had published.
func (c *cache) load(ctx context.Context, fn func(kvstore.Item) error) (whole bool, err error) {
	name := c.layout.Cluster
	whole = true
	for _, kind := range inOrder() {
		if err := c.etcd.List(ctx, kvstore.Prefix(c.layout.Prefix(kind)), fn); err != nil {
			return false, fmt.Errorf("read the cached %s of %s: %w", kind, name, err)
		}
		_, found, err := c.etcd.Get(ctx, c.layout.Marker(kind))
		if err != nil {
			return false, fmt.Errorf("read the cached marker of %s for %s: %w", name, kind, err)
		}
		whole = whole && found
	}
	return whole, nil
}

// complete says that everything that the peer has was Set.
func (c *cache) complete() {
	c.state.Complete()
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.whole: // one that is not taken yet: this one is newer
	default:
	}
	c.whole <- c.turn
}

// withdraw takes back that the cache is whole, and returns when nobody can read
// any more that it is. What is in it stays. Only then may keys go that do not
// come back: a reader, such as our own next start, must not take the rest for all.
func (c *cache) withdraw(ctx context.Context) error {
	c.mu.Lock()
	c.turn++
	for _, kind := range wire.Kinds() {
		c.marks.Delete(c.layout.Marker(kind))
	}
	c.marks.Delete(wire.ConfigKey(c.layout.Cluster))
	c.mu.Unlock()
	return c.marks.Synced(ctx)
}

// mark says that the cache is whole unless it was withdrawn since that turn.
func (c *cache) mark(turn int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if turn != c.turn {
		return
	}
	now := wire.EncodeTime(time.Now())
	for _, kind := range wire.Kinds() {
		c.marks.Set(c.layout.Marker(kind), now)
	}
}

// setConfig keeps the peer's config, which says from then on that it is cached.
func (c *cache) setConfig(config cluster.Config) error {
	config.Cached = true
	value, err := wire.EncodeConfig(config)
	if err != nil {
		return fmt.Errorf("cache the config of %s: %w", config.Name, err)
	}
	c.marks.Set(wire.ConfigKey(config.Name), value)
	return nil
}

// run writes until ctx ends. The markers come when the state is whole in etcd.
func (c *cache) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.state.Run(ctx) })
	g.Go(func() error { return c.marks.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case turn := <-c.whole:
				if c.state.Synced(ctx) != nil {
					return nil // only ctx ends it
				}
				c.mark(turn)
			}
		}
	})
	return g.Wait()
}

// purge deletes all that is cached of a peer: the markers first, so that a
// purge that is cut short leaves no cache that says it is whole.
func purge(ctx context.Context, peer string, etcd *kvstore.Client, log *slog.Logger) error {
	c := newCache(peer, etcd, log)
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.marks.Run(ctx) })
	g.Go(func() error { return c.state.Run(ctx) })
	g.Go(func() error {
		defer cancel()
		for _, w := range []*kvstore.Writer{c.marks, c.state} {
			w.Complete()
			if err := w.Synced(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return fmt.Errorf("purge the cache of %s: %w", peer, err)
	}
	return nil
}
