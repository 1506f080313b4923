package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

func create(key, end string) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)},
	}}
}

func cancel(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
		CancelRequest: &pb.WatchCancelRequest{WatchId: id},
	}}
}

const (
	nodes    = "cilium/state/nodes/v1/east/"
	nodesEnd = "cilium/state/nodes/v1/east0"
)

func (b *bed) watch(conn *grpc.ClientConn) pb.Watch_WatchClient {
	b.t.Helper()
	stream, err := pb.NewWatchClient(conn).Watch(b.ctx())
	if err != nil {
		b.t.Fatal(err)
	}
	return stream
}

// ask sends a request and returns the answer.
func (b *bed) ask(stream pb.Watch_WatchClient, request *pb.WatchRequest) *pb.WatchResponse {
	b.t.Helper()
	if err := stream.Send(request); err != nil {
		b.t.Fatal(err)
	}
	return b.next(stream)
}

func (b *bed) next(stream pb.Watch_WatchClient) *pb.WatchResponse {
	b.t.Helper()
	answer, err := stream.Recv()
	if err != nil {
		b.t.Fatal(err)
	}
	return answer
}

func TestWatch(t *testing.T) {
	b := newBed(t)
	stream := b.watch(b.dial(pki.RolePeer, "west"))
	created := b.ask(stream, create(nodes, nodesEnd))
	if !created.Created || created.Canceled || created.Header.ClusterId == 0 {
		t.Fatalf("answer %v", created)
	}
	heartbeat := b.ask(stream, create("cilium/.heartbeat", "cilium/.heartbeau"))

	b.put(nodes+"node-1", "a")
	event := b.next(stream)
	if len(event.Events) != 1 || string(event.Events[0].Kv.Value) != "a" || event.WatchId != created.WatchId {
		t.Fatalf("event %v", event)
	}
	b.put("cilium/state/nodes/v1/east2/node-1", "not watched")
	b.put("cilium/.heartbeat", "now")
	if event := b.next(stream); event.WatchId != heartbeat.WatchId {
		t.Fatalf("event %v", event)
	}
	if err := b.etcd.Delete(b.ctx(), nodes+"node-1"); err != nil {
		t.Fatal(err)
	}
	if event := b.next(stream); event.Events[0].Type != mvccpb.Event_DELETE {
		t.Fatalf("event %v", event)
	}
	progress := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: new(pb.WatchProgressRequest)}}
	if answer := b.ask(stream, progress); len(answer.Events) != 0 || answer.Header.Revision == 0 {
		t.Fatalf("progress %v", answer)
	}
	if answer := b.ask(stream, cancel(created.WatchId)); !answer.Canceled {
		t.Fatalf("answer %v", answer)
	}
}

func TestWatchOfWhatIsNotReadable(t *testing.T) {
	b := newBed(t)
	conn := b.dial(pki.RolePeer, "west")
	other := b.watch(conn)
	b.ask(other, create(nodes, nodesEnd))
	for _, r := range [][2]string{
		{"", "\x00"},
		{"\x00", "\x00"},
		{"cilium/", "cilium0"},
		{"cilium/state/", "\x00"},
		{"cilium/cache/", "cilium/cache0"},
		{"causeway/", "causeway0"},
	} {
		stream := b.watch(conn)
		b.ask(stream, create(nodes, nodesEnd))
		// The second request, too, is looked at.
		if err := stream.Send(create(r[0], r[1])); err != nil {
			t.Fatal(err)
		}
		if answer, err := stream.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%q: answer %v, error %v", r, answer, err)
		}
	}
	stream := b.watch(conn)
	if err := stream.Send(new(pb.WatchRequest)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("empty request: %v", err)
	}
	b.put(nodes+"node-1", "a")
	if event := b.next(other); len(event.Events) != 1 {
		t.Errorf("the other stream: %v", event)
	}
}

func TestWatchesAreBounded(t *testing.T) {
	b := newBed(t)
	conn := b.dial(pki.RolePeer, "west")
	first, second := b.watch(conn), b.watch(conn)
	for range maxWatches / 2 {
		b.ask(first, create(nodes, nodesEnd))
		b.ask(second, create(nodes, nodesEnd))
	}
	// One that is cancelled makes room for one.
	b.ask(first, cancel(0))
	b.ask(first, create(nodes, nodesEnd))
	if err := first.Send(create(nodes, nodesEnd)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("error %v", err)
	}
	// The stream that ended gives back what it had; another connection has its own.
	for range maxWatches / 2 {
		b.ask(second, create(nodes, nodesEnd))
	}
	b.ask(b.watch(b.dial(pki.RolePeer, "west")), create(nodes, nodesEnd))
}

// A reader that offers to take fragments gets what others get: making them is much
// work for etcd.
func TestWatchMakesNoFragments(t *testing.T) {
	b := newBed(t)
	var keys []string
	for i := range 1024 {
		keys = append(keys, fmt.Sprint(nodes, "node-", i))
	}
	b.putAll(keys, strings.Repeat("x", 3<<10)) // 3 MiB, of which etcd makes two fragments
	stream := b.watch(b.dial(pki.RolePeer, "west"))
	request := create(nodes, nodesEnd)
	request.GetCreateRequest().StartRevision, request.GetCreateRequest().Fragment = 1, true
	b.ask(stream, request)
	for got := 0; got < len(keys); {
		answer := b.next(stream)
		if answer.Fragment {
			t.Fatal("got a fragment")
		}
		got += len(answer.Events)
	}
}

