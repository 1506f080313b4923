package rogue

import (
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// floodLow is how many addresses of a flood differ in their last group only.
const floodLow = 0xf000

// Flood answers lists of keys below prefix with n addresses inside net, the first
// five groups of an IPv6 address written in full, page by page as the reader asks.
// Each has what value returns for it. All other reads are answered honestly.
func Flood(prefix, net string, n int, value func(ip string) []byte) Tamper {
	return Tamper{Range: func(_ context.Context, r *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error) {
		if len(r.RangeEnd) == 0 || !strings.HasPrefix(string(r.Key), prefix) {
			return honest, nil
		}
		next := 0
		var high, low int
		if _, err := fmt.Sscanf(string(r.Key), prefix+net+":1000:%x:%x", &high, &low); err == nil {
			next = (high-0x1000)*floodLow + low - 0x1000 + 1
		}
		out := &pb.RangeResponse{Header: honest.Header}
		for ; next < n && len(out.Kvs) < int(r.Limit); next++ {
			ip := fmt.Sprintf("%s:1000:%04x:%04x", net, 0x1000+next/floodLow, 0x1000+next%floodLow)
			out.Kvs = append(out.Kvs, &mvccpb.KeyValue{Key: []byte(prefix + ip), Value: value(ip), ModRevision: 2})
		}
		out.More = next < n
		return out, nil
	}}
}
