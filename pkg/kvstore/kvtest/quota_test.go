package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

// An etcd whose keys themselves are too many takes no puts, whoever runs it. What
// is deleted goes all the same, also by a writer that begins in that state and
// has no fence, and it is what makes room.
func TestFull(t *testing.T) {
	for name, open := range map[string]func(*testing.T) backend{"embedded": newEmbedded, "external": newExternal} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, open(t))
			r.change(50)
			r.converges()
			value := bytes.Repeat([]byte("x"), 256<<10)
			large := 0
			for ; large < 400 && r.direct.Put(within(t), fmt.Sprint("large/", large), value) == nil; large++ {
			}
			if large == 400 {
				t.Fatal("the quota is not reached")
			}

			next := kvstore.NewWriter(kvstore.WriterConfig{Client: r.client, Prefixes: []string{"large/"}, Name: "large"})
			running(t, next.Run)
			next.Set("large/new", value)
			next.Complete()
			eventually(t, "what nobody wants", func() error {
				n := 0
				err := r.direct.List(within(t), kvstore.Prefix("large/"), func(kvstore.Item) error { n++; return nil })
				if err == nil && n > 1 {
					err = fmt.Errorf("%d keys are still there", n)
				}
				return err
			})
			r.noSpace(next)

			// A writer that was at work: some of its keys go, others are to change. What
			// refers to others goes first: a round may begin in between.
			r.change(100)
			for _, key := range slices.Backward(slices.Sorted(maps.Keys(r.want))) {
				if key != "mark" && key[2] < '5' {
					delete(r.want, key)
					r.writer.Delete(key)
				}
			}
			eventually(t, "what is deleted", func() error {
				got, err := r.list()
				for key := range got {
					if _, ok := r.want[key]; !ok {
						err = fmt.Errorf("%s is still there", key)
					}
				}
				return err
			})
			r.noSpace(r.writer)

			eventually(t, "room", func() error { return r.store.room(within(t)) })
			r.converges()
			if err := next.Synced(within(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// noSpace checks that a writer says why its puts wait, as long as they do.
func (r *rig) noSpace(w *kvstore.Writer) {
	r.t.Helper()
	if _, embedded := r.store.(*embedded); embedded {
		return // it may have helped itself by now
	}
	eventually(r.t, "the writer", func() error {
		if err := w.Err(); !errors.Is(err, kvstore.ErrNoSpace) {
			return fmt.Errorf("says %w", err)
		}
		return nil
	})
}
