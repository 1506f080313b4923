package peer

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// applications counts what is put in use.
type applications struct {
	mu      sync.Mutex
	largest int    // changes at once, of any cluster
	flips   int    // of the node n1 of flood
	last    string // boot id of that node
}

func (a *applications) tap(cluster string, u merge.Update) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.largest = max(a.largest, u.Len())
	if n := u.Nodes["n1"]; n != nil && cluster == "flood" {
		a.flips++
		a.last = n.BootID
	}
}

// flip writes one node from many sides as fast as a store takes it until ctx
// ends, then once more with the boot id last.
func (r *remote) flip(ctx context.Context, last string) (writes int) {
	write := func(boot string) {
		value, err := wire.EncodeNode(&node.Node{
			Cluster: r.name, ClusterID: r.config.ID, Name: "n1", Source: "k8s", BootID: boot,
			Addresses: []node.Address{{Type: node.InternalIP, IP: r.host()}},
		})
		if err == nil {
			err = r.etcd.Put(r.t.Context(), r.layout().NodeKey("n1"), value)
		}
		if err != nil {
			r.t.Error(err)
		}
	}
	var sides sync.WaitGroup
	var done atomic.Int64
	for side := range 32 {
		sides.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				write(fmt.Sprint(side, "-", i))
				done.Add(1)
			}
		})
	}
	sides.Wait()
	write(last)
	return int(done.Load())
}

// flood lets thousands of addresses come and go until ctx ends.
func (r *remote) flood(ctx context.Context) {
	w := kvstore.NewWriter(kvstore.WriterConfig{
		Client: r.etcd, Name: "flood", Prefixes: []string{r.layout().Prefix(wire.Addresses)}, Logger: quiet(),
	})
	stop := run(r.t, w.Run)
	defer stop()
	for i := 0; ctx.Err() == nil; i++ {
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 50, byte(i >> 8 % 16), byte(i)}), 32)
		if key := r.layout().AddressKey(prefix); i>>12%2 == 0 {
			value, err := wire.EncodeAddress(&endpoint.Address{
				Cluster: r.name, Prefix: prefix, HostIP: r.host(), Identity: 5, Namespace: "shop", Pod: fmt.Sprint(i),
			})
			if err != nil {
				r.t.Error(err)
			}
			w.Set(key, value)
		} else {
			w.Delete(key)
		}
		if i%500 == 0 && w.Synced(ctx) != nil {
			return
		}
	}
}

// A peer that floods costs what its keys are at most a few times a second, in
// small pieces, and a peer beside it is followed meanwhile.
func TestFlood(t *testing.T) {
	l, flood, quiet := newLocal(t), newRemote(t, "flood", 2), newRemote(t, "quiet", 3)
	l.stop()
	count := &applications{}
	l.tap = count.tap
	l.start()
	l.connect(flood)
	l.connect(quiet)
	l.awaitNodes("flood", "n1", "n2")
	l.awaitNodes("quiet", "n1", "n2")

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const last = "last"
	var writes int
	var floods sync.WaitGroup
	begun := time.Now()
	floods.Go(func() { writes = flood.flip(ctx, last) })
	floods.Go(func() { flood.flood(ctx) })
	want := []string{"n1", "n2"}
	for i := range 20 {
		begun := time.Now()
		name := fmt.Sprintf("n%d", 30+i)
		quiet.node(name)
		want = append(want, name)
		l.awaitNodes("quiet", want...)
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("the quiet peer's change took %s", took)
		}
	}
	cancel()
	floods.Wait()
	eventually(t, func() error {
		count.mu.Lock()
		defer count.mu.Unlock()
		if count.last != last {
			return fmt.Errorf("in use is %s, want %s", count.last, last)
		}
		return nil
	})
	seconds := int(time.Since(begun)/time.Second) + 1 // with those in which it caught up
	count.mu.Lock()
	defer count.mu.Unlock()
	t.Logf("%d writes of one key in %d s were put in use %d times", writes, seconds, count.flips)
	if most := (maxFlips + 1) * (seconds + 2); count.flips > most {
		t.Errorf("a node that changed %d times in %d s was put in use %d times", writes, seconds, count.flips)
	}
	if count.largest > maxPieceKeys {
		t.Errorf("%d changes were put in use at once", count.largest)
	}
}
