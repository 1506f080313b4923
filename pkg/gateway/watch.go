package gateway

import (
	"context"
	"errors"
	"io"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// watch offers Watch.Watch.
type watch struct {
	pb.UnimplementedWatchServer

	etcd     pb.WatchClient
	readable spans
	refusals *refusals
}

// Watch joins a reader's stream with one of etcd's. It ends with either of
// them, and with the first request that is refused: an answer to that one alone
// would have to be put in order with etcd's to the requests before it. More streams
// of one peer than maxHolderStreams wait until others end.
func (w *watch) Watch(reader pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancelCause(reader.Context())
	defer cancel(nil)
	c, _ := connectionOf(ctx)
	if !c.holder.streams.TryAcquire(1) {
		// What is said is for our log: the reader is not refused, as the protocol's
		// own readers would not ask again.
		_ = w.refusals.refuse(ctx, reasonLimit, codes.ResourceExhausted,
			"%d streams of watches of %s are open, one more waits until one of them ends", maxHolderStreams, c.subject.Name)
		if err := c.holder.streams.Acquire(ctx, 1); err != nil {
			return status.FromContextError(err).Err()
		}
	}
	defer c.holder.streams.Release(1)
	// A member that has lost its cluster ends the stream, so that no reader
	// is left with a watch on which nothing can come.
	store, err := w.etcd.Watch(
		metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader),
		grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return err
	}
	s := &watchStream{watch: w, reader: reader, store: store, connection: c}
	defer s.end()
	// It ends at the latest when this function returns, which ends the
	// reader's stream.
	go func() {
		if err := s.requests(ctx); err != nil {
			cancel(err)
		}
	}()
	err = s.answers()
	if ctx.Err() != nil && reader.Context().Err() == nil {
		return context.Cause(ctx)
	}
	return err
}

// watchStream is a reader's stream and etcd's.
type watchStream struct {
	*watch

	connection *connection
	reader     pb.Watch_WatchServer
	store      pb.Watch_WatchClient

	mu sync.Mutex
	// open is how many watches of the connection are this stream's.
	open  int64
	ended bool
}

// requests passes the reader's requests on until one is refused, whose error
// it returns, or either stream ends.
func (s *watchStream) requests(ctx context.Context) error {
	for {
		request, err := s.reader.Recv()
		if errors.Is(err, io.EOF) {
			// Nothing more will be asked; what is watched goes on. An error
			// is one of the store's stream, which answers meets as well.
			_ = s.store.CloseSend()
			return nil
		}
		if err != nil {
			return nil //nolint:nilerr // the reader has gone, its context says so
		}
		if err := s.check(ctx, request); err != nil {
			return err
		}
		if s.store.Send(request) != nil {
			return nil // answers gets the reason
		}
	}
}

func (s *watchStream) check(ctx context.Context, request *pb.WatchRequest) error {
	switch r := request.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		create := r.CreateRequest
		if !s.readable.contain(create.GetKey(), create.GetRangeEnd()) {
			return s.refusals.refuse(ctx, reasonRange, codes.PermissionDenied,
				"peers may not watch the keys from %q to %q", create.GetKey(), create.GetRangeEnd())
		}
		if !s.begin() {
			return s.refusals.refuse(ctx, reasonLimit, codes.ResourceExhausted,
				"more than %d watches on one connection, or %d of one peer", maxWatches, maxHolderWatches)
		}
		// etcd adds up the size of all that is before an event for each event, when it
		// cuts an answer in fragments: some thousands keep a core busy for seconds.
		create.Fragment = false
		return nil
	case *pb.WatchRequest_CancelRequest, *pb.WatchRequest_ProgressRequest:
		return nil
	default:
		return s.refusals.refuse(ctx, reasonRequest, codes.InvalidArgument, "this watch request is not offered")
	}
}

// answers passes etcd's answers on. While the reader does not take them they
// are held up in etcd, by the stream's flow control.
func (s *watchStream) answers() error {
	for {
		answer, err := s.store.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if answer.Canceled {
			s.cancelled()
		}
		if err := s.reader.Send(answer); err != nil {
			return err
		}
	}
}

// begin counts a watch, and reports false when there is no room for it.
func (s *watchStream) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	if s.connection.watches.Add(1) > maxWatches {
		s.connection.watches.Add(-1)
		return false
	}
	if s.connection.holder.watches.Add(1) > maxHolderWatches {
		s.release(1)
		return false
	}
	s.open++
	return true
}

// cancelled counts back one watch.
func (s *watchStream) cancelled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open > 0 {
		s.open--
		s.release(1)
	}
}

func (s *watchStream) release(n int64) {
	s.connection.watches.Add(-n)
	s.connection.holder.watches.Add(-n)
}

// end counts back what is left of the stream.
func (s *watchStream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.release(s.open)
	s.open = 0
}
