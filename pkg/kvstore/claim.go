package kvstore

import (
	"cmp"
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Claim is a key that somebody wants to be the first to write.
type Claim struct {
	Key   string
	Value []byte
}

// maxClaims is how many claims go in one transaction. etcd takes the number of
// operations off the limit of the transactions nested in them, so half of what
// a flat one may hold is on the safe side.
const maxClaims = maxBatchOps / 2

// Claim creates, in the term, those of the keys that do not exist, each by
// compare-and-swap, and returns the stored values of those that do. Keys must differ from each
// other. Claims go in batches; when one fails, the ones before it are made.
// The outcome of a failed one is unknown: claiming again is safe, and a key
// that comes back as taken with the caller's own value is the caller's. It returns
// ErrDeposed, wrapped, when the term is over.
func (c *Client) Claim(ctx context.Context, term Term, claims []Claim) (taken map[string][]byte, err error) {
	taken = make(map[string][]byte)
	for len(claims) > 0 {
		n, size := 0, 0
		for n < len(claims) && n < maxClaims && (n == 0 || size+claims[n].size() <= maxBatchBytes) {
			size += claims[n].size()
			n++
		}
		if err := c.claimBatch(ctx, term, claims[:n], taken); err != nil {
			return nil, fmt.Errorf("claim %d keys from %q: %w", n, claims[0].Key, err)
		}
		claims = claims[n:]
	}
	return taken, nil
}

func (c Claim) size() int { return 2*len(c.Key) + len(c.Value) }

// claimBatch nests a transaction for each key, so that one taken key does not
// cost the others their claim.
func (c *Client) claimBatch(ctx context.Context, term Term, claims []Claim, taken map[string][]byte) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if !term.Writes() {
		return ErrStandby
	}
	req := &pb.TxnRequest{Compare: term.conditions(), Success: make([]*pb.RequestOp, 0, len(claims)), Failure: term.witness()}
	for _, claim := range claims {
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: claim.txn()}})
	}
	resp, err := c.kv.Txn(ctx, req)
	if err != nil {
		return explain(err)
	}
	if !resp.Succeeded {
		return cmp.Or(term.ended(resp), ErrDeposed)
	}
	for i, r := range resp.Responses {
		inner := r.GetResponseTxn()
		if inner.GetSucceeded() {
			continue
		}
		for _, kv := range inner.GetResponses()[0].GetResponseRange().GetKvs() {
			taken[claims[i].Key] = kv.Value
		}
	}
	return nil
}

func (c Claim) txn() *pb.TxnRequest {
	key := []byte(c.Key)
	return &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_CreateRevision{CreateRevision: 0},
		}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: c.Value}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
	}
}

// CompareAndDelete deletes the key if it holds exactly value, and says whether it did.
func (c *Client) CompareAndDelete(ctx context.Context, key string, value []byte) (deleted bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	resp, err := c.kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{
			Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL,
			TargetUnion: &pb.Compare_Value{Value: value},
		}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}}},
	})
	if err != nil {
		return false, fmt.Errorf("compare and delete %q: %w", key, err)
	}
	return resp.Succeeded, nil
}
