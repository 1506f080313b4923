package feed

import (
	"context"
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
)

// askTimeout is how long an agent may take to tell its digests.
const askTimeout = 20 * time.Second

// update is what a subscriber is to be sent next.
type update struct {
	revision  Revision
	replaced  []*feedpb.Replaced
	given     kindSet // the kinds that the subscriber has all of then
	resources [][]byte
	size      int // of resources, in bytes
	enough    int // the size at which a list of changes need not be read on
}

func (u *update) add(encoded []byte) {
	u.resources = append(u.resources, encoded)
	u.size += len(encoded)
}

// greet takes what the agent says of its state.
func (sub *subscription) greet(hello *feedpb.Hello) {
	sub.roots = map[Kind]digest{}
	for _, r := range hello.GetRoots() {
		if k, known := kindOf(r.GetKind()); known && len(r.GetDigest()) == digestSize {
			sub.known |= setOf(k)
			sub.roots[k] = digest(r.GetDigest())
		}
	}
	r := revisionFromProto(hello.GetRevision())
	if given, ours := sub.server.given(r); ours {
		sub.given, sub.n = given&sub.known, r.N
		if sub.given != 0 {
			sub.server.metrics.resumed.WithLabelValues("revision").Inc()
		}
	}
}

// send gives the agent what it lacks and then each change until the stream
// ends, and returns why it did.
func (sub *subscription) send(ctx context.Context) error {
	for {
		missing, newer, changed := sub.server.look(sub)
		var err error
		switch {
		case missing != 0:
			err = sub.bring(ctx, missing)
		case newer:
			err = sub.follow(ctx)
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
		}
		if err != nil {
			return err
		}
	}
}

// look returns the kinds that the subscriber has not got yet, and whether there
// is something newer of those that it has; changed is closed when to look again.
func (s *Server) look(sub *subscription) (missing kindSet, newer bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.given != 0 && sub.n < s.table.forgotten {
		// What it misses cannot be told by revisions any more. Its digests are
		// not those of the beginning.
		sub.given, sub.roots = 0, nil
	}
	missing = s.open & sub.known &^ sub.given
	return missing, sub.given != 0 && (sub.n != s.table.n || !sub.begun), s.changed
}

// follow sends what changed since the subscriber's revision.
func (sub *subscription) follow(ctx context.Context) error {
	u, ok := sub.server.changes(sub, muchBytes)
	if ok && u.size > muchBytes {
		u = update{} // not held while others are served
		t, err := sub.turn(ctx)
		if err != nil {
			return err
		}
		defer t.end()
		u, ok = sub.server.changes(sub, math.MaxInt)
		t.extend(u.size)
	}
	if !ok {
		return nil // the next look sees why
	}
	return sub.sendUpdate(ctx, u)
}

// changes returns what changed since the subscriber's revision, or the first of
// it that has more than enough bytes; false when that is not known any more.
func (s *Server) changes(sub *subscription, enough int) (update, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := update{revision: s.revision(sub.given), given: sub.given, enough: enough}
	return u, s.table.since(sub.n, sub.given, &u)
}

// bring makes some kinds complete at the subscriber: what it has of them is
// compared first.
func (sub *subscription) bring(ctx context.Context, missing kindSet) error {
	s := sub.server
	c := s.compare(sub, missing)
	if c.equal == missing {
		u, ok, err := s.difference(sub, c, nil)
		if err != nil || !ok {
			return err
		}
		s.metrics.resumed.WithLabelValues("equal").Inc()
		sub.given |= missing
		return sub.sendUpdate(ctx, u)
	}
	t, err := sub.turn(ctx)
	if err != nil {
		return err
	}
	defer t.end()
	c = s.compare(sub, missing)
	theirs, err := sub.ask(ctx, missing&^c.equal&^c.none)
	if err != nil {
		return err
	}
	u, ok, err := s.difference(sub, c, theirs)
	if err != nil || !ok {
		return err
	}
	if len(theirs) == 0 {
		s.metrics.snapshots.Inc()
	} else {
		s.metrics.resumed.WithLabelValues("buckets").Inc()
	}
	t.extend(u.size)
	sub.given |= missing
	return sub.sendUpdate(ctx, u)
}

