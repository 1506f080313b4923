package probe

import (
	"context"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// podWire is a network between probe pods in memory. The wire's lock is held where it
// is used.
type podWire struct {
	cut, away, mute, oneWay bool
	carries                 int
	ours, theirs            netip.Addr // what sources become
	says                    opinion
	heard                   opinion
}

// Pod implements Network.
func (w *wire) Pod(context.Context, netip.Addr) (Conn, error) {
	return &podConn{wire: w, came: make(chan struct{}, 1)}, nil
}

// podConn is the way to our probe pod.
type podConn struct {
	wire *wire
	came chan struct{}

	mu       sync.Mutex
	answers  [][]byte
	deadline time.Time
}

func (c *podConn) Write(data []byte) (int, error) {
	m, _ := decode(data)
	c.wire.mu.Lock()
	answer, ok := c.wire.pods.answer(m, len(data))
	c.wire.mu.Unlock()
	if ok {
		c.mu.Lock()
		c.answers = append(c.answers, answer.encode(podSize))
		c.mu.Unlock()
		c.poke()
	}
	return len(data), nil
}

func (p *podWire) answer(m message, size int) (message, bool) {
	answer := message{kind: kindAnswer, number: m.number, token: m.token, seen: ourProbe, marked: theirProbe, says: p.says}
	switch {
	case p.mute:
		return message{}, false
	case m.kind == kindHello:
		return message{kind: kindCookie, token: m.token, number: 1500, cookie: 4711}, true
	case m.kind != kindRelay || m.cookie != 4711 || m.seen != theirProbe || m.asker != 1 || m.asked != 2 || size < relaySize:
		return message{}, false
	case p.away:
		return message{kind: kindClosed, token: m.token, number: m.number}, true
	}
	p.heard = m.says
	if p.cut || p.carries > 0 && size+headers(theirProbe) > p.carries {
		return message{}, false
	}
	if p.ours.IsValid() {
		answer.seen = p.ours
	}
	if p.theirs.IsValid() {
		answer.marked = p.theirs
	}
	if p.oneWay {
		answer.marked = netip.Addr{}
	}
	return answer, true
}

func (c *podConn) poke() {
	select {
	case c.came <- struct{}{}:
	default:
	}
}

func (c *podConn) Read(b []byte) (int, error) {
	for {
		c.mu.Lock()
		left := time.Until(c.deadline)
		if len(c.answers) > 0 {
			n := copy(b, c.answers[0])
			c.answers = c.answers[1:]
			c.mu.Unlock()
			time.Sleep(time.Millisecond)
			return n, nil
		}
		c.mu.Unlock()
		if left <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		select {
		case <-c.came:
		case <-time.After(left):
		}
	}
}

func (c *podConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	c.mu.Unlock()
	c.poke()
	return nil
}

func (c *podConn) Close() error { return nil }

var (
	ourProbe   = netip.MustParseAddr("10.1.1.20")
	theirProbe = netip.MustParseAddr("10.2.1.20")
)

// auto is the pair whose native way is tried beside the tunnel.
func auto() *Neighbours {
	n := pair()
	n.ID, n.Probes = 1, []netip.Addr{ourProbe}
	n.Peers[0].ID, n.Peers[0].Search, n.Peers[0].Probes = 2, route.Unfit, []ProbePod{{"w1", theirProbe}}
	return n
}

// TestNativeWay: what is wrong with the network's own way is found beside the tunnel,
// by its name, and soon.
func TestNativeWay(t *testing.T) {
	inBubble(t, func(b *bed) {
		b.prober.Know(auto())
		is := func(state State, reason string) Summary {
			t.Helper()
			s, _ := b.awaitOf(1, 20*time.Second, state, reason)
			return s
		}
		way := func(change func(*podWire)) {
			t.Helper()
			b.wire.set(func() { b.wire.pods = podWire{} })
			is(Reachable, "")
			b.wire.set(func() { change(&b.wire.pods) })
		}
		s := is(Reachable, "")
		if s.Mode != route.Native || !s.Spare || s.Paths != 1 || s.MTU != 1500 || s.Source != SourceKept || s.RTTMedian == 0 || s.Against != 0 {
			t.Errorf("%+v", s)
		}
		way(func(w *podWire) { w.cut = true })
		if _, took := b.awaitOf(1, 20*time.Second, Unreachable, reasonUnrouted); took > 12*time.Second {
			t.Errorf("a cut is seen after %s", took)
		}
		way(func(w *podWire) { w.ours = ourMesh })
		if s := is(Degraded, reasonMasquerade); s.Source != SourceChanged || s.Troubles[0].Detail != "our 10.1.1.20 became 10.200.1.1" {
			t.Errorf("%+v", s)
		}
		way(func(w *podWire) { w.theirs = theirMesh })
		if s := is(Degraded, reasonMasquerade); s.Source != SourceChanged || s.Troubles[0].Detail != "their 10.2.1.20 became 10.200.2.1" {
			t.Errorf("%+v", s)
		}
		way(func(w *podWire) { w.carries = 1450 })
		if s := is(Degraded, reasonNarrow); s.MTU != 1450 || s.Troubles[0].Detail != "1450 bytes of 1500" || s.Troubles[0].Node != "w1 (10.2.1.20)" {
			t.Errorf("%+v", s)
		}
		way(func(w *podWire) { w.oneWay = true })
		if s := is(Degraded, reasonOneWay); s.Source != "" {
			t.Errorf("%+v", s)
		}
		way(func(w *podWire) { w.says = against })
		time.Sleep(2 * soon)
		if s := is(Reachable, ""); s.Against != 1 || b.heard() != against {
			t.Errorf("%+v, heard %d", s, b.heard())
		}
		if s, _ := b.await(time.Second, Reachable, ""); s.Mode != route.VXLAN || s.Spare {
			t.Errorf("the tunnel: %+v", s)
		}
		is(Reachable, "")
		n := auto()
		n.Peers[0].Mode, n.Peers[0].Search = route.Native, route.Fit
		b.prober.Know(n)
		time.Sleep(10 * time.Second)
		if s, _ := b.await(time.Second, Reachable, ""); s.Mode != route.Native || s.Spare || b.heard() != willing || len(b.prober.Report().Summaries) != 1 {
			t.Errorf("in use: %+v, heard %d", s, b.heard())
		}
	})
}

func (b *bed) heard() (says opinion) {
	b.wire.set(func() { says = b.wire.pods.heard })
	return says
}

// What is missing at one of the ends says nothing of the way between them.
func TestNativeWayUnknown(t *testing.T) {
	inBubble(t, func(b *bed) {
		b.prober.Know(auto())
		for reason, change := range map[string]func(*podWire){
			reasonMute: func(w *podWire) { w.mute = true },
			reasonAway: func(w *podWire) { w.away = true },
		} {
			b.wire.set(func() { b.wire.pods = podWire{}; change(&b.wire.pods) })
			time.Sleep(30 * time.Second)
			s := b.prober.Report().Summaries[1]
			if s.Paths != 1 || s.Reachable+s.Degraded+s.Unreachable != 0 || len(s.Troubles) != 1 || s.Troubles[0].Reason != reason {
				t.Errorf("%s: %+v", reason, s)
			}
		}
	})
}

// TestNativeLost: only rounds in a row in which both probe pods were there, and nothing
// came back, say that the network does not carry packets.
func TestNativeLost(t *testing.T) {
	var path track
	path.native = true
	from := round{asked: attempts, from: ourProbe, seen: ourProbe, pod: theirProbe, marked: theirProbe}
	good, away, mute := from, from, from
	good.answered, away.refused, mute.failed = attempts, true, errNoPod
	for i, step := range []struct {
		round round
		state State
	}{
		{good, Reachable},
		{from, Pending},
		{good, Reachable},
		{away, Pending},
		{away, Pending},
		{from, Pending}, // a pod that is made anew
		{mute, Pending},
		{from, Pending},
		{good, Reachable},
		{from, Pending},
		{from, Unreachable},
		{from, Unreachable},
		{good, Reachable},
	} {
		path.note(step.round)
		if got, _ := path.state(); got != step.state {
			t.Errorf("after round %d: %s, want %s", i, got, step.state)
		}
	}
}

// TestNativeUntried: why nothing is tried is said.
func TestNativeUntried(t *testing.T) {
	for reason, change := range map[string]func(*Neighbours){
		reasonNoPeerPod: func(n *Neighbours) { n.Peers[0].Probes, n.Probes = nil, nil },
		reasonNoPod:     func(n *Neighbours) { n.Probes = nil },
		reasonPodFamily: func(n *Neighbours) { n.Probes = []netip.Addr{netip.MustParseAddr("fd00::1")} },
	} {
		n := auto()
		change(n)
		p := newProber(nil)
		p.neighbours = n
		if got := summarize(n, nil)[1]; got.Mode != route.Native || got.Paths != 0 || len(got.Troubles) != 1 || got.Troubles[0].Reason != reason || ReasonNamed(reason).Do == "" {
			t.Errorf("%s: %+v", reason, got)
		}
		if targets := sample(n); len(targets) != 1 || targets[0].native {
			t.Errorf("%s: %+v", reason, targets)
		}
	}
}

// TestSampleOfPods: of many probe pods each node asks a few of its own.
func TestSampleOfPods(t *testing.T) {
	n := auto()
	n.Peers[0].Mode, n.Peers[0].Probes = route.Native, nil
	for i := range 100 {
		n.Peers[0].Probes = append(n.Peers[0].Probes, ProbePod{"w", netip.AddrFrom4([4]byte{10, 2, 1, byte(i)})})
	}
	first := sample(n)
	n.Node = "e2"
	second := sample(n)
	if len(first) != PerPeer || len(second) != PerPeer || !first[0].native || first[0] == second[0] && first[1] == second[1] && first[2] == second[2] {
		t.Errorf("%+v\n%+v", first, second)
	}
}
