package kvstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
)

// hostile serves what it was told to, whatever it is asked.
type hostile struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	keys   []*mvccpb.KeyValue
	events []*mvccpb.Event
	list   func(*pb.RangeRequest) *pb.RangeResponse // answers instead
}

func (h *hostile) header() *pb.ResponseHeader { return &pb.ResponseHeader{ClusterId: 1, Revision: 5} }

func (h *hostile) Range(_ context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if h.list != nil {
		return h.list(r), nil
	}
	return &pb.RangeResponse{Header: h.header(), Kvs: h.keys, More: true}, nil
}

func (h *hostile) Watch(stream grpc.BidiStreamingServer[pb.WatchRequest, pb.WatchResponse]) error {
	if _, err := stream.Recv(); err != nil {
		return err
	}
	for _, m := range []*pb.WatchResponse{{Header: h.header(), Created: true}, {Header: h.header(), Events: h.events}} {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	<-stream.Context().Done()
	return nil
}

func (h *hostile) dial(t *testing.T) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterKVServer(server, h)
	pb.RegisterWatchServer(server, h)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	c, err := Dial(ClientConfig{Endpoints: []string{"unix://" + socket}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Another cluster runs the store that is followed: nothing of what it may say
// ends this process, and no handler gets a key that it does not know.
func TestFollowRefusesWhatItDidNotAskFor(t *testing.T) {
	t.Parallel()
	kv := func(key string) *mvccpb.KeyValue {
		return &mvccpb.KeyValue{Key: []byte(key), Value: []byte("v"), ModRevision: 6}
	}
	for name, h := range map[string]*hostile{
		"listed before the range": {keys: []*mvccpb.KeyValue{kv("0")}},
		"listed behind the range": {keys: []*mvccpb.KeyValue{kv("a/1"), kv("b")}},
		"listed again for ever":   {keys: []*mvccpb.KeyValue{kv("a/1"), kv("a/2")}},
		"listed without a name":   {keys: []*mvccpb.KeyValue{{}}},
		"put outside":             {events: []*mvccpb.Event{{Kv: kv("a/1")}, {Kv: kv("b")}}},
		"deleted outside":         {events: []*mvccpb.Event{{Kv: kv("a/1")}, {Type: mvccpb.Event_DELETE, Kv: kv("b")}}},
		"nothing put":             {events: []*mvccpb.Event{{Kv: kv("a/1")}, {}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder()
			follow(t, h.dial(t), FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
			got := r.waitTrouble(t)
			if !slices.ContainsFunc(got.troubles, func(err error) bool { return errors.Is(err, ErrUnasked) }) {
				t.Errorf("troubles: %v", got.troubles)
			}
			want := map[string]string{}
			if name == "listed again for ever" {
				want = map[string]string{"a/1": "v", "a/2": "v"}
			}
			if diff := cmp.Diff(want, got.state); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A list whose parts are of no revision could lack what was there all the time: it
// is not taken for one, and nothing goes by it.
func TestFollowWantsRevisions(t *testing.T) {
	t.Parallel()
	var answers atomic.Int64
	h := &hostile{}
	kv := &mvccpb.KeyValue{Key: []byte("a/1"), Value: []byte("v"), ModRevision: 3}
	h.list = func(*pb.RangeRequest) *pb.RangeResponse {
		if answers.Add(1) == 1 {
			return &pb.RangeResponse{}
		}
		return &pb.RangeResponse{Header: h.header(), Kvs: []*mvccpb.KeyValue{kv}}
	}
	r := newRecorder()
	follow(t, h.dial(t), FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
	got := r.waitFor(t, "a/1", "v")
	if len(got.troubles) == 0 || !errors.Is(got.troubles[0], ErrNoHeader) {
		t.Errorf("troubles: %v", got.troubles)
	}
}

// A list that never ends, or new keys without an end, end the following.
func TestFollowBoundsKeys(t *testing.T) {
	t.Parallel()
	endless := &hostile{}
	endless.list = func(r *pb.RangeRequest) *pb.RangeResponse {
		resp := &pb.RangeResponse{Header: endless.header(), More: true}
		after, _ := strconv.Atoi(strings.Trim(string(r.Key), "a/\x00"))
		for i := range pageKeys {
			resp.Kvs = append(resp.Kvs, &mvccpb.KeyValue{Key: fmt.Appendf(nil, "a/%09d", after+i+1), Value: []byte("v"), ModRevision: 2})
		}
		return resp
	}
	chatty := &hostile{}
	chatty.list = func(*pb.RangeRequest) *pb.RangeResponse { return &pb.RangeResponse{Header: chatty.header()} }
	for i := range 2000 {
		chatty.events = append(chatty.events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: fmt.Appendf(nil, "a/%d", i), ModRevision: 6}})
	}
	for name, h := range map[string]*hostile{"endless": endless, "chatty": chatty} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRecorder()
			err := h.dial(t).Follow(testContext(t), FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r, KeyBytes: 1000 * keyCost})
			if !errors.Is(err, ErrTooManyKeys) || len(r.got.state) > 1000 {
				t.Errorf("%d keys were given, then %v", len(r.got.state), err)
			}
		})
	}
}
