package kvstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	// What one transaction holds at most. etcd takes 128 operations; above
	// 512 KiB its latency grows and its own limit (1.5 MiB) comes near.
	maxBatchOps   = 128
	maxBatchBytes = 512 << 10

	// restTime is how long a key rests that somebody else changed before it is
	// put right, so that two writers that fight over it (a misconfiguration)
	// cannot burn the store.
	restTime = time.Second
)

// errDoubt ends a round, or lets none begin, because what the store has is not known any more.
var errDoubt = errors.New("store is being listed")

// round is what one round is about, and what held at its beginning.
type round struct {
	ops   []op
	calls int64
	epoch int
	fence int64
	term  Term
}

// op is one write of a round.
type op struct {
	key   string
	value []byte
	hash  uint64
	put   bool // else delete
	rank  int
}

// before is the order of writing: what others refer to is there before them
// and goes after them.
func (o op) before(p op) int {
	switch {
	case o.put && p.put:
		return cmp.Or(cmp.Compare(o.rank, p.rank), cmp.Compare(o.key, p.key))
	case !o.put && !p.put:
		return cmp.Or(cmp.Compare(p.rank, o.rank), cmp.Compare(o.key, p.key))
	case o.put:
		return -1
	}
	return 1
}

func (o op) request() *pb.RequestOp {
	if o.put {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(o.key), Value: o.value}}}
	}
	return deleteOp([]byte(o.key))
}

func deleteOp(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
}

// batch returns how many of the ops make one transaction.
func batch(ops []op) int {
	n, size := 0, 0
	for n < len(ops) && n < maxBatchOps {
		size += len(ops[n].key) + len(ops[n].value)
		if n > 0 && size > maxBatchBytes {
			break
		}
		n++
	}
	return n
}

// loop makes rounds until ctx ends.
func (w *Writer) loop(ctx context.Context) {
	ticker := time.NewTicker(restTime)
	defer ticker.Stop()
	again := newBackoff()
	var begun time.Time // of the last round
	_, changed := w.cfg.Election.Term()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			retry.Sleep(ctx, time.Until(begun.Add(w.cfg.Pace)))
		case <-changed:
			_, changed = w.cfg.Election.Term()
		case <-ticker.C:
			w.rested()
		}
		begun = time.Now()
		err := w.round(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrStandby):
			if again.Attempts() > 0 {
				again.Reset()
				w.setTrouble(nil)
			}
		case err == nil && again.Attempts() > 0:
			again.Reset()
			w.setTrouble(nil)
			w.log.Info("writes go through again")
		case err != nil && !errors.Is(err, errDoubt):
			first := again.Attempts() == 0
			delay := again.Next()
			w.setTrouble(err)
			if first {
				w.log.Warn("write went wrong, will be tried until it goes through", "error", err, "delay", delay)
			}
			w.counters.retries.Inc()
			retry.Sleep(ctx, delay)
			w.poke()
		}
	}
}

func (w *Writer) setTrouble(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trouble = err
}

// round writes everything that is to be written at its beginning, in order.
// What is Set meanwhile goes into the next one: a value that refers to
// something Set before it is never written before that.
func (w *Writer) round(ctx context.Context) error {
	r, err := w.take()
	if err != nil {
		return err
	}
	if len(r.ops) > 0 && r.fence == 0 {
		err = w.moveFence(ctx, &r)
	}
	if err == nil {
		err = w.writeAll(ctx, r.ops, r)
	}
	if err != nil {
		w.putBack(r.ops)
		if errors.Is(err, ErrNoSpace) {
			err = cmp.Or(w.shed(ctx, r), err)
		}
		return err
	}
	w.finish(r.calls)
	return nil
}

// shed writes the deletions of a round, which a store that is out of quota takes
// and which are what makes room in it. What is out of order then is only that
// something goes before what replaces it is there.
func (w *Writer) shed(ctx context.Context, now round) error {
	ops := slices.DeleteFunc(slices.Clone(now.ops), func(o op) bool { return o.put })
	if len(ops) == 0 {
		return nil
	}
	if err := w.dropFence(ctx, &now); err != nil {
		return err
	}
	return w.writeAll(ctx, ops, now)
}

