package kvstore

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fill writes large values to keys a/<n>, n from next, until etcd takes no more.
func fill(t *testing.T, c *Client, next func() int) {
	t.Helper()
	value := make([]byte, 128<<10)
	for {
		for j := range value {
			value[j] = byte(rand.Uint32())
		}
		err := c.Put(testContext(t), fmt.Sprintf("a/%d", next()), value)
		if status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "space exceeded") {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestServerDropsHistoryWhenOutOfQuota(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.quota = 8 << 20
	c := s.Start()
	fill(t, c, func() int { return 0 })
	// What waits while nothing can be written goes through by itself.
	w, _ := runWriter(t, c, "b/")
	w.Set("b/1", []byte("v"))
	synced(t, w)
	if got := contents(t, c, "b/"); got["b/1"] != "v" {
		t.Errorf("got %v", got)
	}
}

func TestServerSaysThatItsQuotaIsTooSmall(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.quota = 8 << 20
	c := s.Start()
	keys := 0
	for s.log.find("give it a larger quota") == "" { // until dropping history makes no room any more
		fill(t, c, func() int { keys++; return keys })
	}
	if line := s.log.find("give it a larger quota"); !strings.Contains(line, "level=ERROR") {
		t.Errorf("log: %s", line)
	}

	// Once the keys are fewer and history is dropped, it goes on. The server
	// drops history by itself too, so there may be none left.
	for i := range keys / 2 {
		if err := c.Delete(testContext(t), fmt.Sprintf("a/%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.kv.Compact(testContext(t), &pb.CompactionRequest{Revision: revision(t, c), Physical: true})
	if err != nil && status.Code(err) != codes.OutOfRange {
		t.Fatal(err)
	}
	w, _ := runWriter(t, c, "b/")
	w.Set("b/1", []byte("v"))
	synced(t, w)
}
