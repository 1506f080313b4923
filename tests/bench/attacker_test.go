package main

import (
	"context"
	"net"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/causeway-mesh/causeway/tests/bench/mesh"
	"github.com/causeway-mesh/causeway/tests/hostile/rogue"
)

// Each step of each attack changes what a reader sees.
func TestAttacks(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := &attacker{Remote: mesh.Remote{Spec: honest(), Index: 3}}
	if a.Peer, err = rogue.NewPeer(a.Remote.Name(), t.TempDir(), 1, listener); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	if err := a.publish(); err != nil {
		t.Fatal(err)
	}
	all := &pb.RangeRequest{Key: []byte("cilium/"), RangeEnd: []byte("cilium0")}
	look := func() *pb.RangeResponse {
		r, err := a.Range(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, attack := range attacks() {
		for n := range 3 {
			before := look().Header
			if err := attack.step(a, n); err != nil {
				t.Fatalf("%s: %v", attack.name, err)
			}
			if after := look().Header; after.Revision == before.Revision && after.ClusterId == before.ClusterId {
				t.Errorf("%s: step %d changes nothing", attack.name, n)
			}
		}
	}
}

// A flood is read to its end page by page, in order, and decodes.
func TestFlood(t *testing.T) {
	t.Parallel()
	const n = 70_000 // more than differ in the last group
	tamper := rogue.Flood("p/", "fd11:3:0:1:1000", n, func(ip string) []byte { return []byte(ip) })
	key, count := "p/", 0
	for {
		r, err := tamper.Range(context.Background(), &pb.RangeRequest{Key: []byte(key), RangeEnd: []byte("p0"), Limit: 9999}, &pb.RangeResponse{})
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range r.Kvs {
			next := string(kv.Key) + "\x00"
			if next <= key {
				t.Fatalf("%q comes after %q", kv.Key, key)
			}
			key = next
			if ip, _ := strings.CutPrefix(string(kv.Key), "p/"); net.ParseIP(ip).String() != string(kv.Value) {
				t.Fatalf("%q has %q", kv.Key, kv.Value)
			}
		}
		count += len(r.Kvs)
		if !r.More {
			break
		}
	}
	if count != n {
		t.Errorf("%d keys, want %d", count, n)
	}
}