func (w *Writer) writeAll(ctx context.Context, ops []op, now round) error {
	for len(ops) > 0 {
		n := batch(ops)
		if err := w.write(ctx, ops[:n], now); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

// take begins a round. It does not while the store is not known, or another
// process writes.
func (w *Writer) take() (now round, err error) {
	term := w.term()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !term.Writes():
		return round{}, ErrStandby
	case !w.listed:
		return round{}, errDoubt
	case term != w.fenceTerm:
		w.fence = 0 // another writer may have moved it in between
	}
	ops := make([]op, 0, len(w.dirty))
	for key := range w.dirty {
		r := w.records[key]
		if r != nil && r.needs(w.pruning) {
			r.unsure = true // until there is an answer
			ops = append(ops, op{key: key, value: r.value, hash: r.hash, put: r.wanted, rank: int(r.rank)})
		}
	}
	// Not cleared: a map that was large once is slow to walk ever after.
	w.dirty = make(map[string]struct{})
	slices.SortFunc(ops, op.before)
	return round{ops: ops, calls: w.calls, epoch: w.epoch, fence: w.fence, term: term}, nil
}

// write makes one transaction of the ops. A refused one is made in halves, so
// that in the end only what is bad itself is left out.
func (w *Writer) write(ctx context.Context, ops []op, now round) error {
	req := &pb.TxnRequest{Compare: w.fenced(now), Success: make([]*pb.RequestOp, len(ops)), Failure: now.term.witness()}
	for i, o := range ops {
		req.Success[i] = o.request()
	}
	resp, err := w.cfg.Client.commit(ctx, req)
	switch {
	case err == nil && !resp.Succeeded:
		return fmt.Errorf("write %d keys from %q: %w", len(ops), ops[0].key, cmp.Or(now.term.ended(resp), ErrFenced))
	case err == nil:
		return w.settle(ops, resp, now.epoch)
	case !isRefusal(err):
		return fmt.Errorf("write %d keys from %q: %w", len(ops), ops[0].key, explain(err))
	case len(ops) == 1:
		w.refuse(ops[0], err)
		return nil
	}
	half := len(ops) / 2
	if err := w.write(ctx, ops[:half], now); err != nil {
		return err
	}
	return w.write(ctx, ops[half:], now)
}

// isRefusal says whether the store will not take the request, now or later.
func isRefusal(err error) bool {
	return status.Code(err) == codes.InvalidArgument || isTooLarge(err)
}

// settle notes that the ops are in the store.
func (w *Writer) settle(ops []op, resp *pb.TxnResponse, epoch int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	sure := epoch == w.epoch && w.listed
	for i, o := range ops {
		r := w.records[o.key]
		if sure {
			r.unsure = false
			r.wrote = version{revision: resp.Header.GetRevision(), exists: o.put, hash: o.hash}
			if !o.put && resp.Responses[i].GetResponseDeleteRange().GetDeleted() == 0 {
				r.seen = r.wrote // nothing was there, so nothing will be seen
			}
			w.forgive(o.key, r)
		}
		w.settled(o.key, r)
	}
	w.counters.count(ops)
	if !sure {
		return errDoubt
	}
	return nil
}

// settled forgets a record that is of no use, or has it looked at again. The caller holds mu.
func (w *Writer) settled(key string, r *record) {
	if r.idle() {
		delete(w.records, key)
		return
	}
	w.touch(key, r)
}

// putBack gives what a round did not get done, or perhaps did, to the next
// one, which begins behind a new fence. Of what it did get done, deletions may be
// forgotten already.
func (w *Writer) putBack(ops []op) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fence = 0
	for _, o := range ops {
		if r := w.records[o.key]; r != nil {
			w.touch(o.key, r)
		}
	}
}

// refuse notes that the store does not take one value.
func (w *Writer) refuse(o op, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.records[o.key]
	if r.wanted != o.put || r.hash != o.hash {
		w.touch(o.key, r) // it has changed since
		return
	}
	now := time.Now()
	r.refuse(now)
	old, known := w.failures[o.key]
	if !known {
		old.Since = now
		w.log.Warn("store refuses a value, all others are written", "key", o.key, "bytes", len(o.value), "error", err)
	}
	w.failures[o.key] = Failure{Reason: status.Convert(err).Message(), Since: old.Since}
}

// finish says that all of the first calls are done.
func (w *Writer) finish(calls int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if calls > w.done {
		w.done = calls
		close(w.moved)
		w.moved = make(chan struct{})
	}
}

// rested looks again at keys that rested, and at refused ones that are due.
func (w *Writer) rested() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key := range w.repair {
		if r := w.records[key]; r != nil && r.needs(w.pruning) {
			w.counters.repaired.Inc()
			w.dirty[key] = struct{}{}
		}
	}
	if len(w.repair) > 0 {
		w.repair = make(map[string]struct{})
	}
	now := time.Now()
	for key := range w.failures {
		if r := w.records[key]; r != nil && r.refused != nil && now.After(r.refused.due) {
			r.refused.again = true
			w.dirty[key] = struct{}{}
		}
	}
}
