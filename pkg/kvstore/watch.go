package kvstore

import (
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// quietProbes is how many probes in a row a watch stream may leave unanswered.
const quietProbes = 2

// watch is one stream that watches all ranges.
type watch struct {
	follower *follower
	stream   pb.Watch_WatchClient
	resume   bool // the handler is to be told when it is set up

	created  int  // ranges that the server confirmed
	answered bool // the stream answers progress requests; some proxies do not
	quiet    int  // probes since the last message
}

// watch follows the ranges from f.next on until something goes wrong, and
// returns what. The stream is etcd's plain one: the watcher of etcd's client
// reconnects by itself and does not say to what.
func (f *follower) watch(ctx context.Context, resume bool) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := f.watcher.Watch(ctx)
	if err != nil {
		cancel()
		return fmt.Errorf("watch %q: %w", f.cfg.Ranges[0], err)
	}
	messages, failed := receive(ctx, stream)
	probes := make(chan error, 1)
	probing := false
	var group sync.WaitGroup
	ticker := time.NewTicker(f.cfg.Probe)
	defer func() {
		cancel()
		ticker.Stop()
		for range messages { // until the receiver has ended
		}
		group.Wait()
	}()

	w := &watch{follower: f, stream: stream, resume: resume}
	w.create()
	for {
		select {
		case m, ok := <-messages:
			if !ok {
				return fmt.Errorf("watch %q: %w", f.cfg.Ranges[0], explain(<-failed))
			}
			if err := w.receive(ctx, m); err != nil {
				return err
			}
		case <-ticker.C:
			if err := w.tick(); err != nil {
				return err
			}
			if !probing {
				probing = true
				known := f.store
				group.Go(func() {
					_, err := f.client.check(ctx, known)
					probes <- err
				})
			}
		case err := <-probes:
			probing = false
			if err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// receive reads the stream until it ends, then gives the reason and closes messages.
func receive(ctx context.Context, stream pb.Watch_WatchClient) (<-chan *pb.WatchResponse, <-chan error) {
	messages := make(chan *pb.WatchResponse)
	failed := make(chan error, 1)
	go func() {
		defer close(messages)
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				failed <- ctx.Err()
				return
			}
		}
	}()
	return messages, failed
}

// create asks for all ranges. Fragments keep a large batch from being one
// message larger than we take. An error of Send shows, with its reason, in Recv.
func (w *watch) create() {
	for i, r := range w.follower.ranges {
		_ = w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key:           []byte(r.key),
			RangeEnd:      []byte(r.end),
			StartRevision: w.follower.next[i],
			Fragment:      true,
		}}})
	}
}

// tick asks the stream for a sign of life, and counts those that did not come.
// A stream that never gave one is not judged: a store that stood still since
// the listing gives none, nor does etcd's own proxy.
func (w *watch) tick() error {
	w.quiet++
	if w.answered && w.quiet > quietProbes || w.quiet > quietProbes && w.created < len(w.follower.ranges) {
		return fmt.Errorf("watch %q: %w", w.follower.cfg.Ranges[0], ErrWatchStuck)
	}
	_ = w.stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	return nil
}

// receive takes one message of the stream.
func (w *watch) receive(ctx context.Context, m *pb.WatchResponse) error {
	f := w.follower
	w.quiet = 0
	if err := f.allow(ctx, proto.Size(m), false); err != nil {
		return err
	}
	// The header's revision says nothing here: a member that lags behind the
	// one that was listed is still the same store.
	if id := m.Header.GetClusterId(); id != 0 && id != f.store.cluster {
		return fmt.Errorf("watch %q: %w: cluster id %x instead of %x", f.cfg.Ranges[0], ErrOtherStore, id, f.store.cluster)
	}
	switch {
	case m.CompactRevision != 0 || m.Canceled && strings.Contains(m.CancelReason, "compacted"):
		return fmt.Errorf("watch %q: %w", f.cfg.Ranges[0], ErrCompacted)
	case m.Canceled:
		return fmt.Errorf("watch %q: canceled by the server: %s", f.cfg.Ranges[0], m.CancelReason)
	case m.Created:
		w.created++
		if w.resume && w.created == len(f.ranges) {
			return handled(f.cfg.Handler.Complete(ctx))
		}
		return nil
	case len(m.Events) == 0:
		w.answered = true
		return nil
	}
	return f.events(ctx, m)
}

// events passes on what one message changes, all of it or nothing.
func (f *follower) events(ctx context.Context, m *pb.WatchResponse) error {
	for _, e := range m.Events {
		if key := string(e.GetKv().GetKey()); !slices.ContainsFunc(f.ranges, func(r Range) bool { return r.contains(key) }) {
			return fmt.Errorf("watch %q: %w: %.100q", f.cfg.Ranges[0], ErrUnasked, key)
		}
	}
	changes := make([]Change, 0, len(m.Events))
	for _, e := range m.Events {
		c, ok, err := f.event(e)
		if err != nil {
			return err
		}
		if ok {
			changes = append(changes, c)
		}
	}
	if err := f.give(ctx, changes); err != nil {
		return err
	}
	f.passed(m)
	return nil
}

// event notes what an event says and returns the change, if it is one.
func (f *follower) event(e *mvccpb.Event) (c Change, changed bool, err error) {
	key := string(e.Kv.Key)
	hash := maphash.Bytes(f.seed, e.Kv.Value)
	if key == f.cfg.Proof && e.Type != mvccpb.Event_DELETE {
		f.store.anchor.advance(f.seed, e.Kv, hash)
	}
	if !f.asked(key) {
		return Change{}, false, nil
	}
	if e.Type == mvccpb.Event_DELETE {
		_, had := f.known[key]
		f.drop(key)
		return Change{Key: key, Revision: e.Kv.ModRevision, Deleted: true}, had, nil
	}
	old, had, err := f.note(key, hash)
	return Change{Key: key, Value: e.Kv.Value, Revision: e.Kv.ModRevision}, !had || old.hash != hash, err
}

// passed moves the point from which a broken watch is resumed. The last
// revision of a fragment may go on in the next one, so it is asked for again.
func (f *follower) passed(m *pb.WatchResponse) {
	last := m.Events[len(m.Events)-1].Kv
	f.store.revision = max(f.store.revision, last.ModRevision)
	next := last.ModRevision + 1
	if m.Fragment {
		next--
	}
	for i, r := range f.ranges {
		if r.contains(string(last.Key)) {
			f.next[i] = max(f.next[i], next)
		}
	}
}
