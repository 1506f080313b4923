package publish

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/wire"
)

// written is what a sequence let out.
type written []string

func (w *written) sequence() *sequence {
	return newSequence(wire.Layout{Cluster: "east"},
		func(key string, value []byte) { *w = append(*w, "+"+short(key)+string(value)) },
		func(key string) { *w = append(*w, "-"+short(key)) })
}

func (w *written) take() []string {
	out := *w
	*w = nil
	return out
}

// short is a kind and the last part of a key.
func short(key string) string {
	parts := strings.Split(key, "/")
	return parts[2] + "/" + parts[len(parts)-1]
}

func keys(values map[string]string) map[string][]byte {
	l := wire.Layout{Cluster: "east"}
	out := map[string][]byte{}
	for name, value := range values {
		kind, rest, _ := strings.Cut(name, "/")
		key := l.Prefix(wire.Kind(kind)) + rest
		out[key] = nil
		if value != "" {
			out[key] = []byte(value)
		}
	}
	return out
}

// What both loops say of one state goes out together, what is referred to first;
// what goes, in the reverse.
func TestSequenceOrder(t *testing.T) {
	var out written
	q := out.sequence()
	q.add(sideObjects, 1, keys(map[string]string{"services/web": "=1", "endpointslices/web-1": "=1", "nodes/n": "=1", "services/old": "", "nodes/o": ""}), true)
	if got := out.take(); len(got) > 0 {
		t.Errorf("before the addresses: %q", got)
	}
	q.add(sideWorkloads, 1, keys(map[string]string{"ip/10.0.0.1": "=1", "identities/7": "=1", "ip/10.0.0.2": "", "identities/8": ""}), true)
	want := []string{
		"+identities/7=1", "+nodes/n=1", "+ip/10.0.0.1=1", "+services/web=1", "+endpointslices/web-1=1",
		"-services/old", "-ip/10.0.0.2", "-nodes/o", "-identities/8",
	}
	if diff := cmp.Diff(want, out.take()); diff != "" {
		t.Error(diff)
	}
	if err := q.await(t.Context(), 1); err != nil {
		t.Error(err)
	}
}

