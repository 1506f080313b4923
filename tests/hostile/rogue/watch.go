package rogue

import (
	"cmp"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// watcher is one stream that watches some ranges.
type watcher struct {
	store  *Store
	stream WatchStream
	cut    <-chan struct{}
	spans  []span
}

// span is what one watch of a stream is about, and the next revision of it.
type span struct {
	key, end []byte
	next     int64
}

// run serves the stream until it ends or is cut.
func (w *watcher) run() error {
	requests := make(chan *pb.WatchRequest)
	go func() {
		defer close(requests)
		for {
			r, err := w.stream.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-w.stream.Context().Done():
				return
			}
		}
	}()
	for {
		changed, err := w.events()
		if err != nil {
			return err
		}
		select {
		case r, ok := <-requests:
			if !ok {
				return nil
			}
			err = w.request(r)
		case <-changed:
		case <-w.cut:
			return status.Error(codes.Unavailable, "the stream is cut")
		}
		if err != nil {
			return err
		}
	}
}

// request takes one that a client sent.
func (w *watcher) request(r *pb.WatchRequest) error {
	s := w.store
	s.mu.Lock()
	header := s.header()
	s.mu.Unlock()
	if c := r.GetCreateRequest(); c != nil {
		next := c.StartRevision
		if next == 0 {
			next = header.Revision + 1
		}
		w.spans = append(w.spans, span{c.Key, c.RangeEnd, next})
		return w.send(&pb.WatchResponse{Header: header, WatchId: int64(len(w.spans) - 1), Created: true})
	}
	return w.send(&pb.WatchResponse{Header: header, WatchId: -1})
}

// events sends what each watch has not seen yet.
func (w *watcher) events() (changed <-chan struct{}, err error) {
	s := w.store
	s.mu.Lock()
	var out []*pb.WatchResponse
	for i := range w.spans {
		p := &w.spans[i]
		var events []*mvccpb.Event
		from, _ := slices.BinarySearchFunc(s.log, p.next, func(e *mvccpb.Event, next int64) int { return cmp.Compare(e.Kv.ModRevision, next) })
		for _, e := range s.log[from:] {
			if within(p.key, p.end, string(e.Kv.Key)) {
				events = append(events, e)
			}
		}
		p.next = max(p.next, s.revision+1)
		if len(events) > 0 {
			out = append(out, &pb.WatchResponse{Header: s.header(), WatchId: int64(i), Events: events})
		}
	}
	changed = s.changed
	s.mu.Unlock()
	for _, m := range out {
		if err := w.send(m); err != nil {
			return nil, err
		}
	}
	return changed, nil
}

func (w *watcher) send(m *pb.WatchResponse) error {
	w.store.mu.Lock()
	bend := w.store.tamper.Message
	w.store.mu.Unlock()
	messages := []*pb.WatchResponse{m}
	if bend != nil {
		w.store.bent.Add(1)
		messages = bend(string(w.spans[0].key), m)
	}
	for _, m := range messages {
		if err := w.stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}
