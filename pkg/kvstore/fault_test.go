package kvstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// wire is a unix socket in front of another one whose connections can be cut,
// wherever in a request or an answer they are.
type wire struct {
	listener net.Listener
	group    sync.WaitGroup

	mu   sync.Mutex
	open []net.Conn
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "wire.sock"))
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l}
	w.group.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", to)
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			w.open = append(w.open, near, far)
			w.mu.Unlock()
			w.group.Go(func() { _, _ = io.Copy(near, far); near.Close() })
			w.group.Go(func() { _, _ = io.Copy(far, near); far.Close() })
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.cut()
		w.group.Wait()
	})
	return w
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.open {
		c.Close()
	}
	w.open = nil
}

func (w *wire) dial(t *testing.T) *Client {
	t.Helper()
	c, err := Dial(ClientConfig{Endpoints: []string{"unix://" + w.listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Connections are cut at any moment, so that requests are lost and answers of
// requests that took effect. Writer and reader end with the same state, and
// the reader never has one that the writer did not mean.
func TestCutConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	s, direct := startStore(t)
	wires := []*wire{newWire(t, s.dir+"/etcd.sock"), newWire(t, s.dir+"/etcd.sock")}
	w, _ := runWriter(t, wires[0].dial(t), "a/", "b/")
	r := newRecorder()
	follow(t, wires[1].dial(t), FollowConfig{Ranges: []Range{Prefix("a/"), Prefix("b/")}, Handler: r})

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	want := map[string]string{}
	set := func() {
		key := fmt.Sprintf("%c/%d", 'a'+rune(rng.IntN(2)), rng.IntN(100))
		if rng.IntN(3) == 0 {
			delete(want, key)
			w.Delete(key)
			return
		}
		want[key] = fmt.Sprint(rng.IntN(3))
		w.Set(key, []byte(want[key]))
	}
	for i := range 24 {
		for range 100 {
			set()
		}
		if i%6 == 0 {
			synced(t, w)
			for range 100 { // a round is under way when the wire is cut
				set()
			}
		}
		wires[rng.IntN(2)].cut()
	}
	w.Complete()
	w.Set("b/end", []byte("end"))
	want["b/end"] = "end"
	synced(t, w)
	if diff := cmp.Diff(want, contents(t, direct, "")); diff != "" {
		t.Errorf("store: %s", diff)
	}
	r.wait(t, "state as it was written", func(got received) bool { return cmp.Equal(want, got.state) })
}

func TestFrozenServerIsNoticed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+s.dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("child wrote nothing")
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for lines.Scan() {
		}
	}()
	defer func() { <-drained }()
	defer func() { _ = cmd.Process.Kill() }()

	r := newRecorder()
	c := s.dial()
	follow(t, c, FollowConfig{Ranges: []Range{Key("child/1"), Prefix("quiet/")}, Handler: r, Probe: 200 * time.Millisecond})
	r.waitComplete(t, 1)
	// The stream has to have answered before silence means something.
	for begun := time.Now(); time.Since(begun) < 3*time.Second; {
		put(t, c, "quiet/1", fmt.Sprint(begun))
		r.waitFor(t, "quiet/1", fmt.Sprint(begun))
	}
	before := r.waitComplete(t, 1) // a slow machine may have had trouble already
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	got := r.wait(t, "trouble", func(got received) bool { return len(got.troubles) > len(before.troubles) })
	if !slices.ContainsFunc(got.troubles, func(err error) bool { return errors.Is(err, ErrWatchStuck) }) {
		t.Errorf("troubles: %v", got.troubles)
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.waitComplete(t, got.complete+1)
}
