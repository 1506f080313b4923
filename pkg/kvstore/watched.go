package kvstore

import (
	"context"
	"hash/maphash"
)

// watched is the writer as the handler of what its own keys are in the store.
type watched struct{ *Writer }

// Changes notes what the store has. Most of it is the echo of our own writes.
func (w watched) Changes(_ context.Context, changes []Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range changes {
		r := w.records[c.Key]
		if r == nil {
			r = w.newRecord(w.rank(c.Key))
			w.records[c.Key] = r
		}
		r.seen = version{revision: c.Revision, exists: !c.Deleted}
		if !c.Deleted {
			r.seen.hash = maphash.Bytes(w.seed, c.Value)
		}
		switch _, soon := w.dirty[c.Key]; {
		case !w.listed: // Complete looks at them all
		case r.idle():
			delete(w.records, c.Key)
		case soon && !r.needs(w.pruning):
			delete(w.dirty, c.Key) // another replica has written it
		case !soon && !r.unsure && r.needs(w.pruning):
			w.repair[c.Key] = struct{}{}
		}
	}
	return nil
}

// Complete begins anew with what was seen: the revisions from before may be of
// a store that is no more. What we wrote and have not seen yet is uncertain, as
// it may have gone to that one, and may still come in when this is the same.
func (w watched) Complete(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.epoch > 0 {
		w.log.Info("store is followed again", "keys", len(w.records))
	}
	w.epoch++
	w.fence = 0
	w.listed, w.trouble = true, nil
	for key, r := range w.records {
		r.unsure = r.unsure || r.wrote.revision > r.seen.revision
		r.seen.revision, r.wrote = 0, version{}
		w.settled(key, r)
	}
	w.poke() // also with nothing to write, somebody may wait for that
	return nil
}

// Trouble stops writing: the next store that answers may be another one, and
// is to be filled in order.
func (w watched) Trouble(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if first := w.listed || w.trouble == nil; first {
		w.log.Warn("store cannot be followed, nothing is written until it can", "error", err)
	}
	w.listed, w.trouble = false, err
}
