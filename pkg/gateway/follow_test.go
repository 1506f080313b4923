package gateway

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// mirror is a reader's copy of what it follows.
type mirror struct {
	mu       sync.Mutex
	keys     map[string]string
	complete int
}

func (m *mirror) Changes(_ context.Context, changes []kvstore.Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		if c.Deleted {
			delete(m.keys, c.Key)
		} else {
			m.keys[c.Key] = string(c.Value)
		}
	}
	return nil
}

func (m *mirror) Complete(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.complete++
	return nil
}

func (m *mirror) Trouble(error) {}

func (m *mirror) now() (map[string]string, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.keys), m.complete
}

// follow follows the cluster's nodes through the gateway until the test ends.
func (b *bed) follow() *mirror {
	b.t.Helper()
	client, err := kvstore.Dial(kvstore.ClientConfig{
		Endpoints: []string{"https://" + b.gateway.Addr().String()},
		TLS:       b.clientTLS(pki.RolePeer, "west", time.Hour),
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	m := &mirror{keys: map[string]string{}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- client.Follow(ctx, kvstore.FollowConfig{
			Ranges: []kvstore.Range{kvstore.Prefix(nodes)}, Handler: m, Probe: 200 * time.Millisecond,
			Logger: slog.New(slog.DiscardHandler),
		})
	}()
	b.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
		_ = client.Close()
	})
	return m
}

func (b *bed) wait(m *mirror, want map[string]string) {
	b.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, complete := m.now()
		diff := cmp.Diff(want, got)
		if diff == "" && complete > 0 {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("complete %d times, difference %s", complete, diff)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestFollow(t *testing.T) {
	b := newBed(t)
	b.put(nodes+"node-1", "a")
	b.put("cilium/state/nodes/v1/east2/node-1", "another cluster")
	m := b.follow()
	b.wait(m, map[string]string{nodes + "node-1": "a"})

	b.put(nodes+"node-1", "b")
	b.put(nodes+"node-2", "a")
	b.wait(m, map[string]string{nodes + "node-1": "b", nodes + "node-2": "a"})
	if err := b.etcd.Delete(b.ctx(), nodes+"node-1"); err != nil {
		t.Fatal(err)
	}
	b.wait(m, map[string]string{nodes + "node-2": "a"})
}

// What changed and was compacted away while etcd was away is seen after it.
func TestFollowOverARestartOfEtcd(t *testing.T) {
	b := newBed(t)
	b.put(nodes+"node-1", "a")
	b.put(nodes+"node-2", "a")
	m := b.follow()
	b.wait(m, map[string]string{nodes + "node-1": "a", nodes + "node-2": "a"})
	b.stopEtcd()
	b.startEtcd()
	b.eventually("etcd is reached again", func() bool { return b.etcd.Put(b.ctx(), nodes+"node-3", []byte("a")) == nil })
	if err := b.etcd.Delete(b.ctx(), nodes+"node-1"); err != nil {
		t.Fatal(err)
	}
	b.wait(m, map[string]string{nodes + "node-2": "a", nodes + "node-3": "a"})
}

func TestFollowOverCompaction(t *testing.T) {
	b := newBed(t)
	b.put(nodes+"node-1", "a")
	m := b.follow()
	b.wait(m, map[string]string{nodes + "node-1": "a"})
	b.stop() // the reader is cut off
	if err := b.etcd.Delete(b.ctx(), nodes+"node-1"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		b.put(nodes+"node-2", "b")
	}
	kv := pb.NewKVClient(b.etcd.Etcd().ActiveConnection())
	answer, err := kv.Range(b.ctx(), &pb.RangeRequest{Key: []byte(nodes + "node-2")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Compact(b.ctx(), &pb.CompactionRequest{Revision: answer.Header.Revision, Physical: true}); err != nil {
		t.Fatal(err)
	}
	b.restartGateway()
	b.wait(m, map[string]string{nodes + "node-2": "b"})
}

// Another store behind the same port shows by its cluster id, which the
// gateway passes on.
func TestFollowOverAWipedStore(t *testing.T) {
	b := newBed(t)
	for _, name := range []string{"node-1", "node-2", "node-3"} {
		b.put(nodes+name, "a")
	}
	m := b.follow()
	b.wait(m, map[string]string{nodes + "node-1": "a", nodes + "node-2": "a", nodes + "node-3": "a"})
	b.stopEtcd()
	if err := os.RemoveAll(filepath.Clean(b.dir)); err != nil {
		t.Fatal(err)
	}
	b.startEtcd()
	b.eventually("etcd is reached again", func() bool { return b.etcd.Put(b.ctx(), nodes+"node-2", []byte("b")) == nil })
	b.wait(m, map[string]string{nodes + "node-2": "b"})
}

// The stock client: what the reference reads with.
func TestStockClient(t *testing.T) {
	b := newBed(t)
	b.put("cilium/.heartbeat", "a")
	client, err := kvstore.Dial(kvstore.ClientConfig{
		Endpoints: []string{"https://" + b.gateway.Addr().String()},
		TLS:       b.clientTLS(pki.RolePeer, "west", time.Hour),
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	stock := client.Etcd()
	answer, err := stock.Get(b.ctx(), "cilium/.heartbeat")
	if err != nil || string(answer.Kvs[0].Value) != "a" {
		t.Fatalf("answer %v, error %v", answer, err)
	}
	ctx, cancel := context.WithCancel(b.ctx())
	defer cancel()
	events := stock.Watch(ctx, "cilium/.heartbeat")
	// The gateway goes and comes: the stock client resumes by itself.
	for _, value := range []string{"b", "c"} {
		b.restartGateway()
		b.put("cilium/.heartbeat", value)
		for {
			event, ok := <-events
			if !ok || event.Err() != nil {
				t.Fatalf("watch ended: %v", event.Err())
			}
			if last := len(event.Events) - 1; last >= 0 && string(event.Events[last].Kv.Value) == value {
				break
			}
		}
	}
	if _, err := stock.Put(b.ctx(), "cilium/.heartbeat", "mine"); err == nil {
		t.Error("a peer wrote")
	}
	if _, err := stock.Grant(b.ctx(), 60); err == nil {
		t.Error("a peer was granted a lease")
	}
}
