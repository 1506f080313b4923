package kvstore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// store is what we know of the store behind an address, to tell it from
// another one there later. The cluster id alone does not: etcd derives it from
// its configuration, so a wiped store commonly has it again, and begins to
// count revisions anew.
type store struct {
	cluster  uint64
	revision int64 // the highest seen
	anchor   anchor
}

// anchor is the newest value that was read of a key whose values are all
// different. That the store has, or had, just this at just this revision is the
// proof that it is the same. Another key's value would be none: a writer that
// fills an emptied store again begins with the same keys and values, in the same
// order.
type anchor struct {
	key      string
	revision int64 // 0: there is none; then key is one that may be asked for
	created  int64
	version  int64
	hash     uint64
	seed     maphash.Seed
}

// advance makes kv the anchor if it is newer.
func (a *anchor) advance(seed maphash.Seed, kv *mvccpb.KeyValue, hash uint64) {
	if kv.ModRevision <= a.revision {
		return
	}
	*a = anchor{
		key: string(kv.Key), revision: kv.ModRevision,
		created: kv.CreateRevision, version: kv.Version, hash: hash, seed: seed,
	}
}

func (a *anchor) is(kv *mvccpb.KeyValue) bool {
	return kv.ModRevision == a.revision && kv.CreateRevision == a.created &&
		kv.Version == a.version && maphash.Bytes(a.seed, kv.Value) == a.hash
}

// join checks that an answer is from the same store as those before it. The
// first one says which store, and at which revision it is read.
func (s *store) join(h *pb.ResponseHeader) error {
	if s.revision == 0 {
		s.cluster, s.revision = h.GetClusterId(), h.GetRevision()
		return nil
	}
	if h.GetClusterId() != s.cluster {
		return fmt.Errorf("%w: cluster id %x instead of %x", ErrOtherStore, h.GetClusterId(), s.cluster)
	}
	if h.GetRevision() < s.revision {
		return fmt.Errorf("%w: revision %d after %d", ErrOtherStore, h.GetRevision(), s.revision)
	}
	return nil
}

// verdict is what a check found.
type verdict int

const (
	storeUnknown verdict = iota // nothing speaks against it, nothing proves it
	storeSame
)

// check asks what answers now whether it is the store that s describes. It
// returns ErrOtherStore, wrapped, when it is not. Reads are linearizable, so a
// revision lower than one seen before cannot be a member that lags behind.
func (c *Client) check(ctx context.Context, s store) (verdict, error) {
	resp, err := c.rangeOnce(ctx, &pb.RangeRequest{Key: []byte(s.anchor.key)})
	if err != nil {
		return storeUnknown, fmt.Errorf("check store: %w", err)
	}
	if err := s.join(resp.Header); err != nil {
		return storeUnknown, fmt.Errorf("check store: %w", err)
	}
	if s.anchor.revision == 0 {
		return storeUnknown, nil
	}
	if len(resp.Kvs) == 1 && s.anchor.is(resp.Kvs[0]) {
		return storeSame, nil
	}
	return c.checkHistory(ctx, s)
}

// checkHistory looks for an anchor that was overwritten or deleted since.
func (c *Client) checkHistory(ctx context.Context, s store) (verdict, error) {
	resp, err := c.rangeOnce(ctx, &pb.RangeRequest{Key: []byte(s.anchor.key), Revision: s.anchor.revision})
	switch {
	case errors.Is(err, ErrCompacted):
		return storeUnknown, nil
	case err != nil:
		return storeUnknown, fmt.Errorf("check store: %w", err)
	}
	if err := s.join(resp.Header); err != nil {
		return storeUnknown, fmt.Errorf("check store: %w", err)
	}
	if len(resp.Kvs) == 1 && s.anchor.is(resp.Kvs[0]) {
		return storeSame, nil
	}
	return storeUnknown, fmt.Errorf("check store: %w: %q was something else at revision %d", ErrOtherStore, s.anchor.key, s.anchor.revision)
}
