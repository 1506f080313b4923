package gateway

import (
	"fmt"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

func TestRanges(t *testing.T) {
	b := newBed(t)
	kv := b.kv(pki.RolePeer, "west")
	for _, test := range []struct {
		key, end string
		let      bool
	}{
		{"cilium/.heartbeat", "", true},
		{"cilium/.heartbeat", "cilium/.heartbeau", true}, // as the reference does
		{"cilium/cluster-config/east", "", true},
		{"cilium/cluster-config/east", "cilium/cluster-config/east\x00", true},
		{"cilium/state/", "cilium/state0", true},
		{"cilium/state/nodes/v1/east/", "cilium/state/nodes/v1/east0", true},
		{"cilium/state/nodes/v1/east/node-1\x00", "cilium/state/nodes/v1/east0", true}, // a next page
		{"cilium/state/ip/v1/default/10.1.0.5", "", true},
		{"cilium/synced/east/", "cilium/synced/east0", true},
		{"cilium/synced/east/cilium/state/nodes/v1", "", true},

		{"", "", false},
		{"", "\x00", false},
		{"\x00", "\x00", false},
		{"cilium/", "cilium0", false},
		{"cilium/state/", "\x00", false},
		{"cilium/state/", "cilium/state1", false},
		{"cilium/state/", "cilium/synced/east0", false},
		{"cilium/state", "", false},
		{"cilium/state", "cilium/state0", false},
		{"cilium/state0", "", false},
		{"cilium/state/z", "cilium/state/a", false},
		{"cilium/.heartbeat", "cilium/state0", false},
		{"cilium/.heartbea", "", false},
		{"cilium/cluster-config/", "cilium/cluster-config0", false},
		{"cilium/cluster-config/east", "cilium/cluster-config/eau", false},
		{"cilium/cluster-config/east2", "", false},
		{"cilium/cluster-config/eas", "", false},
		{"cilium/synced/east", "", false},
		{"cilium/synced/east", "cilium/synced/easu", false},
		{"cilium/synced/east2/", "cilium/synced/east20", false},
		{"cilium/synced/west/cilium/state/nodes/v1", "", false},
		{"cilium/cache/nodes/v1/south/", "cilium/cache/nodes/v1/south0", false},
		{"causeway/claims", "", false},
	} {
		_, err := kv.Range(b.ctx(), &pb.RangeRequest{Key: []byte(test.key), RangeEnd: []byte(test.end)})
		want := codes.PermissionDenied
		if test.let {
			want = codes.OK
		}
		if status.Code(err) != want {
			t.Errorf("range %q to %q: %v", test.key, test.end, err)
		}
	}
}

func FuzzSpans(f *testing.F) {
	f.Add([]byte("cilium/state/"), []byte("cilium/state0"), []byte("cilium/state/nodes"))
	f.Add([]byte("cilium/.heartbeat"), []byte(""), []byte("cilium/.heartbeat"))
	f.Add([]byte("\x00"), []byte("\x00"), []byte("causeway/claims"))
	readable := readableRanges("east")
	f.Fuzz(func(t *testing.T, key, end, probe []byte) {
		if !readable.contain(key, end) {
			return
		}
		// What etcd would answer with is readable key by key.
		inside := string(key) == string(probe)
		if len(end) > 0 {
			inside = string(key) <= string(probe) && (string(probe) < string(end) || string(end) == "\x00")
		}
		if inside && !readable.contain(probe, nil) {
			t.Errorf("%q to %q gives %q", key, end, probe)
		}
	})
}

// The reference lists by serializable reads; they must be of etcd, not of a
// memory of it.
func TestReadsAreFresh(t *testing.T) {
	b := newBed(t)
	kv := b.kv(pki.RolePeer, "west")
	for i := range 20 {
		want := fmt.Sprint(i)
		b.put("cilium/state/nodes/v1/east/node-1", want)
		for _, serializable := range []bool{true, false} {
			answer, err := kv.Range(b.ctx(), &pb.RangeRequest{
				Key: []byte("cilium/state/nodes/v1/east/"), RangeEnd: []byte("cilium/state/nodes/v1/east0"),
				Serializable: serializable, Limit: 256,
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := string(answer.Kvs[0].Value); got != want {
				t.Fatalf("serializable %t: %q after %q was written", serializable, got, want)
			}
		}
	}
}

func TestAnswersAreEtcdsOwn(t *testing.T) {
	b := newBed(t)
	b.put("cilium/.heartbeat", "now")
	request := func() *pb.RangeRequest { return &pb.RangeRequest{Key: []byte("cilium/.heartbeat")} }
	got, err := b.kv(pki.RolePeer, "west").Range(b.ctx(), request())
	if err != nil {
		t.Fatal(err)
	}
	want, err := pb.NewKVClient(b.etcd.Etcd().ActiveConnection()).Range(b.ctx(), request())
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != want.String() || got.Header.ClusterId == 0 {
		t.Errorf("answer %v, etcd's %v", got, want)
	}
	future := request()
	future.Revision = 1 << 40
	if _, err := b.kv(pki.RolePeer, "west").Range(b.ctx(), future); status.Code(err) != codes.OutOfRange {
		t.Errorf("error %v", err)
	}
}

func TestReadsAreBounded(t *testing.T) {
	b := newBed(t)
	var keys []string
	for i := range maxPage + 1 {
		keys = append(keys, fmt.Sprintf("cilium/state/ip/v1/default/10.0.%d.%d", i/256, i%256))
	}
	b.putAll(keys, "x")
	kv := b.kv(pki.RolePeer, "west")
	ask := func(change func(*pb.RangeRequest)) (*pb.RangeResponse, error) {
		r := &pb.RangeRequest{Key: []byte("cilium/state/ip/"), RangeEnd: []byte("cilium/state/ip0")}
		change(r)
		return kv.Range(b.ctx(), r)
	}
	for name, test := range map[string]struct {
		change func(*pb.RangeRequest)
		code   codes.Code
		keys   int
	}{
		"all":        {func(*pb.RangeRequest) {}, codes.ResourceExhausted, 0},
		"large page": {func(r *pb.RangeRequest) { r.Limit = 10 * maxPage }, codes.ResourceExhausted, 0},
		"negative":   {func(r *pb.RangeRequest) { r.Limit = -1 }, codes.ResourceExhausted, 0},
		"page":       {func(r *pb.RangeRequest) { r.Limit = 256 }, codes.OK, 256},
		"full page":  {func(r *pb.RangeRequest) { r.Limit = maxPage }, codes.OK, maxPage},
		"few":        {func(r *pb.RangeRequest) { r.Key = []byte("cilium/state/ip/v1/default/10.0.4.") }, codes.OK, 1},
		"count":      {func(r *pb.RangeRequest) { r.CountOnly = true }, codes.OK, 0},
		"ascending": {func(r *pb.RangeRequest) {
			r.Limit, r.SortOrder = 256, pb.RangeRequest_ASCEND
		}, codes.OK, 256},
		"descending": {func(r *pb.RangeRequest) {
			r.Limit, r.SortOrder = 1, pb.RangeRequest_DESCEND
		}, codes.InvalidArgument, 0},
		"by value": {func(r *pb.RangeRequest) {
			r.Limit, r.SortOrder, r.SortTarget = 1, pb.RangeRequest_ASCEND, pb.RangeRequest_VALUE
		}, codes.InvalidArgument, 0},
		"filtered": {func(r *pb.RangeRequest) { r.Limit, r.MaxModRevision = 1, 5 }, codes.InvalidArgument, 0},
	} {
		answer, err := ask(test.change)
		if status.Code(err) != test.code || len(answer.GetKvs()) != test.keys {
			t.Errorf("%s: %d keys, error %v", name, len(answer.GetKvs()), err)
		}
	}
	answer, err := ask(func(r *pb.RangeRequest) { r.CountOnly = true })
	if err != nil || answer.Count != maxPage+1 {
		t.Errorf("count %d, error %v", answer.GetCount(), err)
	}
}

func TestEtcdIsAway(t *testing.T) {
	b := newBed(t)
	kv := b.kv(pki.RolePeer, "west")
	b.stopEtcd()
	_, err := kv.Range(b.ctx(), &pb.RangeRequest{Key: []byte("cilium/.heartbeat")})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("error %v", err)
	}
}
