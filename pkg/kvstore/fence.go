package kvstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// fencePrefix is where the fences of writers are, out of sight of other clusters.
const fencePrefix = "causeway/writer/"

func (w *Writer) fenceKey() []byte { return []byte(fencePrefix + w.cfg.Name) }

// moveFence writes the fence anew, which shuts out every request made before.
// Its value is random, so the writer knows the store again by it, see
// FollowConfig.Proof.
func (w *Writer) moveFence(ctx context.Context, now *round) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := w.cfg.Client.kv.Txn(ctx, &pb.TxnRequest{
		Compare: now.term.conditions(),
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: w.fenceKey(), Value: []byte(rand.Text())}}}},
		Failure: now.term.witness(),
	})
	if err == nil && !resp.Succeeded {
		err = cmp.Or(now.term.ended(resp), ErrDeposed)
	}
	if err != nil {
		return fmt.Errorf("put %q: %w", w.fenceKey(), explain(err))
	}
	now.fence = resp.Header.GetRevision()
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.epoch == w.epoch {
		w.fence, w.fenceTerm = now.fence, now.term
	}
	return nil
}

// dropFence deletes the fence, which shuts out every put made before. It is for a
// store that takes no puts. Unlike a fence that was put, none is like another
// none: a deletion that is written behind it may arrive late while there still is
// none, but then the key was not to be there, and whatever is put again is put
// behind a fence.
func (w *Writer) dropFence(ctx context.Context, now *round) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := w.cfg.Client.kv.Txn(ctx, &pb.TxnRequest{
		Compare: now.term.conditions(), Success: []*pb.RequestOp{deleteOp(w.fenceKey())}, Failure: now.term.witness(),
	})
	if err == nil && !resp.Succeeded {
		err = cmp.Or(now.term.ended(resp), ErrDeposed)
	}
	if err != nil {
		return fmt.Errorf("delete %q: %w", w.fenceKey(), err)
	}
	now.fence = 0
	return nil
}

// fenced are the conditions of all that a round writes. A fence that is not
// there was modified at revision 0.
func (w *Writer) fenced(now round) []*pb.Compare {
	return append(now.term.conditions(), &pb.Compare{
		Key: w.fenceKey(), Target: pb.Compare_MOD, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_ModRevision{ModRevision: now.fence},
	})
}

// Retire deletes the writer's fence, of a writer whose Run has ended and that
// nobody will start again. A request of its own that arrives even later changes
// nothing either: the fence that it compares is gone.
func (w *Writer) Retire(ctx context.Context) error {
	term := w.term()
	if !term.Writes() {
		return fmt.Errorf("retire writer %q: %w", w.cfg.Name, ErrStandby)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err := w.cfg.Client.kv.Txn(ctx, &pb.TxnRequest{
		Compare: term.conditions(),
		Success: []*pb.RequestOp{deleteOp(w.fenceKey())},
	})
	if err != nil {
		return fmt.Errorf("retire writer %q: %w", w.cfg.Name, err)
	}
	return nil
}
