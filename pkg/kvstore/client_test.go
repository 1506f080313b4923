package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRange(t *testing.T) {
	for _, tc := range []struct {
		r       Range
		in, out []string
	}{
		{Key("a"), []string{"a"}, []string{"", "a/", "b"}},
		{Prefix("a/"), []string{"a/", "a/b"}, []string{"a", "ab/c", "a0", "b/"}},
		{Prefix("a\xff\xff"), []string{"a\xff\xff", "a\xff\xffz"}, []string{"a\xff", "b"}},
		{Prefix("\xff"), []string{"\xff", "\xff\xff"}, []string{"", "a"}},
		{Prefix(""), []string{"\x00", "a", "\xff"}, []string{""}},
		{Prefix("a/").from("a/b"), []string{"a/b\x00", "a/c"}, []string{"a/b", "a0"}},
	} {
		for _, key := range tc.in {
			if !tc.r.contains(key) {
				t.Errorf("%q has no %q", tc.r, key)
			}
		}
		for _, key := range tc.out {
			if tc.r.contains(key) {
				t.Errorf("%q has %q", tc.r, key)
			}
		}
	}
}

func TestGetPutDelete(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	ctx := testContext(t)
	if _, found, err := c.Get(ctx, "k"); found || err != nil {
		t.Errorf("Get of nothing: %v, %v", found, err)
	}
	put(t, c, "k", "")
	if value, found, err := c.Get(ctx, "k"); !found || len(value) != 0 || err != nil {
		t.Errorf("Get of an empty value: %q, %v, %v", value, found, err)
	}
	for range 2 {
		if err := c.Delete(ctx, "k"); err != nil {
			t.Error(err)
		}
	}
	if _, found, err := c.Get(ctx, "k"); found || err != nil {
		t.Errorf("Get after Delete: %v, %v", found, err)
	}
}

func TestListIsOfOneRevision(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	for i := range 2*pageKeys + 1 {
		put(t, c, fmt.Sprintf("a/%04d", i), "old")
	}
	put(t, c, "b/", "not listed")
	var keys []string
	err := c.List(testContext(t), Prefix("a/"), func(i Item) error {
		if len(keys) == 0 { // while the first page is read
			put(t, c, "a/0300", "new")
			put(t, c, "a/zzzz", "new")
			if err := c.Delete(testContext(t), "a/0400"); err != nil {
				t.Fatal(err)
			}
		}
		if string(i.Value) != "old" || i.Revision == 0 {
			t.Errorf("%q is %q of revision %d", i.Key, i.Value, i.Revision)
		}
		keys = append(keys, i.Key)
		return nil
	})
	if err != nil || len(keys) != 2*pageKeys+1 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	stop := errors.New("stop")
	calls := 0
	err = c.List(testContext(t), Prefix("a/"), func(Item) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("List goes on after an error: %d calls, %v", calls, err)
	}
}

func TestListOfLargeValues(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	want := map[string]string{}
	for i := range maxMessageBytes>>20 + 2 {
		key := fmt.Sprintf("a/%d", i)
		want[key] = string(bytes.Repeat([]byte{byte(i)}, 1<<20))
		put(t, c, key, want[key])
	}
	if !cmp.Equal(want, contents(t, c, "a/")) {
		t.Error("list differs from what was put")
	}
	// Following lists and watches them too.
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
	if got := r.waitComplete(t, 1); !cmp.Equal(want, got.state) {
		t.Error("what is followed differs from what was put")
	}
}

func TestCallsFailAtOnceWithTheReason(t *testing.T) {
	if _, err := Dial(ClientConfig{}); err == nil {
		t.Error("Dial takes no endpoints")
	}
	c, err := Dial(ClientConfig{Endpoints: []string{"unix://" + t.TempDir() + "/nothing.sock"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := testContext(t)
	begun := time.Now()
	_, _, err = c.Get(ctx, "the/key")
	if err == nil || !strings.Contains(err.Error(), "the/key") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("Get: %v", err)
	}
	if err := c.Put(ctx, "k", nil); err == nil {
		t.Error("Put says nothing")
	}
	if err := c.Delete(ctx, "k"); err == nil {
		t.Error("Delete says nothing")
	}
	if _, err := c.Claim(ctx, Alone(), []Claim{{Key: "k"}}); err == nil {
		t.Error("Claim says nothing")
	}
	if _, err := c.CompareAndDelete(ctx, "k", nil); err == nil {
		t.Error("CompareAndDelete says nothing")
	}
	if took := time.Since(begun); took > requestTimeout {
		t.Errorf("it took %s", took)
	}
}

func TestCompactedAndFutureRevisions(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	put(t, c, "k", "1")
	put(t, c, "k", "2")
	compact(t, c)
	if _, err := c.list(testContext(t), Key("k"), 2, nil); !errors.Is(err, ErrCompacted) {
		t.Errorf("list of a compacted revision: %v", err)
	}
	if _, err := c.list(testContext(t), Key("k"), 1000, nil); !errors.Is(err, ErrOtherStore) {
		t.Errorf("list of a revision to come: %v", err)
	}
}
