package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long a test waits for something that must happen. It says
// nothing about how long it takes.
const patience = 60 * time.Second

// childDir in the environment makes the test binary a process that serves the
// directory and writes to it until it is killed.
const childDir = "CAUSEWAY_KVSTORE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// child prints the number of each key that the store has acknowledged.
func child(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := NewServer(ServerConfig{Dir: dir})
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	client, err := server.Dial(ctx)
	if err != nil {
		return <-ended
	}
	defer client.Close()
	for i := 0; ctx.Err() == nil; {
		if err := client.Put(ctx, "child/"+strconv.Itoa(i), []byte("value")); err == nil {
			fmt.Println(i)
			i++
		}
	}
	return <-ended
}

// testStore is an etcd over a directory, which can be stopped and started.
type testStore struct {
	t     testing.TB
	dir   string
	quota int64
	log   *logWriter
	stop  func()
}

func newStore(t testing.TB) *testStore {
	s := &testStore{t: t, dir: t.TempDir() + "/etcd", log: newLogWriter(t)}
	t.Cleanup(func() { s.Stop() })
	return s
}

func (s *testStore) Start() *Client {
	s.t.Helper()
	server := NewServer(ServerConfig{Dir: s.dir, QuotaBytes: s.quota, Logger: s.log.logger()})
	server.period = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	}
	dial, cancelDial := context.WithTimeout(ctx, patience)
	defer cancelDial()
	client, err := server.Dial(dial)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { client.Close() })
	return client
}

func (s *testStore) Stop() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// Wipe stops the server and removes what it had.
func (s *testStore) Wipe() {
	s.t.Helper()
	s.Stop()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatal(err)
	}
}

// Away does something to the store while the clients that it had cannot reach it.
func (s *testStore) Away(f func(*Client)) *Client {
	s.t.Helper()
	s.Stop()
	hidden := &testStore{t: s.t, dir: s.dir + "-hidden", log: s.log}
	if err := os.Rename(s.dir, hidden.dir); err != nil {
		s.t.Fatal(err)
	}
	f(hidden.Start())
	hidden.Stop()
	if err := os.Rename(hidden.dir, s.dir); err != nil {
		s.t.Fatal(err)
	}
	return s.Start()
}

// startStore is a store that is there for the whole test.
func startStore(t testing.TB) (*testStore, *Client) {
	t.Helper()
	s := newStore(t)
	return s, s.Start()
}

// logWriter keeps what is logged at warning level and above, and shows it when the test fails.
type logWriter struct {
	t     testing.TB
	mu    sync.Mutex
	lines []string
	over  bool // the test is, so that nothing can be shown any more
}

func newLogWriter(t testing.TB) *logWriter {
	w := &logWriter{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.over = true
	})
	return w
}

func (w *logWriter) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, string(p))
	if !w.over {
		w.t.Logf("%s", bytes.TrimSpace(p))
	}
	return len(p), nil
}

// find returns a line with text in it, if one was logged.
func (w *logWriter) find(text string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, line := range w.lines {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

func testLog(t testing.TB) *slog.Logger { return newLogWriter(t).logger() }

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func put(t testing.TB, c *Client, key, value string) {
	t.Helper()
	if err := c.Put(testContext(t), key, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

// contents returns everything under a prefix but the writers' fences.
func contents(t testing.TB, c *Client, prefix string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := c.List(testContext(t), Prefix(prefix), func(i Item) error {
		if !strings.HasPrefix(i.Key, fencePrefix) {
			got[i.Key] = string(i.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// received is what a recorder was given.
type received struct {
	state    map[string]string
	changes  int // values
	deletes  int
	complete int
	troubles []error
}

// recorder is a Handler that keeps the state and can be waited for.
type recorder struct {
	fail error // returned by Changes

	mu    sync.Mutex
	moved chan struct{}
	got   received
}

func newRecorder() *recorder {
	return &recorder{got: received{state: map[string]string{}}, moved: make(chan struct{})}
}

func (r *recorder) update(f func(*received)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.got)
	close(r.moved)
	r.moved = make(chan struct{})
}

func (r *recorder) Changes(_ context.Context, changes []Change) error {
	r.update(func(got *received) {
		for _, c := range changes {
			if c.Deleted {
				got.deletes++
				delete(got.state, c.Key)
				continue
			}
			got.changes++
			got.state[c.Key] = string(c.Value)
		}
	})
	return r.fail
}

func (r *recorder) Complete(context.Context) error {
	r.update(func(got *received) { got.complete++ })
	return nil
}

func (r *recorder) Trouble(err error) {
	r.update(func(got *received) { got.troubles = append(got.troubles, err) })
}

// wait waits until ok and returns what was received by then.
func (r *recorder) wait(t testing.TB, what string, ok func(received) bool) received {
	t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		done, moved, got := ok(r.got), r.moved, r.got
		got.state = maps.Clone(got.state)
		r.mu.Unlock()
		if done {
			return got
		}
		select {
		case <-moved:
		case <-deadline:
			t.Fatalf("%s did not happen: %d keys, %d changes, %d deletes, %d complete, troubles %v",
				what, len(got.state), got.changes, got.deletes, got.complete, errors.Join(got.troubles...))
		}
	}
}

func (r *recorder) waitFor(t testing.TB, key, value string) received {
	t.Helper()
	return r.wait(t, key+"="+value, func(got received) bool { return got.state[key] == value })
}

func (r *recorder) waitComplete(t testing.TB, times int) received {
	t.Helper()
	return r.wait(t, "complete", func(got received) bool { return got.complete >= times })
}

func (r *recorder) waitTrouble(t testing.TB) received {
	t.Helper()
	return r.wait(t, "trouble", func(got received) bool { return len(got.troubles) > 0 })
}

func (r *recorder) waitGone(t testing.TB, key string) received {
	t.Helper()
	return r.wait(t, key+" deleted", func(got received) bool { _, there := got.state[key]; return !there })
}

// follow runs Follow until the test ends, or stop is called.
func follow(t testing.TB, c *Client, cfg FollowConfig) (stop func()) {
	t.Helper()
	cfg.Logger = testLog(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Follow(ctx, cfg) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Follow: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// dial returns another client of the store as it runs now.
func (s *testStore) dial() *Client {
	s.t.Helper()
	c, err := Dial(ClientConfig{Endpoints: []string{"unix://" + s.dir + "/etcd.sock"}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}
