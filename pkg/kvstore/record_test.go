package kvstore

import (
	"testing"
	"time"
)

func TestRecordNeeds(t *testing.T) {
	seen := version{revision: 5, exists: true, hash: 1}
	newer := version{revision: 6, exists: true, hash: 2}
	gone := version{revision: 6}
	for name, tc := range map[string]struct {
		r              record
		needs, pruning bool
		idle           bool
	}{
		"never seen, wanted":             {r: record{wanted: true}, needs: true, pruning: true},
		"as it should be":                {r: record{wanted: true, hash: 1, seen: seen}},
		"other value":                    {r: record{wanted: true, hash: 2, seen: seen}, needs: true, pruning: true},
		"written since":                  {r: record{wanted: true, hash: 2, seen: seen, wrote: newer}},
		"overwritten since":              {r: record{wanted: true, hash: 1, seen: newer, wrote: seen}, needs: true, pruning: true},
		"outcome unknown":                {r: record{wanted: true, hash: 1, seen: seen, unsure: true}, needs: true, pruning: true},
		"nobody asked":                   {r: record{seen: seen}, pruning: true},
		"deleted":                        {r: record{seen: seen, drop: true}, needs: true, pruning: true},
		"deletion not seen yet":          {r: record{seen: seen, drop: true, wrote: gone}},
		"deletion seen":                  {r: record{seen: gone, drop: true, wrote: gone}, idle: true},
		"deleted, was it ever written?":  {r: record{drop: true, unsure: true}, needs: true, pruning: true},
		"deleted, our write not seen":    {r: record{drop: true, wrote: newer}, needs: true, pruning: true},
		"refused":                        {r: record{wanted: true, refused: &refusal{}}},
		"refused, to be tried again now": {r: record{wanted: true, refused: &refusal{again: true}}, needs: true, pruning: true},
	} {
		if got := tc.r.needs(false); got != tc.needs {
			t.Errorf("%s: needs %v", name, got)
		}
		if got := tc.r.needs(true); got != tc.pruning {
			t.Errorf("%s: needs %v when pruning", name, got)
		}
		if got := tc.r.idle(); got != tc.idle {
			t.Errorf("%s: idle %v", name, got)
		}
	}
}

func TestRefusalsBecomeRare(t *testing.T) {
	var r record
	now := time.Now()
	want := firstRefusalDelay
	for range 10 {
		r.refuse(now)
		if got := r.refused.due.Sub(now); got != want {
			t.Errorf("due in %s, not %s", got, want)
		}
		want = min(2*want, lastRefusalDelay)
	}
}

func TestOrderAndBatches(t *testing.T) {
	put := func(rank int, key string, size int) op {
		return op{put: true, rank: rank, key: key, value: make([]byte, size)}
	}
	ordered := []op{
		put(0, "b", 1), put(0, "c", 1), put(1, "a", 1),
		{rank: 1, key: "d"},
		{rank: 0, key: "e"},
		{rank: 0, key: "f"},
	}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := a.before(b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%q before %q: %d", a.key, b.key, got)
			}
		}
	}
	many := make([]op, 300)
	large := []op{put(0, "a", maxBatchBytes-1), put(0, "b", 1), put(0, "c", 2*maxBatchBytes), put(0, "d", 1)}
	for _, tc := range []struct {
		ops  []op
		want int
	}{{nil, 0}, {many, maxBatchOps}, {many[:5], 5}, {large, 1}, {large[1:], 1}, {large[2:], 1}, {large[3:], 1}} {
		if got := batch(tc.ops); got != tc.want {
			t.Errorf("batch of %d has %d", len(tc.ops), got)
		}
	}
}
