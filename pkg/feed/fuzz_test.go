package feed

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
)

// filled is a state with one resource of each kind, in memory alone.
func filled(tb testing.TB) *State {
	tb.Helper()
	s := openState("", "")
	in := newIncoming()
	batch := &feedpb.Batch{Revision: &feedpb.Revision{Epoch: "e", N: 1}, Last: true}
	for _, c := range newServer().encode(everything()) {
		batch.Resources = append(batch.Resources, c.encoded)
	}
	if _, err := in.add(batch); err != nil {
		tb.Fatal(err)
	}
	if _, err := s.accept(in); err != nil {
		tb.Fatal(err)
	}
	return s.State
}

func marshalled(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// A kind's number is judged as it stands on the wire, not by the part of it that
// a Kind has room for.
func TestUnknownKinds(t *testing.T) {
	s := filled(t)
	for _, number := range []feedpb.Kind{-1, 0, feedpb.Kind(lastKind) + 1, 1<<8 + feedpb.Kind(View), 0x1805, 1<<31 - 1} {
		if k, known := kindOf(number); known {
			t.Errorf("%d is taken for %s", number, k)
		}
		if _, err := s.answer(number); !errors.Is(err, errMalformed) {
			t.Errorf("digests of kind %d: %v", number, err)
		}
		in := newIncoming()
		in.replaced = []*feedpb.Replaced{{Kind: number, All: true}}
		if _, err := s.accept(in); !errors.Is(err, errMalformed) {
			t.Errorf("all of kind %d replaced: %v", number, err)
		}
	}
	for k := View; k <= lastKind; k++ {
		if got, known := kindOf(feedpb.Kind(k)); !known || got != k {
			t.Errorf("%s is %s, %v", k, got, known)
		}
	}
}

// FuzzMessage: whatever an API server sends, an agent takes or refuses, and what
// it took it can give to the data plane, and takes again without a change.
func FuzzMessage(f *testing.F) {
	var resources [][]byte
	for _, c := range newServer().encode(everything()) {
		resources = append(resources, c.encoded)
	}
	revision := &feedpb.Revision{Epoch: "e", N: 2}
	for _, b := range []*feedpb.Batch{
		{Revision: revision, Last: true, Resources: resources},
		{Revision: revision, Last: true, Replaced: []*feedpb.Replaced{{Kind: feedpb.Kind(View), All: true}, {Kind: feedpb.Kind(Address), All: true}}},
		{Revision: revision, Last: true, Resources: resources[:1], Replaced: []*feedpb.Replaced{{Kind: feedpb.Kind(Slice), Numbers: []uint32{0, 1, bucketCount - 1}}}},
		{Revision: revision, Last: true, Replaced: []*feedpb.Replaced{{Kind: feedpb.Kind(Node), Numbers: []uint32{bucketCount}}}},
	} {
		f.Add(marshalled(f, &feedpb.Message{Message: &feedpb.Message_Batch{Batch: b}}))
	}
	f.Add(marshalled(f, &feedpb.Message{Message: &feedpb.Message_Ask{Ask: &feedpb.Ask{Kinds: []feedpb.Kind{feedpb.Kind(View), 99}}}}))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		m := &feedpb.Message{}
		if proto.Unmarshal(encoded, m) != nil {
			return
		}
		s := filled(t)
		for _, kind := range m.GetAsk().GetKinds() {
			if _, err := s.answer(kind); err != nil && !errors.Is(err, errMalformed) {
				t.Error(err)
			}
		}
		if m.GetBatch() == nil {
			return
		}
		checkBatch(t, s, m.GetBatch())
	})
}

func checkBatch(t *testing.T, s *State, b *feedpb.Batch) {
	t.Helper()
	in := newIncoming()
	if _, err := in.add(b); err != nil {
		return
	}
	if _, err := s.accept(in); err != nil {
		if !errors.Is(err, errMalformed) {
			t.Error(err)
		}
		return
	}
	if _, _, err := s.whole(); err != nil {
		t.Errorf("what was taken cannot be given: %v", err)
	}
	if _, err := s.Directory(); err != nil {
		t.Errorf("what was taken does not say who is who: %v", err)
	}
	changes, err := s.accept(in)
	if err != nil || len(changes) > 0 {
		t.Errorf("the second time %d changes, error %v", len(changes), err)
	}
}

// FuzzReport: whatever an agent says, the server compares with what it has or
// refuses.
func FuzzReport(f *testing.F) {
	s := newServer()
	s.Apply(everything())
	s.Open(View, Slice, Node, Identity, Address)
	state := filled(f)
	hello := &feedpb.Hello{Node: "n1"}
	state.hello(hello)
	f.Add(marshalled(f, &feedpb.Report{Report: &feedpb.Report_Hello{Hello: hello}}))
	for _, kind := range []Kind{View, Address} {
		buckets, err := state.answer(feedpb.Kind(kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(marshalled(f, &feedpb.Report{Report: &feedpb.Report_Buckets{Buckets: buckets}}))
	}
	f.Add(marshalled(f, &feedpb.Report{Report: &feedpb.Report_Applied{Applied: &feedpb.Applied{Error: "x"}}}))
	f.Fuzz(func(t *testing.T, encoded []byte) {
		r := &feedpb.Report{}
		if proto.Unmarshal(encoded, r) != nil {
			return
		}
		sub := &subscription{server: s}
		sub.greet(r.GetHello())
		missing, _, _ := s.look(sub)
		c := s.compare(sub, missing)
		theirs := map[Kind]*feedpb.Buckets{}
		for _, k := range (missing &^ c.equal &^ c.none).list() {
			theirs[k] = r.GetBuckets()
		}
		u, ok, err := s.difference(sub, c, theirs)
		if err != nil && (ok || len(u.resources) > 0) {
			t.Errorf("refused with %v, and answered", err)
		}
		appliedFromProto(r.GetApplied())
	})
}
