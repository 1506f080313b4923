package kvstore

import (
	"context"
	"fmt"
	"sync"
	"testing"
)

// ordered notes in which order deletions are given.
type ordered struct {
	*recorder
	mu   sync.Mutex
	gone []string
}

func (o *ordered) Changes(ctx context.Context, changes []Change) error {
	o.mu.Lock()
	for _, c := range changes {
		if c.Deleted {
			o.gone = append(o.gone, c.Key)
		}
	}
	o.mu.Unlock()
	return o.recorder.Changes(ctx, changes)
}

// What a new listing lacks goes in the reverse order of the ranges, over all
// pages: what is referred to goes last.
func TestFollowForgetsTheLastRangeFirst(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	for i := range 2 * pageKeys {
		put(t, c, fmt.Sprintf("a/%04d", i), "referred to")
		put(t, c, fmt.Sprintf("b/%04d", i), "refers")
	}
	o := &ordered{recorder: newRecorder()}
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/"), Prefix("b/")}, Handler: o})
	o.waitComplete(t, 1)
	s.Away(func(c *Client) {
		for i := range 2 * pageKeys {
			for _, prefix := range []string{"a", "b"} {
				if err := c.Delete(testContext(t), fmt.Sprintf("%s/%04d", prefix, i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		compact(t, c)
	})
	o.waitComplete(t, 2)
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.gone) != 4*pageKeys {
		t.Fatalf("%d deletions", len(o.gone))
	}
	for i, key := range o.gone {
		if want := "ba"[i/(2*pageKeys)]; key[0] != want {
			t.Fatalf("deletion %d is of %s", i, key)
		}
	}
}
