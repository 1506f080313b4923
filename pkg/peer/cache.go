package peer

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// cache is what a peer said, kept in our own etcd for a restart while the peer
// is away. It is written behind what memory has, and may lag.
type cache struct {
	layout wire.Layout
	etcd   *kvstore.Client
	state  *kvstore.Writer
	// marks are the peer's config and the markers that say that the state is
	// whole.
	marks *kvstore.Writer
	// whole wakes Run when everything has been set once.
	whole chan struct{}
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
		return kvstore.NewWriter(kvstore.WriterConfig{Client: etcd, Name: name, Prefixes: prefixes, Logger: log})
	}
	return &cache{
		layout: l, etcd: etcd,
		state: writer("cache of "+peer, state),
		marks: writer("marks of "+peer, append(marks, wire.ConfigKey(peer))),
		whole: make(chan struct{}, 1),
	}
}

// load gives fn everything that an earlier run cached. The config is nil when
// there was none; whole says that the cache is all that the peer had published.
func (c *cache) load(ctx context.Context, fn func(kvstore.Item) error) (config *cluster.Config, whole bool, err error) {
	name := c.layout.Cluster
	value, found, err := c.etcd.Get(ctx, wire.ConfigKey(name))
	if err != nil {
		return nil, false, fmt.Errorf("read the cached config of %s: %w", name, err)
	}
	if found {
		if parsed, err := wire.DecodeConfig(name, value); err == nil {
			config = &parsed
		}
	}
	whole = config != nil
	for _, kind := range wire.Kinds() {
		if err := c.etcd.List(ctx, kvstore.Prefix(c.layout.Prefix(kind)), fn); err != nil {
			return nil, false, fmt.Errorf("read the cached %s of %s: %w", kind, name, err)
		}
		_, found, err := c.etcd.Get(ctx, c.layout.Marker(kind))
		if err != nil {
			return nil, false, fmt.Errorf("read the cached marker of %s for %s: %w", name, kind, err)
		}
		whole = whole && found
	}
	return config, whole, nil
}

// complete says that everything that the peer has was Set.
func (c *cache) complete() {
	c.state.Complete()
	select {
	case c.whole <- struct{}{}:
	default:
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
		select {
		case <-ctx.Done():
			return nil
		case <-c.whole:
		}
		if c.state.Synced(ctx) != nil {
			return nil // only ctx ends it
		}
		now := wire.EncodeTime(time.Now())
		for _, kind := range wire.Kinds() {
			c.marks.Set(c.layout.Marker(kind), now)
		}
		return nil
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
