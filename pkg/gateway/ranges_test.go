package gateway

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// offLimits are ranges that no peer may read or watch, each with one reason.
func offLimits() map[string][2]string {
	return map[string][2]string{
		"no key":                     {"", ""},
		"everything":                 {"", "\x00"},
		"everything, spelt out":      {"\x00", "\x00"},
		"from a readable key on":     {"cilium/state/nodes/v1/east/n", "\x00"},
		"to the very last":           {"cilium/state/", "\xff\xff"},
		"begins inside, ends beyond": {"cilium/state/z", "cilium/state1"},
		"begins before, ends inside": {"cilium/stat", "cilium/state/z"},
		"around what is readable":    {"cilium/", "cilium0"},
		"from one to another":        {"cilium/.heartbeat", "cilium/state/z"},
		"the cache":                  {"cilium/cache/", "cilium/cache0"},
		"one key of the cache":       {"cilium/cache/nodes/v1/west/n", ""},
		"ours":                       {"causeway/", "causeway0"},
		"one key of ours":            {"causeway/claims/west", ""},
		"another's configuration":    {"cilium/cluster-config/west", ""},
		"all configurations":         {"cilium/cluster-config/", "cilium/cluster-config0"},
		"ours as a prefix":           {"cilium/cluster-config/east", "cilium/cluster-config/easu"},
		"one that begins as ours":    {"cilium/cluster-config/east2", ""},
		"another's markers":          {"cilium/synced/west/", "cilium/synced/west0"},
		"all markers":                {"cilium/synced/", "cilium/synced0"},
		"markers as no directory":    {"cilium/synced/east", "cilium/synced/easu"},
		"the directory's own name":   {"cilium/state", ""},
		"what comes right after":     {"cilium/state0", ""},
		"backwards":                  {"cilium/state/b", "cilium/state/a"},
		"nothing":                    {"cilium/state/a", "cilium/state/a"},
		"of etcd's own users":        {"\x00auth", ""},
		"in capitals":                {"CILIUM/STATE/", "CILIUM/STATE0"},
		"doubled":                    {"cilium//state/", "cilium//state0"},
	}
}

// readable are ranges that a peer may read and watch.
func readable() map[string][2]string {
	return map[string][2]string{
		"heartbeat":           {"cilium/.heartbeat", ""},
		"heartbeat as prefix": {"cilium/.heartbeat", "cilium/.heartbeau"},
		"the state":           {"cilium/state/", "cilium/state0"},
		"a kind":              {nodes, nodesEnd},
		"one key":             {nodes + "n", ""},
		"a part of a kind":    {nodes + "a", nodes + "z"},
		"configuration":       {"cilium/cluster-config/east", ""},
		"a range of one key":  {"cilium/cluster-config/east", "cilium/cluster-config/east\x00"},
		"markers":             {"cilium/synced/east/", "cilium/synced/east0"},
	}
}

// forms are all ways to ask for a range.
func forms() map[string]func(*pb.RangeRequest) {
	return map[string]func(*pb.RangeRequest){
		"plain":        func(*pb.RangeRequest) {},
		"count only":   func(r *pb.RangeRequest) { r.CountOnly = true },
		"keys only":    func(r *pb.RangeRequest) { r.KeysOnly = true },
		"serializable": func(r *pb.RangeRequest) { r.Serializable = true },
		"old revision": func(r *pb.RangeRequest) { r.Revision = 2 },
		"one":          func(r *pb.RangeRequest) { r.Limit = 1 },
	}
}

