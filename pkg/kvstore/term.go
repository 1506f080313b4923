package kvstore

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// electionKey is what the writer of a store holds, leased, while it writes.
const electionKey = "causeway/election"

// Term is a time during which one process writes to a store. It is a condition
// of what is written in it, so that the store itself refuses what comes from a
// process that slept through its end. The zero Term is nobody's: nothing may be
// written. Terms may be compared.
type Term struct {
	alone    bool
	revision int64 // at which the election key was created
}

// Alone is the term of a process that has its store for itself, which then
// must be enforced by other means. It does not end.
func Alone() Term { return Term{alone: true} }

// Writes reports whether anything may be written.
func (t Term) Writes() bool { return t.alone || t.revision > 0 }

// conditions are what must hold in the store for a write in the term.
func (t Term) conditions() []*pb.Compare {
	if t.alone {
		return nil
	}
	return []*pb.Compare{{
		Key: []byte(electionKey), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: t.revision},
	}}
}

// witness is what a refused transaction reads to tell why it was.
func (t Term) witness() []*pb.RequestOp {
	if t.alone {
		return nil
	}
	return []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(electionKey), KeysOnly: true}}}}
}

// ended returns ErrDeposed if that is what a transaction was refused for.
func (t Term) ended(resp *pb.TxnResponse) error {
	if t.alone || len(resp.Responses) == 0 {
		return nil
	}
	for _, kv := range resp.Responses[0].GetResponseRange().GetKvs() {
		if kv.CreateRevision == t.revision {
			return nil
		}
	}
	return fmt.Errorf("%w: the term that began at revision %d is over", ErrDeposed, t.revision)
}
