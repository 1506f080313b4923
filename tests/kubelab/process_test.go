package kubelab

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell returns a process that runs a line of shell. It ends with the test.
func shell(t *testing.T, line string) *process {
	t.Helper()
	p := &process{name: "shell", path: "/bin/sh", args: []string{"-c", line}, log: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(p.kill)
	return p
}

func mustStart(t *testing.T, p *process) {
	t.Helper()
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
}

// TestProcessLives: a process that was killed starts again and its log goes on.
func TestProcessLives(t *testing.T) {
	t.Parallel()
	p := shell(t, "echo lives; exec sleep 3600")
	if !isClosed(p.done()) {
		t.Error("one that was never started runs")
	}
	if err := p.signal(syscall.SIGTERM); err == nil {
		t.Error("one that was never started got a signal")
	}
	spoken := func(times int) func(context.Context) error {
		return func(context.Context) error {
			if text, err := os.ReadFile(p.log); err != nil || strings.Count(string(text), "lives\n") < times {
				return errors.New("it says nothing yet")
			}
			return nil
		}
	}
	mustStart(t, p)
	if err := p.await(t.Context(), spoken(1)); err != nil {
		t.Fatal(err)
	}
	if err := p.start(); err == nil {
		t.Error("one that runs was started")
	}
	first := p.pid()
	p.kill()
	p.kill() // again is fine
	if !isClosed(p.done()) {
		t.Error("one that was killed runs")
	}
	mustStart(t, p)
	if p.pid() == first {
		t.Error("it is the same process")
	}
	if err := p.await(t.Context(), spoken(2)); err != nil {
		t.Fatal(err)
	}
}

func TestProcessPause(t *testing.T) {
	t.Parallel()
	p := shell(t, "exec sleep 3600")
	mustStart(t, p)
	if err := p.pause(); err != nil {
		t.Fatal(err)
	}
	if state, err := processState(p.pid()); err != nil || state != 'T' {
		t.Errorf("the state is %q, %v, want T", state, err)
	}
	p.kill() // one that stands still, too
	if err := p.pause(); err == nil {
		t.Error("one that has ended was paused")
	}
}

// TestProcessAwait: who waits for one that ends, or too long, learns why.
func TestProcessAwait(t *testing.T) {
	t.Parallel()
	never := func(context.Context) error { return errors.New("not yet") }
	p := shell(t, "echo out of luck; exit 1")
	mustStart(t, p)
	err := p.await(t.Context(), never)
	if err == nil {
		t.Fatal("it is ready, though it ended")
	}
	for _, want := range []string{"shell", "it ended", "not yet", "out of luck"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	slow := shell(t, "exec sleep 3600")
	mustStart(t, slow)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := slow.await(ctx, never); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want that time ran out", err)
	}
}

func TestProcessMissing(t *testing.T) {
	t.Parallel()
	p := &process{name: "none", path: "/nonexistent/program", log: filepath.Join(t.TempDir(), "log")}
	if err := p.start(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want that there is no such program", err)
	}
	p.kill()
}

// TestTail: the end of a log, not all of it.
func TestTail(t *testing.T) {
	t.Parallel()
	p := &process{log: filepath.Join(t.TempDir(), "log")}
	if err := os.WriteFile(p.log, []byte(strings.Repeat("line\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(p.tail(), "line"); got != tailLines {
		t.Errorf("%d lines, want %d", got, tailLines)
	}
}