// No form of a read widens what may be read, nor narrows it.
func TestReadsOfEachRange(t *testing.T) {
	b := newBed(t)
	b.put("causeway/claims/west", "secret")
	b.put(nodes+"n", "first")
	b.put(nodes+"n", "second")
	kv := b.kv(pki.RolePeer, "west")
	for form, change := range forms() {
		read := func(r [2]string) (*pb.RangeResponse, error) {
			request := &pb.RangeRequest{Key: []byte(r[0]), RangeEnd: []byte(r[1])}
			change(request)
			return kv.Range(b.ctx(), request)
		}
		for name, r := range offLimits() {
			before := b.refused(reasonRange)
			if got, err := read(r); status.Code(err) != codes.PermissionDenied || b.refused(reasonRange) != before+1 {
				t.Errorf("%s, %s: %v, %v", name, form, got, err)
			}
		}
		for name, r := range readable() {
			if _, err := read(r); err != nil {
				t.Errorf("%s, %s: %v", name, form, err)
			}
		}
	}
	old, err := kv.Range(b.ctx(), &pb.RangeRequest{Key: []byte(nodes + "n"), Revision: 3})
	if err != nil || len(old.Kvs) != 1 || string(old.Kvs[0].Value) != "first" {
		t.Errorf("at an old revision: %v, %v", old, err)
	}
	if _, err := kv.Range(b.ctx(), &pb.RangeRequest{Key: []byte(nodes + "n"), Revision: 1 << 40}); status.Code(err) != codes.OutOfRange {
		t.Errorf("at a revision to come: %v", err)
	}
}

// watchForms are all ways to ask for a watch.
func watchForms() map[string]func(*pb.WatchCreateRequest) {
	return map[string]func(*pb.WatchCreateRequest){
		"plain":        func(*pb.WatchCreateRequest) {},
		"old revision": func(r *pb.WatchCreateRequest) { r.StartRevision = 1 },
		"previous":     func(r *pb.WatchCreateRequest) { r.PrevKv = true },
		"fragments":    func(r *pb.WatchCreateRequest) { r.Fragment = true },
		"progress":     func(r *pb.WatchCreateRequest) { r.ProgressNotify = true },
		"own number":   func(r *pb.WatchCreateRequest) { r.WatchId = 77 },
		"filters": func(r *pb.WatchCreateRequest) {
			r.Filters = []pb.WatchCreateRequest_FilterType{pb.WatchCreateRequest_NODELETE}
		},
	}
}

func (b *bed) tryWatch(conn *grpc.ClientConn, r [2]string, change func(*pb.WatchCreateRequest)) (*pb.WatchResponse, error) {
	b.t.Helper()
	stream := b.watch(conn)
	defer func() { _ = stream.CloseSend() }()
	request := create(r[0], r[1])
	change(request.GetCreateRequest())
	if err := stream.Send(request); err != nil {
		b.t.Fatal(err)
	}
	return stream.Recv()
}

// No form of a watch widens what may be watched, nor narrows it.
func TestWatchesOfEachRange(t *testing.T) {
	b := newBed(t)
	b.put(nodes+"n", "first")
	for form, change := range watchForms() {
		conn := b.dial(pki.RolePeer, "west")
		for name, r := range offLimits() {
			before := b.refused(reasonRange)
			if got, err := b.tryWatch(conn, r, change); status.Code(err) != codes.PermissionDenied || b.refused(reasonRange) != before+1 {
				t.Errorf("%s, %s: %v, %v", name, form, got, err)
			}
		}
		for name, r := range readable() {
			if got, err := b.tryWatch(conn, r, change); err != nil || !got.Created || got.Canceled {
				t.Errorf("%s, %s: %v, %v", name, form, got, err)
			}
		}
		_ = conn.Close()
	}
}

// The number of a watch is of use in its own stream only, and what etcd refuses
// leaves no place taken.
func TestWatchNumbers(t *testing.T) {
	b := newBed(t)
	conn := b.dial(pki.RolePeer, "west")
	mine, other := b.watch(conn), b.watch(b.dial(pki.RolePeer, "north"))
	numbered := func(id int64) *pb.WatchRequest {
		request := create(nodes, nodesEnd)
		request.GetCreateRequest().WatchId = id
		return request
	}
	b.ask(other, numbered(77))
	b.ask(mine, numbered(5))
	for range 3 { // etcd says nothing to the cancel of what is not there
		if err := mine.Send(cancel(77)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 * maxWatches {
		if again := b.ask(mine, numbered(5)); !again.Canceled {
			t.Fatalf("one number, two watches: %v", again)
		}
	}
	b.put(nodes+"n", "a")
	for name, stream := range map[string]pb.Watch_WatchClient{"mine": mine, "the other's": other} {
		if event := b.next(stream); len(event.Events) != 1 {
			t.Errorf("%s: %v", name, event)
		}
	}
}
