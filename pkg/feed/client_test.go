package feed

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// Another server, which is another epoch, begins with its whole state: what it
// lacks is gone.
func TestServerRestarts(t *testing.T) {
	m, first, got := newMesh(t), newServer(), newSink()
	apply(first, viewsOf(view("web", "east"), view("api", "east")))
	first.Open()
	target, stop := m.serve(first, "127.0.0.1:0")
	client, _ := m.agent(target, "node-1", got)
	got.expect(t, first, viewsOf(view("web", "east"), view("api", "east")))
	applied := Applied{Revision: first.Revision()}
	client.Report(applied)
	eventually(t, "the report arrives", func() bool { return first.Agents()[0].Current })
	stop()

	second := newServer()
	apply(second, viewsOf(view("web", "east", "west")))
	m.serve(second, target)
	eventually(t, "the agent is back", func() bool { return len(second.Agents()) == 1 })
	eventually(t, "what it applied is told again", func() bool { return second.Agents()[0].Applied == applied })
	if a := second.Agents()[0]; a.Current {
		t.Errorf("current by the revision of another epoch: %+v", a)
	}
	second.Open()
	got.expect(t, second, viewsOf(view("web", "east", "west")))
}

// What runs beside the feed has each connection while it lasts, and may end
// before.
func TestBeside(t *testing.T) {
	m, s := newMesh(t), newServer()
	s.Open()
	target, stop := m.serve(s, "127.0.0.1:0")
	began, ended := make(chan grpc.ClientConnInterface), make(chan struct{}, 64)
	wait := true
	client := NewClient(ClientConfig{
		Target: target, TLS: m.tls(pki.RoleAgent, "node-1"), Node: "node-1", Sink: newSink(),
		Beside: func(ctx context.Context, conn grpc.ClientConnInterface) {
			if !wait {
				return
			}
			select {
			case began <- conn:
				<-ctx.Done()
				ended <- struct{}{}
			case <-ctx.Done():
			}
		},
		Logger: quiet, Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	first := <-began
	eventually(t, "the agent is there", func() bool { return len(s.Agents()) == 1 && s.Agents()[0].Connected })
	stop()
	<-ended
	second := newServer()
	second.Open()
	m.serve(second, target)
	if again := <-began; again == first {
		t.Error("the connection is the one that was lost")
	}
	cancel()
	<-ended
	if err := <-done; err != nil {
		t.Error(err)
	}

	wait = false
	got := newSink()
	client = NewClient(ClientConfig{
		Target: target, TLS: m.tls(pki.RoleAgent, "node-2"), Node: "node-2", Sink: got, Beside: client.cfg.Beside,
		Logger: quiet, Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- client.Run(ctx) }()
	got.expect(t, second)
	cancel()
	<-done
}

// A batch that the sink does not have is made good by a snapshot.
func TestSinkRefuses(t *testing.T) {
	m, s, got := newMesh(t), newServer(), newSink()
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	m.agent(target, "node-1", got)
	got.expect(t, s)
	got.mu.Lock()
	got.refuse = errors.New("no room")
	got.mu.Unlock()
	apply(s, viewsOf(view("web", "east")))
	got.expect(t, s, viewsOf(view("web", "east")))
	if _, snapshots := got.counts(); snapshots != 2 {
		t.Errorf("%d snapshots, want 2", snapshots)
	}
}

// The agent outlives an API server that is not there yet, and says so once.
func TestServerIsMissing(t *testing.T) {
	m, s, got := newMesh(t), newServer(), newSink()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := listener.Addr().String()
	listener.Close()

	var log lockedBuffer
	client := NewClient(ClientConfig{
		Target: target, TLS: m.tls(pki.RoleAgent, "node-1"), Node: "node-1", Sink: got,
		Logger: slog.New(slog.NewTextHandler(&log, nil)), Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	eventually(t, "it is said", func() bool { return strings.Contains(log.String(), "connection refused") })
	s.Open()
	m.serve(s, target)
	got.expect(t, s)
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, log.String())
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

// A server that is frozen, or behind a cut wire, closes nothing. It is noticed
// all the same.
func TestFrozenServer(t *testing.T) {
	t.Parallel()
	m, s, got := newMesh(t), newServer(), newSink()
	s.Open()
	target, _ := m.serve(s, "127.0.0.1:0")
	wire := newWire(t, target)
	m.agent(wire.address(), "node-1", got)
	got.expect(t, s)

	wire.freeze()
	start := time.Now()
	apply(s, viewsOf(view("web", "east")))
	got.expect(t, s, viewsOf(view("web", "east")))
	if took := time.Since(start); took > 2*(keepaliveTime+keepaliveTimeout) {
		t.Errorf("it took %s to leave a frozen server", took)
	}
	if _, snapshots := got.counts(); snapshots != 1 {
		t.Errorf("%d snapshots, want 1 and then what differs", snapshots)
	}
}

func TestRetrying(t *testing.T) {
	r := retrying{wait: minBackoff}
	for range 50 {
		if d := r.next(); d < minBackoff/2 || d > 3*maxBackoff/2 {
			t.Errorf("attempt %d after %s", r.attempt, d)
		}
	}
	if r.wait != maxBackoff || r.attempt != 50 {
		t.Errorf("after 50 attempts: %+v", r)
	}
	now := time.Now()
	for i, c := range []struct {
		text  string
		after time.Duration
		tell  bool
	}{
		{"read 10.0.0.1:40000: connection reset", 0, true},
		{"read 10.0.0.1:40001: connection reset", time.Second, false},
		{"signed by another authority", 2 * time.Second, true},
		{"signed by another authority", 61 * time.Second, false},
		{"signed by another authority", 63 * time.Second, true},
	} {
		if got := r.tell(status.Error(codes.Unavailable, c.text), now.Add(c.after)); got != c.tell {
			t.Errorf("step %d: tell = %v, want %v", i, got, c.tell)
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// wire passes TCP on. Those connections that were made before freeze carry
// nothing any more, but stay.
type wire struct {
	listener net.Listener
	target   string
	mu       sync.Mutex
	frozen   chan struct{}
	conns    []net.Conn
	wg       sync.WaitGroup
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, target: target, frozen: make(chan struct{})}
	w.wg.Go(w.accept)
	t.Cleanup(func() {
		listener.Close()
		w.mu.Lock()
		for _, c := range w.conns {
			c.Close()
		}
		w.mu.Unlock()
		w.wg.Wait()
	})
	return w
}

func (w *wire) address() string { return w.listener.Addr().String() }

func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.frozen)
	w.frozen = make(chan struct{})
}

// cut closes the connections that there are.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

func (w *wire) accept() {
	for {
		in, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		target := w.target
		w.mu.Unlock()
		out, err := net.Dial("tcp", target)
		if err != nil {
			in.Close()
			continue
		}
		w.mu.Lock()
		w.conns = append(w.conns, in, out)
		frozen := w.frozen
		w.mu.Unlock()
		w.wg.Go(func() { carry(in, out, frozen) })
		w.wg.Go(func() { carry(out, in, frozen) })
	}
}

func carry(to io.WriteCloser, from io.Reader, frozen chan struct{}) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-frozen:
			if err != nil {
				return
			}
			continue // swallowed
		default:
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			to.Close()
			return
		}
	}
}
