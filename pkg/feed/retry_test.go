package feed

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// talking is an agent's client that logs everything.
func (m *mesh) talking(target, node string, s Sink, state ...*State) *lockedBuffer {
	m.t.Helper()
	log := &lockedBuffer{}
	client := NewClient(ClientConfig{
		Target: target, TLS: m.tls(pki.RoleAgent, node), Node: node, State: append(state, nil)[0], Sink: s,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("run: %v", err)
		}
	})
	return log
}

// Two agents with one certificate: the one that is replaced says so and stays
// away for long, and the other one works undisturbed meanwhile.
func TestSharedCertificate(t *testing.T) {
	m, s, first, second := newMesh(t), opened(), newSink(), newSink()
	target, _ := m.serve(s, "127.0.0.1:0")
	log := m.talking(target, "node-1", first)
	first.expect(t, s)
	m.talking(target, "node-1", second)
	second.expect(t, s)

	said := regexp.MustCompile(`level=WARN .*delay=(\S+) .*another agent subscribes with this node's certificate`)
	eventually(t, "the first one says why it has no feed", func() bool { return said.MatchString(log.String()) })
	delay, err := time.ParseDuration(said.FindStringSubmatch(log.String())[1])
	if err != nil || delay < replacedDelay/2 {
		t.Errorf("it tries again after %s, %v", delay, err)
	}
	apply(s, viewsOf(view("web", "east")))
	second.expect(t, s, viewsOf(view("web", "east")))
}

// A server that ends every stream soon is tried less and less often, although it
// has something to say on each.
func TestStreamsThatEndSoon(t *testing.T) {
	m, s, got := newMesh(t), opened(), newSink()
	target, _ := m.serve(s, "127.0.0.1:0")
	wire := newWire(t, target)
	log := m.talking(wire.address(), "node-1", got)
	attempts := regexp.MustCompile(`attempt=(\d)`)
	received := regexp.MustCompile(`receiving the feed`)
	for n := range 4 {
		eventually(t, "it has a stream", func() bool { return len(received.FindAllString(log.String(), -1)) > n })
		wire.cut()
		eventually(t, "it is cut", func() bool { return len(attempts.FindAllString(log.String(), -1)) > n })
		if last := attempts.FindAllStringSubmatch(log.String(), -1)[n][1]; last != string(rune('1'+n)) {
			t.Fatalf("the end of stream %d counts as attempt %s:\n%s", n+1, last, log)
		}
	}
}

// batches notes what a sink is given.
type batches struct {
	*sink
	mu  sync.Mutex
	all []Batch
}

func (b *batches) Apply(ctx context.Context, batch Batch) error {
	b.mu.Lock()
	b.all = append(b.all, batch)
	b.mu.Unlock()
	return b.sink.Apply(ctx, batch)
}

func (b *batches) given() []Batch {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Batch(nil), b.all...)
}

// What an agent has from an earlier life is marked as that until an API server
// was heard, which says something although nothing differs.
func TestRestored(t *testing.T) {
	dir := t.TempDir()
	k := openState(dir, "boot")
	k.tell(t, 1, services(viewsOf(view("web", "east"))))
	k.end(t)

	m, got := newMesh(t), &batches{sink: newSink()}
	wire := newWire(t, "127.0.0.1:1") // nobody is there
	last := openState(dir, "boot")
	t.Cleanup(func() { last.die(t) })
	m.talking(wire.address(), "node-1", got, last.State)
	eventually(t, "the last state is handed over", func() bool { return len(got.given()) > 0 })
	if b := got.given()[0]; !b.Restored || !b.Snapshot || len(b.Delta.Views) != 1 {
		t.Errorf("from the file: %+v", b)
	}

	s := opened(services(viewsOf(view("web", "east"))))
	target, _ := m.serve(s, "127.0.0.1:0")
	wire.mu.Lock()
	wire.target = target
	wire.mu.Unlock()
	got.expect(t, s, viewsOf(view("web", "east")))
	for i, b := range got.given()[1:] {
		if b.Restored || b.Snapshot || len(b.Delta.Views) > 0 {
			t.Errorf("batch %d from the server: %+v", i, b)
		}
	}
}

// What comes while the process ends is neither kept nor put in effect.
func TestClosedState(t *testing.T) {
	dir := t.TempDir()
	k := openState(dir, "boot")
	k.tell(t, 1, services(viewsOf(view("web", "east"))))
	k.end(t)
	in := newIncoming()
	in.revision = Revision{"e", 2}
	if changes, err := k.accept(in); !errors.Is(err, errClosed) {
		t.Errorf("accept = %v, %v", changes, err)
	}
	k = openState(dir, "boot")
	k.expect(t, 1, viewsOf(view("web", "east")))
	k.end(t)
}
