package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// state has, as its marks, the peer's config and the markers that say that the
	// rest is whole.
	state *kvstore.Writer
}

func newCache(peer string, etcd *kvstore.Client, election *kvstore.Election, log *slog.Logger) *cache {
	l := wire.Layout{Cluster: peer, Cached: true}
	var state, marks []string
	for _, kind := range wire.Kinds() {
		state = append(state, l.Prefix(kind))
		marks = append(marks, l.Marker(kind))
	}
	// The writer's own metrics would be one series a peer, for ever: the
	// session counts what it passes on.
	return &cache{layout: l, etcd: etcd, state: kvstore.NewWriter(kvstore.WriterConfig{
		Client: etcd, Name: "cache/" + peer, Prefixes: state, Marks: append([]string{wire.ConfigKey(peer)}, marks...),
		Election: election, Pace: cachePace, Logger: log,
	})}
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

// complete says that everything that the peer has was Set. The markers are
// written after it.
func (c *cache) complete() {
	c.state.Complete()
	now := wire.EncodeTime(time.Now())
	for _, kind := range wire.Kinds() {
		c.state.Set(c.layout.Marker(kind), now)
	}
}

// withdraw takes back that the cache is whole, and returns when nobody can read
// any more that it is. What is in it stays. Only then may keys go that do not
// come back: a reader, such as our own next start, must not take the rest for all.
// Where another replica writes, its session does the same.
func (c *cache) withdraw(ctx context.Context) error {
	c.unmark()
	if err := c.state.Synced(ctx); !errors.Is(err, kvstore.ErrStandby) {
		return err
	}
	return nil
}

func (c *cache) unmark() {
	for _, kind := range wire.Kinds() {
		c.state.Delete(c.layout.Marker(kind))
	}
	c.state.Delete(wire.ConfigKey(c.layout.Cluster))
}

// setConfig keeps the peer's config, which says from then on that it is cached.
func (c *cache) setConfig(config cluster.Config) error {
	config.Cached = true
	value, err := wire.EncodeConfig(config)
	if err != nil {
		return fmt.Errorf("cache the config of %s: %w", config.Name, err)
	}
	c.state.Set(wire.ConfigKey(config.Name), value)
	return nil
}

// run writes until ctx ends, while this replica is the one that writes.
func (c *cache) run(ctx context.Context) error { return c.state.Run(ctx) }

// purge deletes all that is cached of a peer: the markers first, so that a
// purge that is cut short leaves no cache that says it is whole. Errors wrap
// kvstore.ErrStandby where another replica writes, which does it.
func purge(ctx context.Context, peer string, etcd *kvstore.Client, election *kvstore.Election, log *slog.Logger) error {
	c := newCache(peer, etcd, election, log)
	c.unmark()
	c.state.Complete()
	running, cancel := context.WithCancel(ctx)
	g, running := errgroup.WithContext(running)
	g.Go(func() error { return c.run(running) })
	g.Go(func() error {
		defer cancel()
		return c.state.Synced(running)
	})
	err := g.Wait()
	if err == nil {
		err = c.state.Retire(ctx)
	}
	if err != nil {
		return fmt.Errorf("purge the cache of %s: %w", peer, err)
	}
	return nil
}
