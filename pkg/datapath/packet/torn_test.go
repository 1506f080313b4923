package packet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/tests/frame"
)

// TestTornReads judges packets while addresses come, go and move as fast as they
// can be written, so that elements of the maps pass from one to another under
// the programs' eyes. Whatever they see of it, a packet from an address with its
// identity passes, and one with another's does not.
func TestTornReads(t *testing.T) {
	p := prepared(t)
	const others = 64
	other := func(i int) Address {
		a := Address{Addr: netip.AddrFrom4([4]byte{10, 2, 1, byte(i)}), Cluster: 2, Identity: westPod + 1, Host: addr("192.0.2.2")}
		if i%2 == 1 {
			a.Addr = addr(fmt.Sprintf("fd00:2::1:%x", i))
		}
		return a
	}
	kinds := []struct {
		d        Direction
		number   identity.Number
		from, to string
		want     Reason
	}{
		{FromMesh, westPod, "10.2.0.7", "10.1.0.5", Passed},
		{FromMesh, westPod, "fd00:2::7", "fd00:1::5", Passed},
		{FromMesh, westPod + 1, "10.2.0.7", "10.1.0.5", Identity},
		{FromMesh, westPod + 1, "fd00:2::7", "fd00:1::5", Identity},
		{ToMesh, 0, "10.1.0.5", "10.2.0.7", Passed},
		{ToMesh, 0, "fd00:1::5", "fd00:2::7", Passed},
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const leastWrites = 100
	var rounds atomic.Int64 // of all kinds
	runs := map[Direction]map[Reason]uint64{ToMesh: {}, FromMesh: {}}
	var reader sync.WaitGroup
	reader.Go(func() {
		for ctx.Err() == nil {
			for _, k := range kinds {
				outer := frame.Outer{}
				if k.d == FromMesh {
					outer = frame.Outer{Source: addr("192.0.2.2"), Number: uint32(k.number)}
				}
				h := p.hooks[1-k.d]
				arrival, err := frame.NewArrival(h.program, h.attach, outer, nil)
				if err == nil {
					_, err = arrival.Bench(packetOf(k.from, k.to), 5000)
					_ = arrival.Close() // it has run
				}
				if err != nil {
					t.Errorf("run: %v", err)
					return
				}
				runs[k.d][k.want] += 5000
			}
			rounds.Add(1)
		}
	})
	hosts, writes := addrs("192.0.2.2", "2001:db8::2"), 0
	for begin := time.Now(); ctx.Err() == nil; writes++ {
		if time.Since(begin) > 2*time.Second && writes >= leastWrites && rounds.Load() > 0 {
			cancel()
		}
		c := Change{GoneAddresses: []netip.Addr{other(rand.IntN(others)).Addr}}
		for _, a := range []string{"10.2.0.7", "fd00:2::7"} { // the same pods, on one address of their node or the other
			c.Addresses = append(c.Addresses, Address{Addr: addr(a), Cluster: 2, Identity: westPod, Host: hosts[writes%2]})
		}
		c.Addresses = append(c.Addresses, other(rand.IntN(others)))
		if writes%3 == 0 {
			c.Nodes = []Node{{Key: key("west", "n1"), Cluster: 2, Underlay: hosts, Mesh: addrs(fmt.Sprintf("10.201.0.%d", 1+writes%5))}}
		}
		if err := p.Apply(c); err != nil {
			t.Error(err)
			break
		}
	}
	reader.Wait()
	got := counts(t, p)
	t.Logf("%d changes; %v", writes, got)
	for d, by := range got {
		for r, n := range by {
			// A batch that a signal interrupts is run again from its beginning.
			if want := runs[d][r]; n < want || want == 0 && n > 0 {
				t.Errorf("%v: %d packets were %v, want %d or more", d, n, r, want)
			}
		}
	}
	if rounds.Load() == 0 || writes < leastWrites {
		t.Error("hardly anything ran")
	}
}