// A loop that is behind, or has to try again, holds the other one up to the state
// that it reached, and what comes meanwhile is kept once a key.
func TestSequenceWaits(t *testing.T) {
	var out written
	q := out.sequence()
	for state := range uint64(100) {
		q.add(sideObjects, state+1, keys(map[string]string{"services/web": fmt.Sprint("=", state+1)}), true)
		q.add(sideWorkloads, state+1, nil, false)
	}
	if got := out.take(); len(got) > 0 {
		t.Errorf("while identities are not to be had: %q", got)
	}
	if n := len(q.sides[sideObjects].next.keys); n != 1 {
		t.Errorf("%d keys are kept", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := q.await(ctx, 1); err == nil {
		t.Error("state 1 is said to be out")
	}
	q.add(sideWorkloads, 50, nil, true)
	if diff := cmp.Diff([]string{"+services/web=1"}, out.take()); diff != "" {
		t.Error(diff)
	}
	if err := q.await(t.Context(), 1); err != nil {
		t.Error(err)
	}
	q.add(sideWorkloads, 100, nil, true)
	if diff := cmp.Diff([]string{"+services/web=100"}, out.take()); diff != "" {
		t.Error(diff)
	}
	if err := q.await(t.Context(), 100); err != nil {
		t.Error(err)
	}
}

// A loop that is always one state behind stops nothing.
func TestSequenceDoesNotStarve(t *testing.T) {
	var out written
	q := out.sequence()
	for state := range uint64(20) {
		q.add(sideObjects, state+2, keys(map[string]string{"services/web": fmt.Sprint("=", state+2)}), true)
		q.add(sideWorkloads, state+1, nil, true)
	}
	got := out.take()
	if len(got) < 9 || !slices.IsSortedFunc(got, func(a, b string) int { return len(a) - len(b) }) {
		t.Errorf("let out: %q", got)
	}
}

// One loop skips a state that the other told apart: what was said of it goes out
// only with what it refers to, or not at all.
func TestSequenceMeetsAtOneState(t *testing.T) {
	var out written
	q := out.sequence()
	q.add(sideObjects, 1, keys(map[string]string{"endpointslices/web-1": "=1"}), true)
	q.add(sideWorkloads, 2, keys(map[string]string{"ip/10.0.0.2": "=2"}), true)
	if got := out.take(); len(got) > 0 {
		t.Errorf("the slice of a state whose addresses were never told: %q", got)
	}
	q.add(sideObjects, 3, keys(map[string]string{"endpointslices/web-1": "=3"}), true)
	if got := out.take(); len(got) > 0 {
		t.Errorf("with addresses of another state: %q", got)
	}
	q.add(sideWorkloads, 3, keys(map[string]string{"ip/10.0.0.2": "", "ip/10.0.0.3": "=3"}), true)
	want := []string{"+ip/10.0.0.3=3", "+endpointslices/web-1=3", "-ip/10.0.0.2"}
	if diff := cmp.Diff(want, out.take()); diff != "" {
		t.Error(diff)
	}
}

// While changes come faster than the loops meet, nothing waits for ever.
func TestSequencePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out written
		q := out.sequence()
		state := uint64(1)
		for begin := time.Now(); len(out) == 0; state++ {
			if time.Since(begin) > 2*patience {
				t.Fatal("nothing went out")
			}
			side := int(state % sides) // always one state apart
			kind := []string{"services/web", "ip/10.0.0.1"}[side]
			q.add(side, state, keys(map[string]string{kind: fmt.Sprint("=", state)}), true)
			time.Sleep(10 * time.Millisecond)
		}
	})
}

// While etcd takes deletions alone, they wait for nothing, and nothing that they
// make out of date comes after them.
func TestSequenceSheds(t *testing.T) {
	var out written
	q := out.sequence()
	q.add(sideObjects, 1, keys(map[string]string{"services/a": "=1", "services/b": "", "endpointslices/a-1": "=1"}), true)
	q.add(sideWorkloads, 1, keys(map[string]string{"ip/10.0.0.1": ""}), false)
	q.add(sideObjects, 2, keys(map[string]string{"services/a": "", "services/b": "=2", "services/c": "=2"}), true)
	if got := out.take(); len(got) > 0 {
		t.Errorf("before it is known that etcd has no room: %q", got)
	}
	q.tighten(true)
	got := out.take()
	slices.Sort(got)
	if diff := cmp.Diff([]string{"-ip/10.0.0.1", "-services/a", "-services/b"}, got); diff != "" {
		t.Error(diff)
	}
	q.add(sideObjects, 3, keys(map[string]string{"endpointslices/a-1": ""}), true)
	if diff := cmp.Diff([]string{"-endpointslices/a-1"}, out.take()); diff != "" {
		t.Error(diff)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := q.await(ctx, 3); err == nil {
		t.Error("all is said to be out")
	}
	q.tighten(false)
	q.add(sideWorkloads, 3, keys(map[string]string{"ip/10.0.0.2": "=3"}), true)
	if diff := cmp.Diff([]string{"+ip/10.0.0.2=3", "+services/b=2", "+services/c=2"}, sortedPuts(out.take())); diff != "" {
		t.Error(diff)
	}
	if err := q.await(t.Context(), 3); err != nil {
		t.Error(err)
	}
}

// sortedPuts sorts what one emission puts of one kind, which goes in any order.
func sortedPuts(lines []string) []string {
	slices.SortStableFunc(lines, func(a, b string) int {
		if strings.HasPrefix(a, "+services") && strings.HasPrefix(b, "+services") {
			return strings.Compare(a, b)
		}
		return 0
	})
	return lines
}
