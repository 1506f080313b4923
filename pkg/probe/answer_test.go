package probe

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// west is the answerer of the node that east's e1 asks.
func west() *answerer {
	a := newAnswerer(newMetrics(nil))
	a.know(&Neighbours{Peers: []Peer{{Cluster: "east", Nodes: []Node{{Name: "e1", Mesh: []netip.Addr{ourMesh}}}}}})
	return a
}

func TestAnswer(t *testing.T) {
	a := west()
	ask := message{kind: kindAsk, number: 3, token: 7}.encode(1000)
	want := message{kind: kindAnswer, number: 3, token: 7, seen: ourMesh}
	equal := cmp.Options{cmp.AllowUnexported(message{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}
	if got, ok := decode(a.take(ourMesh, ask)); !ok || !cmp.Equal(want, got, equal) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := a.take(ourPod, message{kind: kindMark, token: 7}.encode(0)); got != nil {
		t.Errorf("a mark is answered: %x", got)
	}
	want.marked = ourPod
	if got, ok := decode(a.take(ourMesh, ask)); !ok || !cmp.Equal(want, got, equal) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	a.take(netip.MustParseAddr("192.0.2.1"), message{kind: kindMark, token: 7}.encode(0))
	if got, _ := decode(a.take(ourMesh, ask)); got.marked != ourPod {
		t.Errorf("a later mark replaced the first: %+v", got)
	}
}

func TestNotAnswered(t *testing.T) {
	a := west()
	ask := message{kind: kindAsk, token: 7}.encode(0)
	if got := a.take(theirMesh, ask); got != nil {
		t.Errorf("a stranger is answered: %x", got)
	}
	for name, data := range map[string][]byte{
		"nothing":      nil,
		"too short":    ask[:messageSize-1],
		"other magic":  append([]byte("DNS!"), ask[4:]...),
		"other kind":   append(append([]byte{}, ask[:5]...), append([]byte{9}, ask[6:]...)...),
		"an answer":    message{kind: kindAnswer, token: 7}.encode(0),
		"next version": append(append([]byte{}, ask[:4]...), append([]byte{2}, ask[5:]...)...),
	} {
		if got := a.take(ourMesh, data); got != nil {
			t.Errorf("%s is answered: %x", name, got)
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	a := west()
	ask, answers := message{kind: kindAsk, token: 7}.encode(0), 0
	for range 10 * sourceBurst {
		if a.take(ourMesh, ask) != nil {
			answers++
		}
	}
	if answers < sourceBurst || answers > 2*sourceBurst {
		t.Errorf("%d answers at once, want about %d", answers, sourceBurst)
	}
	for token := range uint64(2 * maxMarks) {
		a.remember(mark{token, ourPod})
	}
	if a.history.Len() != maxMarks || len(a.marks) != maxMarks || a.marks[0] != nil || a.marks[2*maxMarks-1] == nil {
		t.Errorf("%d marks in a list, %d in a map", a.history.Len(), len(a.marks))
	}
	a.know(&Neighbours{})
	if len(a.known) != 0 {
		t.Errorf("%d are known of nobody", len(a.known))
	}
}

// FuzzTake: whatever comes, an answer is no larger and is one.
func FuzzTake(f *testing.F) {
	f.Add(message{kind: kindAsk, token: 7}.encode(60))
	f.Add(message{kind: kindMark, token: 7, seen: ourMesh, marked: ourPod}.encode(0))
	f.Add([]byte("CWPB"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := west()
		answer := a.take(ourMesh, data)
		if answer == nil {
			return
		}
		m, ok := decode(answer)
		if len(answer) > len(data) || !ok || m.kind != kindAnswer || m.seen != ourMesh || !bytes.Equal(m.encode(0), answer) {
			t.Errorf("%x is answered with %x", data, answer)
		}
	})
}