// More streams of one peer wait for the end of others; its reads, and other peers,
// do not.
func TestWatchStreamsWait(t *testing.T) {
	b := newBed(t)
	conn := b.dial(pki.RolePeer, "west")
	ctx, leave := context.WithCancel(b.ctx())
	first, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b.ask(first, create(nodes, nodesEnd))
	for range maxHolderStreams - 1 {
		b.ask(b.watch(conn), create(nodes, nodesEnd))
	}
	waits := b.watch(conn)
	if err := waits.Send(create(nodes, nodesEnd)); err != nil {
		t.Fatal(err)
	}
	if _, err := pb.NewKVClient(conn).Range(b.ctx(), &pb.RangeRequest{Key: []byte(nodes + "n")}); err != nil {
		t.Errorf("a read: %v", err)
	}
	b.ask(b.watch(b.dial(pki.RolePeer, "north")), create(nodes, nodesEnd))
	open := func() (n int64) {
		e := b.gateway.exclusions
		e.mu.Lock()
		defer e.mu.Unlock()
		for c := range e.open {
			if c.subject == peerOf("west") {
				n = c.watches.Load()
			}
		}
		return n
	}
	if n := open(); n != maxHolderStreams {
		t.Errorf("%d watches are open", n)
	}
	b.eventually("the stream that waits is counted", func() bool { return b.refused(reasonLimit) == 1 })
	leave()
	if answer := b.next(waits); !answer.Created {
		t.Errorf("in the place of one that has ended: %v", answer)
	}
}

// allWatches opens as many watches as a peer may have, and returns their streams.
func (b *bed) allWatches(peer string) (streams []pb.Watch_WatchClient) {
	b.t.Helper()
	for range maxHolderWatches / maxWatches {
		stream := b.watch(b.dial(pki.RolePeer, peer))
		for range maxWatches {
			b.ask(stream, create(nodes, nodesEnd))
		}
		streams = append(streams, stream)
	}
	return streams
}

// All connections of a peer together have so many, another peer its own.
func TestWatchesOfAPeerAreBounded(t *testing.T) {
	b := newBed(t)
	streams := b.allWatches("west")
	more := func() (pb.Watch_WatchClient, error) {
		stream := b.watch(b.dial(pki.RolePeer, "west"))
		if err := stream.Send(create(nodes, nodesEnd)); err != nil {
			t.Fatal(err)
		}
		_, err := stream.Recv()
		return stream, err
	}
	if _, err := more(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one more: %v", err)
	}
	b.ask(b.watch(b.dial(pki.RolePeer, "north")), create(nodes, nodesEnd))
	b.ask(streams[0], cancel(0))
	if _, err := more(); err != nil {
		t.Errorf("in the place of one that was cancelled: %v", err)
	}
}

// A peer that tries 10,000 watches has those that it may, each of the others is refused
// by its code, and another peer has its own.
func TestManyWatchesOfAPeer(t *testing.T) {
	b := newBed(t)
	before := memory()
	more := maxHolderStreams - len(b.allWatches("west")) // as many streams as there may be
	var tried sync.WaitGroup
	for range more {
		conn := b.dial(pki.RolePeer, "west")
		tried.Go(func() {
			for range (10_000 - maxHolderWatches) / more {
				stream, err := pb.NewWatchClient(conn).Watch(t.Context())
				if err == nil {
					_ = stream.Send(create(nodes, nodesEnd)) // its error shows in Recv
					_, err = stream.Recv()
				}
				if status.Code(err) != codes.ResourceExhausted {
					t.Errorf("one of too many watches: %v", err)
					return
				}
			}
		})
	}
	tried.Wait()
	north := b.watch(b.dial(pki.RolePeer, "north"))
	b.ask(north, create(nodes, nodesEnd))
	b.put(nodes+"changed", "x")
	if event := b.next(north); len(event.Events) != 1 {
		t.Errorf("another peer was told %v", event)
	}
	if now := memory(); now > before+mostMemory {
		t.Errorf("%d MiB more are in use", (now-before)>>20)
	}
}

// A reader that takes nothing holds up neither others nor the memory.
func TestWatchOfASlowReader(t *testing.T) {
	b := newBed(t)
	conn := b.dial(pki.RolePeer, "west")
	slow, quick := b.watch(conn), b.watch(conn)
	b.ask(slow, create(nodes, nodesEnd))
	b.ask(quick, create(nodes, nodesEnd))
	const changes = 24
	large := strings.Repeat("x", 256<<10)
	for i := range changes {
		b.put(fmt.Sprint(nodes, "node-", i), large)
		for got := 0; got == 0; {
			got = len(b.next(quick).Events)
		}
	}
	for got := 0; got < changes; {
		got += len(b.next(slow).Events)
	}
}

func TestWatchEndsWithEtcd(t *testing.T) {
	b := newBed(t)
	stream := b.watch(b.dial(pki.RolePeer, "west"))
	b.ask(stream, create(nodes, nodesEnd))
	b.stopEtcd()
	if answer, err := stream.Recv(); err == nil && !answer.Canceled {
		t.Errorf("answer %v", answer)
	}
}

func TestStopCutsStreams(t *testing.T) {
	b := newBed(t)
	stream := b.watch(b.dial(pki.RolePeer, "west"))
	b.ask(stream, create(nodes, nodesEnd))
	b.stop()
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("error %v", err)
	}
}

func TestReaderGoes(t *testing.T) {
	b := newBed(t)
	ctx, leave := context.WithCancel(b.ctx())
	conn := b.dial(pki.RolePeer, "west")
	for range 3 * maxStreams { // more than may be open together
		stream, err := pb.NewWatchClient(conn).Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		b.ask(stream, create(nodes, nodesEnd))
		leave()
		ctx, leave = context.WithCancel(b.ctx())
	}
	leave()
}
