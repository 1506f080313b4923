package kvstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestHeartbeat(t *testing.T) {
	t.Parallel()
	s, c := startStore(t)
	r := newRecorder()
	follow(t, c, FollowConfig{Ranges: []Range{Key("beat")}, Handler: r})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	n := 0
	value := func() []byte { n++; return fmt.Append(nil, n) }
	go func() { ended <- c.Heartbeat(ctx, nil, "beat", value, 10*time.Millisecond, 2*time.Second) }()
	r.wait(t, "a third beat", func(got received) bool { return got.changes >= 3 }) // which one is seen last nobody knows

	s.Wipe() // it goes on in another store
	c = s.Start()
	got := r.waitComplete(t, 2)
	r.wait(t, "another beat", func(later received) bool { return later.changes > got.changes })
	for seen := false; !seen; { // a machine that stands still for the lease's time has none for a moment
		resp, err := c.kv.Range(testContext(t), &pb.RangeRequest{Key: []byte("beat")})
		if err != nil {
			t.Fatal(err)
		}
		if seen = len(resp.Kvs) == 1; seen && resp.Kvs[0].Lease == 0 {
			t.Errorf("heartbeat without a lease: %v", resp)
		}
	}

	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Heartbeat: %v", err)
	}
	r.waitGone(t, "beat") // when its lease ends
}

func TestHeartbeatNeedsTime(t *testing.T) {
	c, err := Dial(ClientConfig{Endpoints: []string{"unix:///nowhere.sock"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Heartbeat(testContext(t), nil, "beat", nil, time.Minute, time.Minute); err == nil {
		t.Error("a heartbeat that may miss is accepted")
	}
}
