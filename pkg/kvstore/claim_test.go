package kvstore

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestClaim(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	ctx := testContext(t)
	put(t, c, "id/7", "taken before")
	var claims []Claim
	for i := range 300 { // more than a batch
		claims = append(claims, Claim{Key: fmt.Sprintf("id/%d", i), Value: fmt.Append(nil, i)})
	}
	taken, err := c.Claim(ctx, Alone(), claims)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string][]byte{"id/7": []byte("taken before")}, taken); diff != "" {
		t.Error(diff)
	}
	got := contents(t, c, "id/")
	if len(got) != 300 || got["id/7"] != "taken before" || got["id/299"] != "299" {
		t.Errorf("%d keys: %v", len(got), got)
	}

	// The same again, as after an answer that was lost: all is taken, by us.
	taken, err = c.Claim(ctx, Alone(), claims)
	if err != nil || len(taken) != 300 || string(taken["id/8"]) != "8" {
		t.Errorf("claimed again: %d taken, %v", len(taken), err)
	}
	if taken, err := c.Claim(ctx, Alone(), nil); err != nil || len(taken) != 0 {
		t.Errorf("nothing claimed: %v, %v", taken, err)
	}
}

func TestClaimGoesToOne(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	ctx := testContext(t)
	won := make([]int, 4)
	var group sync.WaitGroup
	for who := range won {
		group.Go(func() {
			for i := range 20 {
				var claims []Claim
				for j := range 10 {
					claims = append(claims, Claim{Key: fmt.Sprintf("id/%d", 10*i+j), Value: fmt.Append(nil, who)})
				}
				taken, err := c.Claim(ctx, Alone(), claims)
				if err != nil {
					t.Error(err)
					return
				}
				won[who] += len(claims) - len(taken)
			}
		})
	}
	group.Wait()
	if sum := won[0] + won[1] + won[2] + won[3]; sum != 200 {
		t.Errorf("200 keys were given %d times", sum)
	}
	have := make([]int, 4)
	for _, v := range contents(t, c, "id/") {
		have[v[0]-'0']++
	}
	if diff := cmp.Diff(won, have); diff != "" {
		t.Error(diff)
	}
}

func TestCompareAndDelete(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	ctx := testContext(t)
	put(t, c, "k", "v")
	for _, tc := range []struct {
		value string
		want  bool
	}{{"w", false}, {"v", true}, {"v", false}} {
		deleted, err := c.CompareAndDelete(ctx, "k", []byte(tc.value))
		if err != nil || deleted != tc.want {
			t.Errorf("compare with %q: %v, %v", tc.value, deleted, err)
		}
	}
}
