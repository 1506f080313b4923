package conformance

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/cilium/pkg/option"
)

// patience bounds every wait: Cilium tries a lost connection again after
// seconds, not milliseconds.
const patience = time.Minute

// readerName and readerID are the Cilium cluster that reads ours.
const (
	readerName = "cilium"
	readerID   = 200
)

func TestMain(m *testing.M) {
	// Cilium keeps its own cluster in a variable; its validators let values pass
	// unseen that carry the id in it.
	option.Config.ClusterName = readerName
	option.Config.ClusterID = readerID
	option.Config.IdentityAllocationMode = option.IdentityAllocationModeKVstore
	os.Exit(m.Run())
}

// eventually asks until got returns nil, and fails with its last error.
func eventually(t *testing.T, got func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := got()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond) // between two looks; nothing depends on its length
	}
}

// freeAddress returns an address of this machine that nobody listens on, for
// what must be found at the same place again.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// complaints takes Cilium's log and keeps what it warns of: a value that it
// refuses it logs and goes on.
type complaints struct {
	mu    sync.Mutex
	lines []string
}

func (c *complaints) logger() *slog.Logger { return slog.New(complaintHandler{to: c}) }

// seen returns what was complained of since the last call, less what has one
// of the texts in it.
func (c *complaints) seen(except ...string) (lines []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.lines {
		expected := false
		for _, text := range except {
			expected = expected || strings.Contains(line, text)
		}
		if !expected {
			lines = append(lines, line)
		}
	}
	c.lines = nil
	return lines
}

type complaintHandler struct {
	to    *complaints
	attrs []slog.Attr
}

func (h complaintHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (h complaintHandler) WithGroup(string) slog.Handler                { return h }

func (h complaintHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return complaintHandler{to: h.to, attrs: append(append([]slog.Attr{}, h.attrs...), attrs...)}
}

func (h complaintHandler) Handle(_ context.Context, r slog.Record) error {
	line := r.Level.String() + " " + r.Message
	add := func(a slog.Attr) bool {
		line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	h.to.mu.Lock()
	defer h.to.mu.Unlock()
	h.to.lines = append(h.to.lines, line)
	return nil
}
