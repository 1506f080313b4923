//go:build !race

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A thousand services are replaced each second, all backends of each at once,
// under ten thousand connects a second. Each must reach a backend that its
// service had while it was made. The race detector would slow down the clients,
// who share nothing.
func TestChurn(t *testing.T) {
	const (
		services, perSet, seconds = 1000, 3, 4
		replacements, connects    = 1000, 10_000 // a second
		together                  = 10           // are replaced at once
	)
	d := open(t, func(c *Config) { c.MapCapacity = 1 << 16 })
	for port := range 2 * perSet {
		listen(t, fmt.Sprintf("0.0.0.0:%d", 8000+port))
	}
	// The third and fourth byte of a backend's address are its service, the port
	// says to which of two sets it belongs.
	service := func(i, set int) Service {
		s := Service{Frontend: Frontend{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80), Protocol: TCP}, Groups: make([]Group, 1)}
		for n := range perSet {
			ip := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
			s.Groups[0].Backends = append(s.Groups[0].Backends, netip.AddrPortFrom(ip, uint16(8000+set*perSet+n)))
		}
		return s
	}
	for i := range services {
		update(t, d, service(i, 0))
	}
	// Twice the number of replacements, and one more while one is under way.
	var stages [services]atomic.Int64
	var made, retried atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() {
		if err := d.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	begin := time.Now()
	const workers = 4
	for w := range workers {
		running.Go(func() {
			pace(ctx, connects/workers, func(n int) {
				i := (n*workers + w) * 7919 % services
				before := stages[i].Load()
				peer, err := connect(service(i, 0).Addr)
				after := stages[i].Load()
				if err != nil {
					t.Errorf("service %d: %v", i, err)
					return
				}
				ip := peer.Addr().As4()
				if got := int(ip[2])<<8 | int(ip[3]); got != i {
					t.Errorf("service %d: connected to one of %d", i, got)
				}
				set := int64(peer.Port()-8000) / perSet
				if before == after && before%2 == 0 && set != before/2%2 {
					t.Errorf("service %d: connected to %v of a set that had left", i, peer)
				}
				if before != after || before%2 != 0 {
					retried.Add(1)
				}
				made.Add(1)
			})
		})
	}
	replaced := 0
	pace(ctx, replacements/together, func(n int) {
		var next []Service
		var which []int
		for k := range together {
			i := (n*together + k) * 31 % services
			which = append(which, i)
			next = append(next, service(i, int((stages[i].Add(1)+1)/2%2)))
		}
		for _, err := range d.UpdateAll(next) {
			if err != nil {
				t.Error(err)
			}
		}
		for _, i := range which {
			stages[i].Add(1)
		}
		replaced += together
	})
	running.Wait()
	took := time.Since(begin).Seconds()
	t.Logf("%.0f services replaced and %.0f connects made a second, %d of them while their service was replaced",
		float64(replaced)/took, float64(made.Load())/took, retried.Load())
	if replaced < 100 || made.Load() < 1000 {
		t.Error("too few to say anything")
	}
}

// pace calls fn rate times a second, as far as the machine can, until ctx is done.
func pace(ctx context.Context, rate int, fn func(n int)) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	begin, n := time.Now(), 0
	for {
		for due := int(time.Since(begin).Seconds() * float64(rate)); n < due && ctx.Err() == nil; n++ {
			fn(n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
