package probe

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ourMesh   = netip.MustParseAddr("10.200.1.1")
	ourPod    = netip.MustParseAddr("10.1.1.10")
	theirMesh = netip.MustParseAddr("10.200.2.1")
)

func pair() *Neighbours {
	return &Neighbours{
		Cluster: "east", Node: "e1", Mesh: []netip.Addr{ourMesh}, Pods: []netip.Addr{ourPod},
		Peers: []Peer{{Cluster: "west", Mode: route.VXLAN, Nodes: []Node{{Name: "w1", Mesh: []netip.Addr{theirMesh}}}}},
	}
}

func newProber(network Network) *Prober {
	return NewProber(ProberConfig{Network: network, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
}

// wire is a network in memory, at whose other end are answerers.
type wire struct {
	delay time.Duration

	mu        sync.Mutex
	answerers map[netip.Addr]*answerer
	device    int
	// carries is the largest packet that passes; 0 is all.
	carries int
	cut     bool
	refuse  bool
	// becomes is what packets' sources become; absent stay.
	becomes map[netip.Addr]netip.Addr
	asked   int
	failed  error
	// pods is how the network itself carries packets between probe pods.
	pods podWire
}

func (w *wire) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *wire) MTU() (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.device, w.failed
}

func (w *wire) Listen(context.Context, netip.Addr) (net.PacketConn, error) { return nil, w.failed }

func (w *wire) Mark(_ context.Context, from, to netip.Addr, data []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrive(from, to, data)
	return nil
}

// arrive returns the answer of who is there. The caller holds w.mu.
func (w *wire) arrive(from, to netip.Addr, data []byte) []byte {
	size := len(data) + headers(to)
	a := w.answerers[to]
	if w.cut || a == nil || w.carries > 0 && size > w.carries {
		return nil
	}
	if now, ok := w.becomes[from]; ok {
		from = now
	}
	return a.take(from, data)
}

func (w *wire) Ask(_ context.Context, from, to netip.Addr) (Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return &wireConn{wire: w, from: from, to: to, answers: make(chan []byte, 16), woken: make(chan struct{}, 1)}, w.failed
}

type wireConn struct {
	wire     *wire
	from, to netip.Addr
	answers  chan []byte
	refused  bool
	woken    chan struct{}
	mu       sync.Mutex
	deadline time.Time
}

func (c *wireConn) Write(data []byte) (int, error) {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.wire.asked++
	if c.wire.refuse {
		c.refused = !c.refused
		if !c.refused { // told once for each packet
			return 0, syscall.ECONNREFUSED
		}
		return len(data), nil
	}
	if len(data)+headers(c.to) > c.wire.device {
		return 0, syscall.EMSGSIZE
	}
	if answer := c.wire.arrive(c.from, c.to, data); answer != nil {
		c.answers <- answer
	}
	return len(data), nil
}

func (c *wireConn) Read(b []byte) (int, error) {
	for {
		c.mu.Lock()
		left := time.Until(c.deadline)
		c.mu.Unlock()
		if left <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		select {
		case answer := <-c.answers:
			time.Sleep(c.wire.delay)
			return copy(b, answer), nil
		case <-time.After(left):
		case <-c.woken:
		}
	}
}

func (c *wireConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	select {
	case c.woken <- struct{}{}:
	default:
	}
	return nil
}

func (c *wireConn) Close() error { return nil }
