package kvstore

import (
	"fmt"
	"testing"
)

// BenchmarkWriter writes 50,000 keys of the size of an address to an empty
// store and follows them, as a peer would.
func BenchmarkWriter(b *testing.B) {
	const keys = 50_000
	value := make([]byte, 200)
	for range b.N {
		_, c := startStore(b)
		r := newRecorder()
		follow(b, c, FollowConfig{Ranges: []Range{Prefix("a/")}, Handler: r})
		w, _ := runWriter(b, c, "a/")
		for i := range keys {
			w.Set(fmt.Sprintf("a/%d", i), value)
		}
		synced(b, w)
		r.wait(b, "all keys", func(got received) bool { return got.changes == keys })
	}
	b.ReportMetric(float64(keys*b.N)/b.Elapsed().Seconds(), "keys/s")
}
