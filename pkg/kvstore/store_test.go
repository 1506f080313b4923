package kvstore

import (
	"errors"
	"hash/maphash"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// readStore is what a reader knows of the store after reading key.
func readStore(t *testing.T, c *Client, key string) store {
	t.Helper()
	s := store{anchor: anchor{key: key}}
	resp, err := c.rangeOnce(testContext(t), &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.join(resp.Header); err != nil {
		t.Fatal(err)
	}
	seed := maphash.MakeSeed()
	for _, kv := range resp.Kvs {
		s.anchor.advance(seed, kv, maphash.Bytes(seed, kv.Value))
	}
	return s
}

func TestCheckKnowsTheStore(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	put(t, c, "k", "v")
	known, empty := readStore(t, c, "k"), readStore(t, c, "nothing")
	expect := func(when string, s store, want verdict, wantErr error) {
		t.Helper()
		if got, err := c.check(testContext(t), s); got != want || !errors.Is(err, wantErr) {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	expect("untouched", known, storeSame, nil)
	expect("nothing was read", empty, storeUnknown, nil)
	put(t, c, "k", "w")
	expect("overwritten", known, storeSame, nil)
	if err := c.Delete(testContext(t), "k"); err != nil {
		t.Fatal(err)
	}
	expect("deleted", known, storeSame, nil)

	other := known
	other.cluster++
	expect("another cluster id", other, storeUnknown, ErrOtherStore)
	other = known
	other.revision += 1000
	expect("a lower revision", other, storeUnknown, ErrOtherStore)
	other = known
	other.anchor.hash++
	expect("another value at the revision", other, storeUnknown, ErrOtherStore)
	other = known
	other.anchor.key = "elsewhere"
	expect("nothing at the revision", other, storeUnknown, ErrOtherStore)

	compact(t, c)
	expect("overwritten and compacted", known, storeUnknown, nil)
}

func TestJoin(t *testing.T) {
	var s store
	for _, tc := range []struct {
		cluster  uint64
		revision int64
		want     error
	}{
		{7, 10, nil},
		{7, 10, nil},
		{7, 11, nil},
		{8, 11, ErrOtherStore},
		{7, 9, ErrOtherStore},
	} {
		err := s.join(&pb.ResponseHeader{ClusterId: tc.cluster, Revision: tc.revision})
		if !errors.Is(err, tc.want) {
			t.Errorf("cluster %d revision %d: %v", tc.cluster, tc.revision, err)
		}
	}
	if s.cluster != 7 || s.revision != 10 {
		t.Errorf("store is %d, read at %d", s.cluster, s.revision)
	}
}
