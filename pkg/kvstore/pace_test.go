package kvstore

import (
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestPace sets keys one by one, right after a round: they wait for the next
// one, and are written together.
func TestPace(t *testing.T) {
	t.Parallel()
	_, c := startStore(t)
	w := NewWriter(WriterConfig{Client: c, Prefixes: []string{"a/"}, Name: "paced", Pace: 5 * time.Second})
	startWriter(t, w)
	w.Set("a/first", []byte("1"))
	synced(t, w)
	for i := range 20 {
		w.Set(fmt.Sprintf("a/%d", i), []byte("1"))
		w.poke()
	}
	synced(t, w)
	found, err := c.Etcd().Get(t.Context(), "a/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	revisions := map[int64]int{}
	for _, kv := range found.Kvs {
		revisions[kv.ModRevision]++
	}
	if len(revisions) != 2 || len(found.Kvs) != 21 {
		t.Errorf("%d keys in transactions of %v keys, want 21 in two", len(found.Kvs), revisions)
	}
}
