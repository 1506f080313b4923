package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// bed is a prober whose questions go by a wire, in time that is not real.
type bed struct {
	t      *testing.T
	wire   *wire
	prober *Prober
}

// inBubble runs the prober of one node with one neighbour.
func inBubble(t *testing.T, test func(b *bed)) {
	synctest.Test(t, func(t *testing.T) {
		w := &wire{delay: 2 * time.Millisecond, device: 1450, answerers: map[netip.Addr]*answerer{theirMesh: west()}, becomes: map[netip.Addr]netip.Addr{}}
		b := &bed{t, w, newProber(mute{w})}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.prober.Run(ctx) }()
		b.prober.Know(pair())
		test(b)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// mute is a wire at which nobody of ours is asked.
type mute struct{ *wire }

func (mute) Listen(ctx context.Context, _ netip.Addr) (net.PacketConn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// await waits until the one summary is as wanted, and returns it and how long
// that took; at most within.
func (b *bed) await(within time.Duration, state State, reason string) (Summary, time.Duration) {
	b.t.Helper()
	return b.awaitOf(0, within, state, reason)
}

// awaitOf is await of the summary with that index.
func (b *bed) awaitOf(i int, within time.Duration, state State, reason string) (Summary, time.Duration) {
	b.t.Helper()
	start := time.Now()
	for {
		s := b.prober.Report().Summaries[i]
		counts := map[State]int{Reachable: s.Reachable, Degraded: s.Degraded, Unreachable: s.Unreachable}
		if counts[state] == 1 && (reason == "" && len(s.Troubles) == 0 || len(s.Troubles) > 0 && s.Troubles[0].Reason == reason) {
			return s, time.Since(start)
		}
		if time.Since(start) > within {
			b.t.Fatalf("after %s: %+v, want %s %q", within, s, state, reason)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestProberSeesAndForgets(t *testing.T) {
	inBubble(t, func(b *bed) {
		s, took := b.await(5*time.Second, Reachable, "")
		if s.Paths != 1 || s.Nodes != 1 || s.MTU != 1450 || s.Source != SourceKept || s.RTTMin != b.wire.delay || s.RTTMax != b.wire.delay || s.Loss != 0 {
			t.Errorf("after %s: %+v", took, s)
		}
		b.wire.set(func() { b.wire.cut = true })
		b.await(25*time.Second, Unreachable, reasonSilent)
		b.wire.set(func() { b.wire.cut = false })
		b.await(10*time.Second, Reachable, "")

		b.wire.set(func() { b.wire.carries = 1349 })
		if s, _ := b.await(25*time.Second, Degraded, reasonMTU); s.MTU != 1349 || s.Troubles[0].Detail != "1349 bytes of 1450" {
			t.Errorf("%+v", s)
		}
		b.wire.set(func() { b.wire.carries = 1300 })
		time.Sleep(30 * time.Second)
		if s, _ := b.await(time.Second, Degraded, reasonMTU); s.MTU != 1300 {
			t.Errorf("%+v", s)
		}
		b.wire.set(func() { b.wire.carries = 0 })
		b.await(15*time.Second, Reachable, "")

		b.wire.set(func() { b.wire.refuse = true })
		b.await(25*time.Second, Unreachable, reasonRefused)
		b.wire.set(func() { b.wire.refuse = false })
		b.await(15*time.Second, Reachable, "")

		b.prober.Know(nil)
		synctest.Wait()
		if r := b.prober.Report(); len(r.Summaries) != 0 || len(b.prober.tracks) != 0 || r.MTU != 0 {
			t.Errorf("of a node that takes no part: %+v", r)
		}
	})
}

func TestProberSeesSources(t *testing.T) {
	inBubble(t, func(b *bed) {
		b.await(5*time.Second, Reachable, "")
		b.wire.set(func() { b.wire.becomes[ourPod] = ourMesh })
		if s, _ := b.await(20*time.Second, Degraded, reasonSource); s.Source != SourceChanged {
			t.Errorf("%+v", s)
		}
		b.wire.set(func() { clear(b.wire.becomes) })
		b.await(20*time.Second, Reachable, "")
	})
}

// What our own programs drop says more than silence does.
func TestProberHearsOfDrops(t *testing.T) {
	inBubble(t, func(b *bed) {
		b.await(5*time.Second, Reachable, "")
		b.wire.set(func() { b.wire.cut = true })
		node := netip.MustParseAddrPort("192.0.2.1:40000")
		stop := make(chan struct{})
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for tick := time.NewTicker(100 * time.Millisecond); ; {
				select {
				case <-tick.C:
					b.prober.Dropped(node, netip.AddrPortFrom(theirMesh, Port), "source")
					b.prober.Dropped(node, netip.AddrPortFrom(theirMesh, 80), "node") // nothing of ours
				case <-stop:
					tick.Stop()
					return
				}
			}
		}()
		if s, _ := b.await(25*time.Second, Unreachable, reasonSource); s.Source != SourceChanged {
			t.Errorf("%+v", s)
		}
		close(stop)
		<-stopped
		b.await(10*time.Second, Unreachable, reasonSilent)
	})
}

// A path that answers costs a few packets in ten seconds.
func TestProberAsksSeldom(t *testing.T) {
	inBubble(t, func(b *bed) {
		b.await(5*time.Second, Reachable, "")
		before := b.wire.count()
		time.Sleep(10 * interval)
		if asked := b.wire.count() - before; asked < 18 || asked > 24 {
			t.Errorf("%d questions in %s, want about 20", asked, 10*interval)
		}
	})
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked
}

func TestProberWithoutTheNetwork(t *testing.T) {
	inBubble(t, func(b *bed) {
		b.wire.set(func() { b.wire.failed = errors.New("no such device") })
		s, _ := b.await(15*time.Second, Unreachable, reasonSend)
		if s.Troubles[0].Detail != "no such device" || s.Troubles[0].Node != "w1 (10.200.2.1)" {
			t.Errorf("%+v", s)
		}
	})
}
