package kvstore

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// CompareAndPut writes the key if it is as Get found it, old or not there, and says
// whether it did.
func (c *Client) CompareAndPut(ctx context.Context, key string, old []byte, found bool, value []byte) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	compare := &pb.Compare{Key: []byte(key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: old}}
	if !found {
		compare = &pb.Compare{Key: []byte(key), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{}}
	}
	resp, err := c.kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{compare},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: value}}}},
	})
	if err != nil {
		return false, fmt.Errorf("compare and put %q: %w", key, explain(err))
	}
	return resp.Succeeded, nil
}

// CreateBeside writes a key that is not there, if another one, beside, is, and says
// whether it did. If not, there says whether beside is, and old is what the key holds.
func (c *Client) CreateBeside(ctx context.Context, beside, key string, value []byte) (created, there bool, old []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	lookup := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
	}
	resp, err := c.kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{
			{Key: []byte(beside), Target: pb.Compare_CREATE, Result: pb.Compare_GREATER, TargetUnion: &pb.Compare_CreateRevision{}},
			{Key: []byte(key), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{}},
		},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: value}}}},
		Failure: []*pb.RequestOp{lookup(beside), lookup(key)},
	})
	if err != nil {
		return false, false, nil, fmt.Errorf("create %q beside %q: %w", key, beside, explain(err))
	}
	if resp.Succeeded {
		return true, true, nil, nil
	}
	for _, kv := range resp.Responses[1].GetResponseRange().GetKvs() {
		old = kv.Value
	}
	return false, len(resp.Responses[0].GetResponseRange().GetKvs()) > 0, old, nil
}
