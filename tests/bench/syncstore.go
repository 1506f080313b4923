package main

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
	"github.com/causeway-mesh/causeway/tests/bench/mesh"
)

// What one transaction holds, as writers of the protocol do, and how many are
// under way at once.
const (
	storeBatch   = 128
	storeBytes   = 512 << 10
	storeWriters = 4
)

// store writes to an etcd by its socket, and looks into it.
type store struct{ *kvstore.Client }

func openStore(socket string) (store, error) {
	client, err := kvstore.Dial(kvstore.ClientConfig{Endpoints: []string{"unix://" + socket}})
	return store{client}, err
}

// publish writes the whole state of a cluster, then its markers and config.
func (s store) publish(ctx context.Context, r mesh.Remote) error {
	if err := s.putAll(ctx, r.State()); err != nil {
		return fmt.Errorf("publish %s: %w", r.Name(), err)
	}
	now := wire.EncodeTime(time.Now())
	markers := []mesh.Pair{{Key: wire.HeartbeatKey, Value: now}, {Key: r.Layout().Marker(wire.ServiceExports), Value: now}}
	for _, kind := range wire.Kinds() {
		markers = append(markers, mesh.Pair{Key: r.Layout().Marker(kind), Value: now})
	}
	config, err := r.Config()
	if err != nil {
		return err
	}
	return s.put(ctx, append(markers, config)...)
}

// putAll writes pairs, in no order.
func (s store) putAll(ctx context.Context, pairs iter.Seq2[mesh.Pair, error]) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(storeWriters)
	var batch []mesh.Pair
	size := 0
	flush := func() {
		if full := batch; len(full) > 0 {
			g.Go(func() error { return s.put(ctx, full...) })
		}
		batch, size = nil, 0
	}
	for pair, err := range pairs {
		if err != nil {
			_ = g.Wait() // the first error is the one to tell
			return err
		}
		if len(batch) == storeBatch || size+len(pair.Value) > storeBytes {
			flush()
		}
		batch = append(batch, pair)
		size += len(pair.Value)
	}
	flush()
	return g.Wait()
}

// put writes pairs in one transaction.
func (s store) put(ctx context.Context, pairs ...mesh.Pair) error {
	ops := make([]clientv3.Op, len(pairs))
	for i, p := range pairs {
		ops[i] = clientv3.OpPut(p.Key, string(p.Value))
	}
	if _, err := s.Etcd().Txn(ctx).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("put %d keys from %q: %w", len(pairs), pairs[0].Key, err)
	}
	return nil
}

// cached returns how many clusters stand whole in the cache of this etcd.
func (s store) cached(ctx context.Context) (int, error) {
	markers := map[string]int{}
	root, _, _ := strings.Cut(wire.Layout{Cluster: "/"}.Marker(wire.Nodes), "//")
	err := s.List(ctx, kvstore.Prefix(root+"/"), func(item kvstore.Item) error {
		name, kind, _ := strings.Cut(strings.TrimPrefix(item.Key, root+"/"), "/")
		if strings.Contains(kind, "/cache/") {
			markers[name]++
		}
		return nil
	})
	whole := 0
	for _, n := range markers {
		if n == len(wire.Kinds()) {
			whole++
		}
	}
	return whole, err
}

// size returns the bytes of the database file.
func (s store) size(ctx context.Context) (int64, error) {
	status, err := s.Etcd().Status(ctx, s.Etcd().Endpoints()[0])
	if err != nil {
		return 0, fmt.Errorf("ask etcd for its size: %w", err)
	}
	return status.DbSize, nil
}
