package join

import (
	"net/netip"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	l, now := newLimiter(), time.Unix(1_900_000_000, 0)
	here, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	wait := func(from netip.Addr, at time.Duration) time.Duration {
		t.Helper()
		d, ok := l.fail(from, now.Add(at))
		if !ok {
			t.Fatal("too many wait")
		}
		return d
	}
	for i := range failuresPerWindow {
		if d := wait(here, time.Duration(i)*time.Second); d != 0 {
			t.Errorf("failure %d waits %s", i, d)
		}
	}
	// The eleventh waits for a minute to have passed since the first, and so on.
	for i := range failuresPerWindow {
		if d, want := wait(here, 10*time.Second), time.Duration(i)*time.Second+failureWindow-10*time.Second; d != want {
			t.Errorf("failure %d waits %s, want %s", failuresPerWindow+i, d, want)
		}
	}
	if d := wait(here, 10*time.Second); d != 2*failureWindow-10*time.Second {
		t.Errorf("failure 20 waits %s", d)
	}
	if d := wait(other, 10*time.Second); d != 0 {
		t.Errorf("another address waits %s", d)
	}
	if d := wait(netip.MustParseAddr("::ffff:192.0.2.1"), 10*time.Second); d == 0 {
		t.Error("the same address written otherwise does not wait")
	}
	if d := wait(here, time.Hour); d != 0 {
		t.Errorf("after an hour it waits %s", d)
	}
}

func TestLimiterIsBounded(t *testing.T) {
	l, now := newLimiter(), time.Unix(1_900_000_000, 0)
	one := netip.MustParseAddr("2001:db8::1")
	for range failuresPerWindow + maxWaiting {
		if _, ok := l.fail(one, now); !ok {
			t.Fatal("refused too early")
		}
	}
	if _, ok := l.fail(netip.MustParseAddr("2001:db8::2"), now); ok { // the same /64
		t.Error("one more waits")
	}
	for i := range 2 * maxSources {
		l.fail(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now)
	}
	if n := len(l.sources); n > maxSources+1 {
		t.Errorf("%d addresses are kept", n)
	}
	l.fail(netip.MustParseAddr("192.0.2.1"), now.Add(2*time.Hour))
	if n := len(l.sources); n > 2 {
		t.Errorf("%d addresses are kept hours later", n)
	}
}

// Those that say nothing keep out nobody who has an offer.
func TestPlaces(t *testing.T) {
	var p places
	evicted := make([]bool, maxStrangers+2)
	enter := func(i int) *place { return p.enter(func() { evicted[i] = true }) }
	first, second := enter(0), enter(1)
	if !p.heard(first) {
		t.Error("the first has no place")
	}
	for i := 2; i < maxStrangers; i++ {
		enter(i)
	}
	next := enter(maxStrangers)
	if evicted[0] || !evicted[1] || evicted[2] || p.heard(second) || !p.heard(next) || !p.heard(first) {
		t.Errorf("not the oldest without an offer went: %v", evicted)
	}
	for _, one := range p.taken {
		p.heard(one)
	}
	if last := enter(maxStrangers + 1); !evicted[maxStrangers+1] || p.heard(last) {
		t.Error("one more than all with offers has a place")
	}
	p.leave(first)
	p.leave(first)
	if last := enter(maxStrangers + 1); !p.heard(last) || len(p.taken) != maxStrangers {
		t.Error("a place that was given up is not free")
	}
}
