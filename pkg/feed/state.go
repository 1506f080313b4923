package feed

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// StateConfig is what OpenState needs.
type StateConfig struct {
	// Dir is the folder for the file, made when it is missing; "" keeps the
	// state in memory alone.
	Dir string
	// Cluster is the one that the node belongs to. A file of another is not used.
	Cluster string
	// Boot is the kernel's id of this boot, "" when not known: what the kernel
	// has in its maps lasts as long.
	Boot       string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// State is what an agent was told: each resource as it was sent, in memory and
// in a file. The file is never behind what a Sink was given, however the
// process ends, as long as the machine goes on: a change is written, though not
// yet to the disk itself, before the Sink has it. After the end of the machine
// it is at most syncInterval behind.
//
// A file that cannot be read or written costs a warning, nothing more. The
// methods are safe for concurrent use.
type State struct {
	cfg     StateConfig
	metrics *stateMetrics
	lock    *os.File

	mu       sync.Mutex
	shelves  [lastKind + 1]shelf[record]
	revision Revision
	// fresh are the views and slices as they were decoded, while nobody was
	// given them; nil since.
	fresh *service.Delta
	// file is written to now, and next, while it is made, as well; each is nil
	// when there is none. trouble is what the last attempt to write one met.
	file, next *journal
	trouble    error
	closed     bool // the folder is, or is about to be, given up
	wake       chan struct{}
}

// record is a resource as it was sent, and its key, in one piece of memory.
type record struct{ text, encoded string }

func newRecord(k key, encoded []byte) record {
	both := k.text + string(encoded)
	return record{both[:len(k.text)], both[len(k.text):]}
}

func (r record) ident() string             { return r.text }
func (r record) size() int                 { return len(r.encoded) }
func (r record) appendTo(to []byte) []byte { return append(to, r.encoded...) }

// told is a resource as it came.
type told struct {
	resource
	encoded []byte
}

// incoming collects the messages of one change.
type incoming struct {
	revision Revision
	replaced []*feedpb.Replaced
	kinds    kindSet // that the State has all of then
	changes  map[key]told
	words    words
}

func newIncoming() *incoming { return &incoming{changes: map[key]told{}, words: words{}} }

// next returns what collects the change after this one.
func (in *incoming) next() *incoming { return &incoming{changes: map[key]told{}, words: in.words} }

// add takes one message and reports whether it was the last.
func (in *incoming) add(b *feedpb.Batch) (last bool, err error) {
	in.revision = revisionFromProto(b.GetRevision())
	in.replaced = append(in.replaced, b.GetReplaced()...)
	if len(in.changes) == 0 {
		in.changes = make(map[key]told, len(b.GetResources()))
	}
	for _, number := range b.GetKinds() {
		if k, known := kindOf(number); known {
			in.kinds |= setOf(k)
		}
	}
	for _, encoded := range b.GetResources() {
		r, err := in.words.decode(encoded)
		if err != nil {
			return false, fmt.Errorf("revision %d: %w", in.revision.N, err)
		}
		if r.value != nil && r.key.kind != View && r.key.kind != Slice {
			r.name, r.value = nil, valid{} // kept as it came, which is much smaller
		}
		in.changes[r.key] = told{r, encoded}
	}
	return b.GetLast(), nil
}

// valid stands for a value that was read and is not needed.
type valid struct{}

// accept makes a change part of the state, on file first, and returns what of it
// is different. It fails once Run has ended: a Sink must not be given what the
// file will never have.
func (s *State) accept(in *incoming) ([]told, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	changes, err := s.difference(in)
	if err != nil {
		return nil, err
	}
	s.record(in.revision, changes)
	s.take(in.revision, changes)
	return changes, nil
}

func (s *State) difference(in *incoming) ([]told, error) {
	out := make([]told, 0, len(in.changes))
	for k, t := range in.changes {
		have, ok := s.shelves[k.kind].get(k.text)
		if t.value == nil && ok || t.value != nil && (!ok || have.encoded != string(t.encoded)) {
			out = append(out, t)
		}
	}
	for _, r := range in.replaced {
		kind, known := kindOf(r.GetKind())
		if !known {
			return nil, fmt.Errorf("%w: kind %d", errMalformed, r.GetKind())
		}
		err := s.shelves[kind].each(r, func(have record) error {
			if _, ok := in.changes[key{kind, have.text}]; ok {
				return nil
			}
			t, err := deletion(have)
			out = append(out, t)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// each calls fn for what is in the buckets of r.
func (s *shelf[T]) each(r *feedpb.Replaced, fn func(T) error) error {
	var err error
	call := func(t T) {
		if err == nil {
			err = fn(t)
		}
	}
	if r.GetAll() {
		s.all(call)
		return err
	}
	for _, n := range r.GetNumbers() {
		if n >= bucketCount {
			return fmt.Errorf("%w: bucket %d", errMalformed, n)
		}
		for _, t := range s.bucket(int(n)) {
			call(t)
		}
	}
	return err
}

// deletion returns the change that takes a record away.
func deletion(have record) (told, error) {
	r, err := decode([]byte(have.encoded))
	if err != nil {
		return told{}, err
	}
	r.value = nil
	encoded, err := encodeDeletion(r.name)
	return told{r, encoded}, err
}

func (s *State) take(r Revision, changes []told) {
	for _, t := range changes {
		shelf := &s.shelves[t.key.kind]
		if t.value == nil {
			shelf.remove(t.key.text)
		} else {
			shelf.put(newRecord(t.key, t.encoded))
		}
		if s.fresh != nil {
			t.addTo(s.fresh)
		}
	}
	s.revision = r
	for _, k := range allKinds().list() {
		s.metrics.resources.WithLabelValues(k.String()).Set(float64(s.shelves[k].count))
	}
}

// count fills in what the state knows of who is who.
func (s *State) count(c *Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Nodes, c.Identities, c.Addresses = s.shelves[Node].count, s.shelves[Identity].count, s.shelves[Address].count
}

// whole returns the views and slices as a Batch; false when the state is of no
// revision.
func (s *State) whole() (Batch, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.usable() {
		return Batch{}, false, nil
	}
	b := Batch{Revision: s.revision, Snapshot: true}
	if s.fresh != nil {
		b.Delta, s.fresh = *s.fresh, nil
		maps.DeleteFunc(b.Delta.Views, func(_ service.Name, v *service.View) bool { return v == nil })
		maps.DeleteFunc(b.Delta.Slices, func(_ service.BackendSliceKey, v *service.BackendSlice) bool { return v == nil })
		return b, true, nil
	}
	b.Delta = newDelta()
	words := words{}
	var err error
	for _, kind := range []Kind{View, Slice} {
		s.shelves[kind].all(func(have record) {
			r, wrong := words.decode([]byte(have.encoded))
			if wrong != nil {
				err = wrong
				return
			}
			r.addTo(&b.Delta)
		})
	}
	return b, true, err
}

func newDelta() service.Delta {
	return service.Delta{
		Views:  map[service.Name]*service.View{},
		Slices: map[service.BackendSliceKey]*service.BackendSlice{},
	}
}

// empty makes the state empty.
func (s *State) empty() {
	fresh := newDelta()
	s.shelves, s.revision, s.fresh = [lastKind + 1]shelf[record]{}, Revision{}, &fresh
}

// hello returns what an API server has to know of the state.
func (s *State) hello(h *feedpb.Hello) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revision != (Revision{}) {
		h.Revision = revisionToProto(s.revision)
	}
	for _, k := range allKinds().list() {
		root := s.shelves[k].rootDigest()
		h.Roots = append(h.Roots, &feedpb.Root{Kind: feedpb.Kind(k), Digest: root[:]})
	}
}

// answer returns the digests of one kind.
func (s *State) answer(number feedpb.Kind) (*feedpb.Buckets, error) {
	kind, known := kindOf(number)
	if !known {
		return nil, fmt.Errorf("%w: asked for digests of kind %d", errMalformed, number)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	numbers, digests := s.shelves[kind].filled()
	return &feedpb.Buckets{Kind: number, Numbers: numbers, Digests: digests}, nil
}

// Directory returns who is who; it takes some time and memory.
func (s *State) Directory() (*merge.Directory, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &merge.Directory{
		Nodes:      make(map[node.Key]*node.Node, s.shelves[Node].count),
		Identities: make(map[identity.Number]*identity.Identity, s.shelves[Identity].count),
		Addresses:  make(map[netip.Prefix]*endpoint.Owner, s.shelves[Address].count),
	}
	var err error
	for _, kind := range []Kind{Node, Identity, Address} {
		s.shelves[kind].all(func(have record) {
			r, wrong := decode([]byte(have.encoded))
			if wrong != nil {
				err = wrong
				return
			}
			switch v := r.value.(type) {
			case *node.Node:
				out.Nodes[r.name.(node.Key)] = v
			case *identity.Identity:
				out.Identities[v.Number] = v
			case *endpoint.Owner:
				out.Addresses[r.name.(netip.Prefix)] = v
			}
		})
	}
	return out, err
}
