package peer

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

// applied is what came out of an intake whose keys begin with the digit of their
// place.
type applied struct {
	mu     sync.Mutex
	pieces [][]string
	hold   chan struct{} // a piece waits until it is closed
}

func (a *applied) apply(changes []kvstore.Change) {
	if a.hold != nil {
		<-a.hold
	}
	var piece []string
	for _, c := range changes {
		text := c.Key + "=" + string(c.Value[:min(len(c.Value), 100)])
		if c.Deleted {
			text = "-" + c.Key
		}
		piece = append(piece, text)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pieces = append(a.pieces, piece)
}

func (a *applied) take() (out []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pieces {
		out = append(out, p...)
	}
	a.pieces = nil
	return out
}

func (a *applied) intake() *intake {
	return newIntake(func(key string) int { return int(key[0] - '0') }, a.apply)
}

func put1(key, value string) kvstore.Change {
	return kvstore.Change{Key: key, Value: []byte(value)}
}

// In one round what is referred to comes first and goes last, whatever the order
// in which it was read, and a key comes once.
func TestIntakeOrder(t *testing.T) {
	a := &applied{}
	q := a.intake()
	err := q.add(t.Context(), []kvstore.Change{
		put1("4/service", "x"),
		{Key: "0/old", Deleted: true},
		put1("2/address", "x"), put1("0/identity", "1"),
		{Key: "4/old", Deleted: true},
		{Key: "2/old", Deleted: true},
		put1("0/identity", "2"), put1("3/slice", "x"),
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error { q.run(ctx); return nil })
	if err := q.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"0/identity=2", "2/address=x", "3/slice=x", "4/service=x", "-4/old", "-2/old", "-0/old"}
	if diff := cmp.Diff(want, a.take()); diff != "" {
		t.Error(diff)
	}
}

// What waits is bounded in keys and in bytes; whoever adds more waits, and
// nothing is lost. What is put in use at once is bounded too.
func TestIntakeIsBounded(t *testing.T) {
	large := strings.Repeat("x", 100<<10)
	for name, value := range map[string]string{"keys": "", "bytes": large} {
		t.Run(name, func(t *testing.T) {
			const keys = 3 * maxWaitingKeys
			a := &applied{hold: make(chan struct{})}
			q := a.intake()
			run(t, func(ctx context.Context) error { q.run(ctx); return nil })
			added := make(chan error, 1)
			go func() {
				for i := range keys / 100 {
					var page []kvstore.Change
					for j := range 100 {
						page = append(page, put1(fmt.Sprintf("0/%d", 100*i+j), value))
					}
					if err := q.add(t.Context(), page); err != nil {
						added <- err
						return
					}
				}
				added <- nil
			}()
			eventually(t, func() error {
				q.mu.Lock()
				defer q.mu.Unlock()
				if q.room() {
					return fmt.Errorf("%d keys of %d bytes wait", len(q.waiting), q.bytes)
				}
				return nil
			})
			q.mu.Lock()
			if len(q.waiting) > maxWaitingKeys || q.bytes > maxWaitingBytes+len(value) {
				t.Errorf("%d keys of %d bytes wait", len(q.waiting), q.bytes)
			}
			q.mu.Unlock()
			select {
			case <-added:
				t.Error("everything was added while nothing was put in use")
			default:
			}
			close(a.hold)
			if err := <-added; err != nil {
				t.Fatal(err)
			}
			if err := q.flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, p := range a.pieces {
				if len(p) > maxPieceKeys || len(p)*len(value) > maxPieceBytes {
					t.Fatalf("a piece of %d keys of %d bytes each", len(p), len(value))
				}
			}
			if n := len(a.take()); n != keys/100*100 {
				t.Errorf("%d keys of %d came out", n, keys)
			}
			if q.bytes != 0 {
				t.Errorf("%d bytes are said to wait", q.bytes)
			}
		})
	}
}

// A key that flips a thousand times a second is put in use a few times; another
// key beside it at once; and the last value is the one in use in the end.
func TestIntakeDampsFlips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		a := &applied{}
		q := a.intake()
		done := make(chan struct{})
		go func() {
			defer close(done)
			q.run(ctx)
		}()
		const seconds = 5
		for i := range seconds * 1000 {
			if err := q.add(ctx, []kvstore.Change{put1("0/flip", fmt.Sprint(i))}); err != nil {
				t.Fatal(err)
			}
			if i%100 == 50 {
				key := fmt.Sprint("0/other-", i)
				if err := q.add(ctx, []kvstore.Change{put1(key, "")}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				a.mu.Lock()
				if !slices.Contains(slices.Concat(a.pieces...), key+"=") {
					t.Errorf("%s waits because another key flips", key)
				}
				a.mu.Unlock()
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(flipWindow)
		synctest.Wait()
		flips := slices.DeleteFunc(a.take(), func(s string) bool { return !strings.HasPrefix(s, "0/flip") })
		if n := len(flips); n < 2*seconds || n > (maxFlips+1)*(seconds+1) {
			t.Errorf("%d flips were put in use in %d s", n, seconds)
		}
		if got, want := flips[len(flips)-1], fmt.Sprintf("0/flip=%d", seconds*1000-1); got != want {
			t.Errorf("in use is %s, want %s", got, want)
		}
		// A flush waits for no window.
		for i := range 2 * maxFlips {
			if err := q.add(ctx, []kvstore.Change{put1("0/flip", fmt.Sprint("again-", i))}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		begun := time.Now()
		if err := q.flush(ctx); err != nil {
			t.Fatal(err)
		}
		got := a.take()
		if time.Since(begun) > 0 || got[len(got)-1] != fmt.Sprintf("0/flip=again-%d", 2*maxFlips-1) {
			t.Errorf("flush took %s and left %q in use", time.Since(begun), got[len(got)-1])
		}
		cancel()
		<-done
	})
}

func TestIntakeEnds(t *testing.T) {
	a := &applied{hold: make(chan struct{})}
	q := a.intake()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var page []kvstore.Change
	for i := range maxWaitingKeys + 1 {
		page = append(page, put1(fmt.Sprint("0/", i), ""))
	}
	if err := q.add(ctx, page); err == nil {
		t.Error("add found room that is not there")
	}
	if err := q.flush(ctx); err == nil {
		t.Error("flush says that all is in use")
	}
	close(a.hold)
	q.run(ctx)
}
