// Package rogue is a peer that says what it is told to: an etcd of the calls that
// a reader of the protocol makes, kept in memory, whose answers can be bent.
package rogue

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// WatchStream is the server's side of a watch.
type WatchStream = pb.Watch_WatchServer

// Tamper is how answers are bent. What is nil is answered as an etcd does. The
// functions are called by many goroutines at once.
type Tamper struct {
	// Range may change an honest answer, or replace it, or fail.
	Range func(ctx context.Context, req *pb.RangeRequest, honest *pb.RangeResponse) (*pb.RangeResponse, error)
	// Message returns what is sent in place of a message of a stream, of which the
	// first watch is for a range that begins at key.
	Message func(key string, m *pb.WatchResponse) []*pb.WatchResponse
	// Watch serves a whole stream.
	Watch func(WatchStream) error
}

// Pair is a key with its value; a nil Value deletes the key.
type Pair struct {
	Key   string
	Value []byte
}

// Store answers KV.Range and Watch. All methods are safe for concurrent use.
type Store struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer

	cluster uint64

	mu       sync.Mutex
	revision int64
	log      []*mvccpb.Event
	values   map[string]*mvccpb.KeyValue
	tamper   Tamper
	changed  chan struct{} // closed and replaced at each change
	cut      chan struct{} // the same, when all streams are to end
	bent     atomic.Int64  // answers
}

// NewStore returns an empty store that says it is of that cluster of etcd.
func NewStore(cluster uint64) *Store {
	return &Store{
		cluster: cluster, revision: 1, values: map[string]*mvccpb.KeyValue{},
		changed: make(chan struct{}), cut: make(chan struct{}),
	}
}

// Bend makes the store answer otherwise from now on, and ends all streams.
func (s *Store) Bend(t Tamper) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tamper = t
	s.end()
}

func (s *Store) end() {
	close(s.cut)
	s.cut = make(chan struct{})
}

// Bent returns how many reads, streams and messages were bent.
func (s *Store) Bent() int64 { return s.bent.Load() }

// Say writes pairs at one revision.
func (s *Store) Say(pairs ...Pair) {
	if len(pairs) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision++
	for _, p := range pairs {
		s.put(p)
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Store) put(p Pair) {
	old := s.values[p.Key]
	kv := &mvccpb.KeyValue{Key: []byte(p.Key), Value: p.Value, ModRevision: s.revision, CreateRevision: s.revision, Version: 1}
	if p.Value == nil {
		if old != nil {
			delete(s.values, p.Key)
			s.log = append(s.log, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: kv.Key, ModRevision: s.revision}})
		}
		return
	}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	s.values[p.Key] = kv
	s.log = append(s.log, &mvccpb.Event{Kv: kv})
}

// Wipe loses everything: what is put next has low revisions again.
func (s *Store) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.revision, s.log, s.values = 1, nil, map[string]*mvccpb.KeyValue{}
	s.end()
}

// Replace loses everything, and is another store from then on.
func (s *Store) Replace() {
	s.mu.Lock()
	s.cluster++
	s.mu.Unlock()
	s.Wipe()
}

func (s *Store) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: s.cluster, MemberId: 1, Revision: s.revision, RaftTerm: 1}
}

// within reports whether a request for key and end is about name.
func within(key, end []byte, name string) bool {
	switch string(end) {
	case "":
		return name == string(key)
	case "\x00":
		return name >= string(key)
	}
	return name >= string(key) && name < string(end)
}

// Range implements etcd's KV.
func (s *Store) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	s.mu.Lock()
	bend, cut := s.tamper.Range, s.cut
	resp, err := s.read(req)
	s.mu.Unlock()
	if bend == nil || err != nil {
		return resp, err
	}
	s.bent.Add(1)
	ctx, cancel := until(ctx, cut)
	defer cancel()
	return bend(ctx, req, resp)
}

// until returns a context that ends when cut is closed, too.
func until(ctx context.Context, cut <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-cut:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// read answers as of the revision that is asked for. The caller holds mu.
func (s *Store) read(req *pb.RangeRequest) (*pb.RangeResponse, error) {
	if req.Revision > s.revision {
		return nil, status.Error(codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
	}
	resp := &pb.RangeResponse{Header: s.header()}
	for name, kv := range s.at(req.Revision) {
		if within(req.Key, req.RangeEnd, name) {
			resp.Kvs = append(resp.Kvs, kv)
		}
	}
	slices.SortFunc(resp.Kvs, func(a, b *mvccpb.KeyValue) int { return strings.Compare(string(a.Key), string(b.Key)) })
	resp.Count = int64(len(resp.Kvs))
	if n := int(req.Limit); n > 0 && len(resp.Kvs) > n {
		resp.Kvs, resp.More = resp.Kvs[:n], true
	}
	return resp, nil
}

// at returns the values as of a revision, 0 for now.
func (s *Store) at(revision int64) map[string]*mvccpb.KeyValue {
	if revision == 0 || revision == s.revision {
		return s.values
	}
	values := map[string]*mvccpb.KeyValue{}
	for _, e := range s.log {
		switch name := string(e.Kv.Key); {
		case e.Kv.ModRevision > revision:
			return values
		case e.Type == mvccpb.Event_DELETE:
			delete(values, name)
		default:
			values[name] = e.Kv
		}
	}
	return values
}

// Watch implements etcd's Watch.
func (s *Store) Watch(stream WatchStream) error {
	s.mu.Lock()
	bend, cut := s.tamper.Watch, s.cut
	s.mu.Unlock()
	if bend != nil {
		s.bent.Add(1)
		return serve(stream, cut, bend)
	}
	w := &watcher{store: s, stream: stream, cut: cut}
	return w.run()
}

// serve lets bend serve a stream until cut is closed.
func serve(stream WatchStream, cut <-chan struct{}, bend func(WatchStream) error) error {
	served := make(chan error, 1)
	go func() { served <- bend(stream) }() // its stream ends when this returns
	select {
	case err := <-served:
		return err
	case <-cut:
		return status.Error(codes.Unavailable, "the stream is cut")
	}
}
