package stranger

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestLimiter(t *testing.T) {
	l, now := NewLimiter(), time.Unix(1_900_000_000, 0)
	here, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	wait := func(from netip.Addr, at time.Duration) time.Duration {
		t.Helper()
		d, ok := l.Fail(from, now.Add(at))
		if !ok {
			t.Fatal("too many wait")
		}
		return d
	}
	for i := range FailuresPerWindow {
		if d := wait(here, time.Duration(i)*time.Second); d != 0 {
			t.Errorf("failure %d waits %s", i, d)
		}
	}
	// The eleventh waits for a minute to have passed since the first, and so on.
	for i := range FailuresPerWindow {
		if d, want := wait(here, 10*time.Second), time.Duration(i)*time.Second+failureWindow-10*time.Second; d != want {
			t.Errorf("failure %d waits %s, want %s", FailuresPerWindow+i, d, want)
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
	l, now := NewLimiter(), time.Unix(1_900_000_000, 0)
	one := netip.MustParseAddr("2001:db8::1")
	for range FailuresPerWindow + maxWaiting {
		if _, ok := l.Fail(one, now); !ok {
			t.Fatal("refused too early")
		}
	}
	if _, ok := l.Fail(netip.MustParseAddr("2001:db8::2"), now); ok { // the same /64
		t.Error("one more waits")
	}
	for i := range 2 * maxSources {
		l.Fail(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), now)
	}
	if n := len(l.sources); n > maxSources+1 {
		t.Errorf("%d addresses are kept", n)
	}
	l.Fail(netip.MustParseAddr("192.0.2.1"), now.Add(2*time.Hour))
	if n := len(l.sources); n > 2 {
		t.Errorf("%d addresses are kept hours later", n)
	}
}

// Those that say nothing keep out nobody who has an offer.
func TestPlaces(t *testing.T) {
	var p Places
	evicted := make([]bool, MaxPlaces+2)
	enter := func(i int) *Place { return p.Enter(func() { evicted[i] = true }) }
	first := enter(0)
	places := []*Place{first}
	if !p.Heard(first) {
		t.Error("the first has no place")
	}
	for i := 1; i < MaxPlaces; i++ {
		places = append(places, enter(i))
	}
	next := enter(MaxPlaces)
	if gone := slices.Index(evicted, true); gone <= 0 || gone == MaxPlaces || p.Heard(places[gone]) || !p.Heard(next) || !p.Heard(first) {
		t.Errorf("not one without an offer went: %v", evicted)
	}
	for _, one := range p.taken {
		p.Heard(one)
	}
	if last := enter(MaxPlaces + 1); !evicted[MaxPlaces+1] || p.Heard(last) {
		t.Error("one more than all with offers has a place")
	}
	p.Leave(first)
	p.Leave(first)
	if last := enter(MaxPlaces + 1); !p.Heard(last) || len(p.taken) != MaxPlaces {
		t.Error("a place that was given up is not free")
	}
}

// It is not always the oldest that goes.
func TestPlacesAreDrawn(t *testing.T) {
	for range 100 {
		var p Places
		oldest := false
		p.Enter(func() { oldest = true })
		for range MaxPlaces {
			p.Enter(func() {})
		}
		if !oldest {
			return
		}
	}
	t.Error("it was the oldest each of 100 times")
}
