package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// Three addresses of this machine that nobody else uses: of two probe pods, and of
// nobody.
var (
	eastPod   = netip.MustParseAddr("127.84.73.1")
	westPod   = netip.MustParseAddr("127.84.73.2")
	otherPod  = netip.MustParseAddr("127.84.73.3")
	podTarget = target{cluster: "west", node: "w1", from: eastPod, to: westPod, native: true}
)

// pods are probe pods on this machine.
type pods struct {
	Sockets
	port uint16
}

// Pod implements Network.
func (p pods) Pod(ctx context.Context, pod netip.Addr) (Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "udp", netip.AddrPortFrom(pod, p.port).String())
}

// startPods starts one in each cluster, at the same port.
func startPods(t *testing.T) (pods, []*Pod) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		conn, err := net.ListenPacket("udp", netip.AddrPortFrom(eastPod, 0).String())
		must(t, err)
		port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		must(t, conn.Close())
		all, err := startPodsAt(t, port)
		if err == nil {
			return pods{port: port}, all
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func startPodsAt(t *testing.T, port uint16) (all []*Pod, err error) {
	t.Helper()
	for _, at := range []netip.Addr{eastPod, westPod} {
		p := NewPod(PodConfig{Listen: netip.AddrPortFrom(at, port), Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil && !errors.Is(err, syscall.EADDRINUSE) {
				t.Error(err)
			}
		})
		if err := awaitPod(t, netip.AddrPortFrom(at, port), done); err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
}

// awaitPod waits until one answers, or has ended.
func awaitPod(t *testing.T, at netip.AddrPort, done chan error) error {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		select {
		case err := <-done:
			done <- err
			return err
		default:
		}
		if _, err := exchangeOnce(t, at, message{kind: kindHello, token: 1}.encode(podSize)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer", at)
}

// exchangeOnce sends from a new port, and returns what comes back within a while.
func exchangeOnce(t *testing.T, at netip.AddrPort, data []byte) (message, error) {
	t.Helper()
	conn, err := net.Dial("udp", at.String())
	must(t, err)
	defer conn.Close()
	return exchangeOn(t, conn, data)
}

func exchangeOn(t *testing.T, conn net.Conn, data []byte) (message, error) {
	t.Helper()
	must(t, conn.SetDeadline(time.Now().Add(300*time.Millisecond)))
	if _, err := conn.Write(data); err != nil {
		return message{}, err
	}
	buffer := make([]byte, maxPacket)
	n, err := conn.Read(buffer)
	if err != nil {
		return message{}, err
	}
	m, ok := decode(buffer[:n])
	if !ok || n > len(data) {
		t.Errorf("%d bytes for %d: %x", n, len(data), buffer[:n])
	}
	return m, nil
}

func podPair() *Neighbours {
	return &Neighbours{Cluster: "east", Node: "e1", ID: 1, Probes: []netip.Addr{eastPod}, Peers: []Peer{
		{Cluster: "west", ID: 2, Mode: route.VXLAN, Search: route.Fit, Probes: []ProbePod{{"w1", westPod}}},
	}}
}

// askPods asks until somebody answers: this machine may have no time.
func askPods(t *testing.T, network Network, to target, n *Neighbours, enough func(round) bool) round {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		r := ask(t.Context(), network, to, n, 0)
		if enough(r) || time.Now().After(end) {
			return r
		}
	}
}

func TestPodsAsk(t *testing.T) {
	t.Parallel()
	network, _ := startPods(t)
	well := func(r round) bool { return r.answered == 1 && r.marked.IsValid() && r.passes == r.device }
	r := askPods(t, network, podTarget, podPair(), well)
	if r.failed != nil || !well(r) || r.seen != eastPod || r.pod != westPod || r.marked != westPod || r.device != maxPacket-1 || r.says != 0 {
		t.Errorf("%+v", r)
	}
	// West's agent asks, too, and so says what it thinks; east's has said it before.
	back := target{cluster: "east", node: "e1", from: westPod, to: eastPod, native: true}
	west := &Neighbours{Cluster: "west", ID: 2, Peers: []Peer{{Cluster: "east", ID: 1, Mode: route.VXLAN, Search: route.Unfit}}}
	if r := askPods(t, network, back, west, well); r.says != willing || r.seen != westPod || r.marked != eastPod {
		t.Errorf("%+v", r)
	}
	if r := askPods(t, network, podTarget, podPair(), well); r.says != against {
		t.Errorf("%+v", r)
	}
	away := podTarget
	away.to = otherPod
	if r := askPods(t, network, away, podPair(), func(r round) bool { return r.refused }); r.answered != 0 || !r.refused || r.failed != nil {
		t.Errorf("where nobody is: %+v", r)
	}
	mute := podTarget
	mute.from = otherPod
	if r := ask(t.Context(), network, mute, podPair(), 0); !errors.Is(r.failed, errNoPod) {
		t.Errorf("without a probe pod of our own: %+v", r)
	}
}

// A probe pod does nothing for who has not shown to be where he says, and sends no
// more than it was sent.
func TestPodRefuses(t *testing.T) {
	t.Parallel()
	network, all := startPods(t)
	east, west := netip.AddrPortFrom(eastPod, network.port), netip.AddrPortFrom(westPod, network.port)
	relay := message{kind: kindRelay, number: 1, token: 7, seen: westPod, asker: 1, asked: 2, says: willing}
	for name, data := range map[string][]byte{
		"a relay without a cookie": relay.encode(relaySize),
		"a short question":         message{kind: kindAsk, number: 1, token: 7}.encode(relaySize - 1),
		"an answer":                message{kind: kindAnswer, number: 1, token: 7}.encode(relaySize),
		"a mark":                   message{kind: kindMark, token: 7}.encode(relaySize),
		"nothing of ours":          make([]byte, relaySize),
	} {
		if m, err := exchangeOnce(t, east, data); err == nil {
			t.Errorf("%s: %+v", name, m)
		}
	}
	all[0].mu.Lock()
	if len(all[0].sessions)+len(all[0].tokens)+len(all[0].opinions) != 0 {
		t.Errorf("%d sessions, %d tokens, %d opinions", len(all[0].sessions), len(all[0].tokens), len(all[0].opinions))
	}
	all[0].mu.Unlock()

	// A cookie is good where it was given, and not elsewhere.
	conn, err := net.Dial("udp", east.String())
	must(t, err)
	defer conn.Close()
	hello := message{kind: kindHello, token: 7}.encode(podSize)
	given := eventuallyAnswered(t, conn, hello, kindCookie)
	relay.cookie = given.cookie
	if m, err := exchangeOnce(t, east, relay.encode(relaySize)); err == nil {
		t.Errorf("with another's cookie: %+v", m)
	}
	if m := eventuallyAnswered(t, conn, relay.encode(relaySize), kindAnswer); m.token != 7 || m.seen != eastPod {
		t.Errorf("%+v", m)
	}
	if m, err := exchangeOnce(t, west, hello); err == nil && m.cookie == given.cookie {
		t.Error("two pods give the same cookie")
	}
}

// eventuallyAnswered repeats what may get lost.
func eventuallyAnswered(t *testing.T, conn net.Conn, data []byte, kind byte) message {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if m, err := exchangeOn(t, conn, data); err == nil && m.kind == kind {
			return m
		}
	}
	t.Fatal("no answer")
	return message{}
}

// What is remembered is bounded, and what nobody asks for ends.
func TestPodForgets(t *testing.T) {
	t.Parallel()
	network, all := startPods(t)
	p := NewPod(PodConfig{})
	for i := range 2 * maxMarks {
		p.allow(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))
	}
	p.mu.Lock()
	sources := len(p.sources)
	p.mu.Unlock()
	if sources > maxMarks {
		t.Errorf("%d sources", sources)
	}
	p = NewPod(PodConfig{})
	allowed := 0
	for range 10 * podSourceRate {
		if p.allow(otherPod) {
			allowed++
		}
	}
	if allowed < podSourceRate || allowed > 5*podSourceRate {
		t.Errorf("%d messages of one source at once", allowed)
	}
	p = all[0]
	ask(t.Context(), network, podTarget, podPair(), 0)
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		p.mu.Lock()
		left := len(p.sessions) + len(p.tokens) + p.history.Len()
		p.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d sessions and tokens stay", left)
		}
	}
}

func TestPodWithoutAnAddress(t *testing.T) {
	p := NewPod(PodConfig{Listen: netip.MustParseAddrPort("192.0.2.1:8475"), Logger: slog.New(slog.DiscardHandler)})
	if err := p.Run(t.Context()); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("got %v", err)
	}
}

func FuzzPod(f *testing.F) {
	p := NewPod(PodConfig{Listen: netip.MustParseAddrPort("127.84.73.1:8475"), Logger: slog.New(slog.DiscardHandler)})
	from := netip.MustParseAddrPort("127.84.73.3:4000")
	f.Add(message{kind: kindAnswer, token: 7, says: willing}.encode(podSize))
	f.Add(message{kind: kindMark, token: 7}.encode(podSize))
	f.Add(message{kind: kindRelay, token: 7, seen: westPod, cookie: 9, asker: 1, asked: 2}.encode(relaySize))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, ok := decode(data); ok && (m.kind == kindAsk || m.kind == kindHello) {
			return // these are answered, which needs a socket
		}
		p.take(t.Context(), nil, nil, from, data)
		if len(p.sessions) > 0 {
			t.Errorf("%x opens a session", data)
		}
	})
}
