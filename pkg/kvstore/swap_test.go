package kvstore

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestCompareAndPut(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	ctx := testContext(t)
	for _, step := range []struct {
		old, value string
		created    bool // it was not there
		want       bool
	}{
		{old: "a", value: "b", want: false}, // it is not there
		{created: true, value: "a", want: true},
		{created: true, value: "b", want: false},
		{old: "x", value: "b", want: false},
		{old: "a", value: "", want: true},
		{created: true, value: "c", want: false}, // empty is there
		{old: "", value: "d", want: true},
	} {
		done, err := c.CompareAndPut(ctx, "k", []byte(step.old), !step.created, []byte(step.value))
		if err != nil || done != step.want {
			t.Errorf("%+v: %t, %v", step, done, err)
		}
	}
	if got := contents(t, c, "k"); got["k"] != "d" {
		t.Errorf("left: %v", got)
	}
}

// All keys are written, or none.
func TestSwapAll(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	ctx := testContext(t)
	put(t, c, "a", "1")
	for _, step := range []struct {
		swaps []Swap
		want  bool
	}{
		{[]Swap{{Key: "a", Old: []byte("1"), Found: true, Value: []byte("2")}, {Key: "b", Old: []byte("x"), Found: true, Value: []byte("y")}}, false},
		{[]Swap{{Key: "a", Old: []byte("1"), Found: true, Value: []byte("2")}, {Key: "b", Value: []byte("y")}}, true},
		{[]Swap{{Key: "a", Old: []byte("2"), Found: true, Value: []byte("3")}, {Key: "b", Value: []byte("z")}}, false},
	} {
		if done, err := c.SwapAll(ctx, step.swaps...); err != nil || done != step.want {
			t.Errorf("%+v: %t, %v", step, done, err)
		}
	}
	if got := contents(t, c, ""); got["a"] != "2" || got["b"] != "y" {
		t.Errorf("left: %v", got)
	}
}

// Of many who change one value at a time each change is kept.
func TestCompareAndPutLosesNothing(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	ctx := testContext(t)
	put(t, c, "k", "")
	var wins atomic.Int64
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 10 {
				old, found, err := c.Get(ctx, "k")
				if err != nil {
					t.Error(err)
					return
				}
				done, err := c.CompareAndPut(ctx, "k", old, found, append(old, 'x'))
				if err != nil {
					t.Error(err)
					return
				}
				if done {
					wins.Add(1)
				}
			}
		})
	}
	group.Wait()
	if got := len(contents(t, c, "k")["k"]); int64(got) != wins.Load() || got == 0 {
		t.Errorf("%d changes were made and %d are left", wins.Load(), got)
	}
}

func TestCreateBeside(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	ctx := testContext(t)
	step := func(wantCreated, wantThere bool, wantOld string) {
		t.Helper()
		created, there, old, err := c.CreateBeside(ctx, "beside", "k", []byte("a"))
		if err != nil || created != wantCreated || there != wantThere || string(old) != wantOld {
			t.Errorf("created %t, there %t, %q, %v", created, there, old, err)
		}
	}
	step(false, false, "")
	put(t, c, "beside", "")
	step(true, true, "")
	put(t, c, "k", "b")
	step(false, true, "b")
	if err := c.Delete(ctx, "beside"); err != nil {
		t.Fatal(err)
	}
	step(false, false, "b")
}
