package kvstore

import (
	"context"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Swap is a key that is to become Value if it is as Get found it: Old, or not there.
type Swap struct {
	Key   string
	Old   []byte
	Found bool
	Value []byte
}

// CompareAndPut writes the key if it is as Get found it, old or not there, and says
// whether it did.
func (c *Client) CompareAndPut(ctx context.Context, key string, old []byte, found bool, value []byte) (done bool, err error) {
	return c.SwapAll(ctx, Swap{key, old, found, value})
}

// SwapAll writes all of the keys if each is as it was found, else none, and says which.
func (c *Client) SwapAll(ctx context.Context, swaps ...Swap) (done bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request := &pb.TxnRequest{}
	for _, s := range swaps {
		compare := &pb.Compare{Key: []byte(s.Key), Target: pb.Compare_VALUE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Value{Value: s.Old}}
		if !s.Found {
			compare = &pb.Compare{Key: []byte(s.Key), Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_CreateRevision{}}
		}
		request.Compare = append(request.Compare, compare)
		request.Success = append(request.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(s.Key), Value: s.Value}}})
	}
	resp, err := c.kv.Txn(ctx, request)
	if err != nil {
		return false, fmt.Errorf("compare and put %q: %w", swaps[0].Key, explain(err))
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
