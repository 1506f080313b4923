package kvstore

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// fencePrefix is where the fences of writers are, out of sight of other clusters.
const fencePrefix = "causeway/writer/"

func (w *Writer) fenceKey() []byte { return []byte(fencePrefix + w.cfg.Name) }

// moveFence writes the fence anew, which shuts out every request made before.
func (w *Writer) moveFence(ctx context.Context, now *round) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := w.cfg.Client.kv.Put(ctx, &pb.PutRequest{Key: w.fenceKey()})
	if err != nil {
		return fmt.Errorf("put %q: %w", w.fenceKey(), err)
	}
	now.fence = resp.Header.GetRevision()
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.epoch == w.epoch {
		w.fence = now.fence
	}
	return nil
}

// fenced is the condition of all that a round writes.
func (w *Writer) fenced(now round) *pb.Compare {
	return &pb.Compare{
		Key: w.fenceKey(), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: now.fence},
	}
}
