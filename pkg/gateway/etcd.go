package gateway

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

const (
	// maxPage is how many keys one read answers. Readers page by 256.
	maxPage = 1024
	// maxAnswer is for one message of etcd, in bytes: many times a page, or a
	// batch of events, of the largest values that are usual.
	maxAnswer = 64 << 20
)

// kv offers KV.Range; the rest is unimplemented.
type kv struct {
	pb.UnimplementedKVServer

	etcd     pb.KVClient
	readable spans
	refusals *refusals
}

// Range passes a read on as it is, when etcd can answer it out of one page.
// Errors of etcd are passed back as they are, since readers act on their text.
func (k *kv) Range(ctx context.Context, request *pb.RangeRequest) (*pb.RangeResponse, error) {
	if !k.readable.contain(request.Key, request.RangeEnd) {
		return nil, k.refusals.refuse(ctx, reasonRange, codes.PermissionDenied,
			"peers may not read the keys from %q to %q", request.Key, request.RangeEnd)
	}
	if err := k.checkForm(ctx, request); err != nil {
		return nil, err
	}
	limited := request.Limit <= 0 || request.Limit > maxPage
	if limited {
		request.Limit = maxPage
	}
	answer, err := k.etcd.Range(ctx, request, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err == nil && limited && answer.More {
		// An answer that is cut short without its reader having asked for it
		// would be taken for the whole.
		return nil, k.refusals.refuse(ctx, reasonLimit, codes.ResourceExhausted,
			"%q to %q holds more than %d keys, read it in pages", request.Key, request.RangeEnd, maxPage)
	}
	return answer, err
}

// checkForm refuses what makes etcd collect all keys of a range before it
// looks at the limit. Ascending by key is the order that it has anyway.
func (k *kv) checkForm(ctx context.Context, r *pb.RangeRequest) error {
	if r.SortTarget == pb.RangeRequest_KEY && r.SortOrder == pb.RangeRequest_ASCEND {
		r.SortOrder = pb.RangeRequest_NONE
	}
	filtered := r.MinModRevision|r.MaxModRevision|r.MinCreateRevision|r.MaxCreateRevision != 0
	if r.SortOrder != pb.RangeRequest_NONE || filtered {
		return k.refusals.refuse(ctx, reasonRequest, codes.InvalidArgument,
			"reads that sort or that filter by revision are not offered")
	}
	return nil
}