// turn waits for the subscriber's.
func (sub *subscription) turn(ctx context.Context) (*turn, error) {
	waiting := sub.server.metrics.waiting
	waiting.Inc()
	defer waiting.Dec()
	return sub.server.turns.take(ctx, sub.late)
}

// comparison is what the roots of a subscriber say about some kinds.
type comparison struct {
	kinds kindSet
	equal kindSet // nothing differed at revision n
	none  kindSet // the subscriber has nothing
	n     uint64
}

func (s *Server) compare(sub *subscription, kinds kindSet) comparison {
	var nothing shelf[*cell]
	s.mu.Lock()
	defer s.mu.Unlock()
	c := comparison{kinds: kinds, n: s.table.n}
	for _, k := range kinds.list() {
		switch root, told := sub.roots[k]; {
		case !told:
		case root == s.table.shelves[k].rootDigest():
			c.equal |= setOf(k)
		case root == nothing.rootDigest():
			c.none |= setOf(k)
		}
	}
	return c
}

// ask returns the digests that the agent has of some kinds.
func (sub *subscription) ask(ctx context.Context, kinds kindSet) (map[Kind]*feedpb.Buckets, error) {
	theirs := map[Kind]*feedpb.Buckets{}
	if kinds == 0 {
		return theirs, nil
	}
	ask := &feedpb.Ask{}
	for _, k := range kinds.list() {
		ask.Kinds = append(ask.Kinds, feedpb.Kind(k))
	}
	if err := sub.stream.Send(&feedpb.Message{Message: &feedpb.Message_Ask{Ask: ask}}); err != nil {
		return nil, err
	}
	timeout := time.NewTimer(askTimeout)
	defer timeout.Stop()
	for _, k := range kinds.list() {
		select {
		case b := <-sub.buckets:
			if b.GetKind() != feedpb.Kind(k) {
				return nil, status.Error(codes.InvalidArgument, fmt.Sprintf("asked for the digests of each %s, got those of kind %d", k, b.GetKind()))
			}
			theirs[k] = b
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timeout.C:
			return nil, status.Error(codes.DeadlineExceeded, fmt.Sprintf("no digests within %s", askTimeout))
		}
	}
	return theirs, nil
}

// difference returns what leads a subscriber to the newest state of the kinds
// that were compared, theirs being its buckets of those that are neither equal
// nor none; and what changed meanwhile of the kinds that it was given before.
// false says that too much was forgotten meanwhile: compare again.
func (s *Server) difference(sub *subscription, c comparison, theirs map[Kind]*feedpb.Buckets) (update, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := update{revision: s.revision(sub.given | c.kinds), given: sub.given | c.kinds, enough: math.MaxInt}
	for _, k := range (c.kinds &^ c.equal).list() {
		replaced := &feedpb.Replaced{Kind: feedpb.Kind(k), All: c.none.has(k)}
		u.replaced = append(u.replaced, replaced)
		if replaced.All {
			s.table.all(k, &u)
			continue
		}
		shelf := &s.table.shelves[k]
		numbers, ok := shelf.differing(theirs[k].GetNumbers(), theirs[k].GetDigests())
		if !ok {
			return update{}, false, status.Error(codes.InvalidArgument, fmt.Sprintf("the digests of each %s are malformed", k))
		}
		replaced.Numbers = numbers
		for _, n := range numbers {
			for _, c := range shelf.bucket(int(n)) {
				u.add(c.encoded)
			}
		}
	}
	ok := s.table.since(c.n, c.equal, &u) && s.table.since(sub.n, sub.given, &u)
	return u, ok, nil
}

// sendUpdate sends u in as many messages as it takes.
func (sub *subscription) sendUpdate(ctx context.Context, u update) error {
	rest := u.resources
	for first, last := true, false; !last; first = false {
		var resources [][]byte
		var size int
		resources, rest, size = split(rest)
		last = len(rest) == 0
		batch := &feedpb.Batch{Revision: revisionToProto(u.revision), Last: last, Resources: resources}
		if first {
			batch.Replaced = u.replaced
			for _, k := range u.given.list() {
				batch.Kinds = append(batch.Kinds, feedpb.Kind(k))
			}
		}
		if err := sub.stream.Send(&feedpb.Message{Message: &feedpb.Message_Batch{Batch: batch}}); err != nil {
			return err
		}
		sub.server.metrics.sentBytes.Add(float64(size))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	sub.n, sub.begun = u.revision.N, true
	return nil
}
