package state

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

// start runs the keeper until stop is called, which returns what Run did.
func (p *pod) start() (stop func() error) {
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	p.t.Cleanup(func() { _ = stop() })
	return stop
}

// TestFlush: what calls wait for is written at once, what is lazy a moment later.
func TestFlush(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := newShelf()
		p := newPod(t, slots, t.TempDir()).begin()
		p.write("pki/ca.key", "secret")
		stop := p.start()
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := slots.copied()[0].version
		p.write("identities", "256")
		if err := p.Flush(t.Context()); err != nil || slots.copied()[0].version != first {
			t.Errorf("what is lazy was written at once (%v)", err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		second := slots.copied()[0].version
		if second == first {
			t.Error("what is lazy was not written")
		}
		p.write("joined/west", "a peer")
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				if err := p.Flush(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if slots.copied()[0].version == second {
			t.Error("a call was answered before what it waited for was written")
		}
		var writes dto.Metric
		if err := p.metrics.writes.WithLabelValues("ok").Write(&writes); err != nil || writes.GetCounter().GetValue() != 3 {
			t.Errorf("%v writes, want 3 (%v)", writes.GetCounter(), err)
		}
		p.write("joined/north", "at the end")
		if err := stop(); err != nil {
			t.Error(err)
		}
		p.Last(t.Context())
		newPod(t, slots, t.TempDir()).begin().has("joined/north", "at the end")
	})
}

// TestNotWritten: who operates it is told, calls are refused, and it goes on.
func TestNotWritten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := newShelf()
		p := newPod(t, slots, t.TempDir()).begin()
		p.write("pki/ca.key", "secret")
		stop := p.start()
		if err := p.Flush(t.Context()); err != nil || len(p.Problems()) > 0 || p.waiting() != 0 {
			t.Fatalf("%v, problems %q", err, p.Problems())
		}
		away := errors.New("the API server is away")
		slots.set(func(string, int) error { return away }, nil)
		p.write("joined/west", "a peer")
		if err := p.Flush(t.Context()); !errors.Is(err, away) {
			t.Errorf("a call was answered: %v", err)
		}
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		problems := p.Problems()
		if len(problems) != 1 || !strings.Contains(problems[0], "would be lost with this pod: the API server is away (written last: 2000-01-01T00:00:00Z)") {
			t.Errorf("problems %q", problems)
		}
		if p.waiting() < 5*time.Minute {
			t.Errorf("waits for %s", p.waiting())
		}
		if n := strings.Count(p.log.String(), "level=ERROR"); n < 5 || n > 30 {
			t.Errorf("%d errors in 5 minutes", n)
		}
		slots.set(nil, nil)
		time.Sleep(lastTry + time.Second)
		synctest.Wait()
		if len(p.Problems()) > 0 || p.waiting() != 0 || !strings.Contains(p.log.String(), "is kept in the Kubernetes API again") {
			t.Errorf("problems %q, waits for %s", p.Problems(), p.waiting())
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

// TestTakenWhileRunning: the process ends, and a call that waits is answered.
func TestTakenWhileRunning(t *testing.T) {
	t.Parallel()
	slots := newShelf()
	old := newPod(t, slots, t.TempDir()).begin()
	old.write("pki/ca.key", "secret")
	stop := old.start()
	if err := old.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	newPod(t, slots, t.TempDir()).begin()
	old.write("joined/west", "a peer")
	if err := old.Flush(t.Context()); !errors.Is(err, ErrTaken) {
		t.Errorf("a call was answered: %v", err)
	}
	if err := stop(); !errors.Is(err, ErrTaken) {
		t.Errorf("Run ended with %v", err)
	}
	if problems := old.Problems(); len(problems) != 1 {
		t.Errorf("problems %q", problems)
	}
}

// TestAway: an API server that is away at the start is waited for, and nothing is made
// in its place.
func TestAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := newShelf()
		one := newPod(t, slots, t.TempDir()).begin()
		one.write("pki/ca.key", "secret")
		one.mustKeep()
		slots.set(func(string, int) error { return errors.New("connection refused") }, nil)
		p := newPod(t, slots, t.TempDir())
		var told []string
		done := make(chan error, 1)
		go func() { done <- p.Restore(t.Context(), func(err error) { told = append(told, err.Error()) }) }()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(told) < 3 || told[0] != "connection refused" {
			t.Errorf("waits, and says %q", told)
		}
		if _, err := os.Stat(filepath.Join(p.dir, "pki")); !os.IsNotExist(err) {
			t.Errorf("something was made: %v", err)
		}
		slots.set(nil, nil)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		p.has("pki/ca.key", "secret")

		slots.set(func(string, int) error { return errors.New("connection refused") }, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := newPod(t, slots, t.TempDir()).Restore(ctx, func(error) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want the end of the context", err)
		}
	})
}

func startEtcd(t *testing.T) *kvstore.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	client, err := server.Dial(ctx)
	t.Cleanup(func() {
		if client != nil {
			_ = client.Close()
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestKeys: keys come into another etcd, but not over what is there.
func TestKeys(t *testing.T) {
	t.Parallel()
	prefixes := func(c *Config) { c.Prefixes = []string{"causeway/invitations/v1/", "causeway/members/v1/"} }
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	slots := newShelf()
	one, etcd := newPod(t, slots, t.TempDir(), prefixes).begin(), startEtcd(t)
	if err := one.Fill(ctx, etcd); err != nil {
		t.Fatal(err)
	}
	one.write("pki/ca.key", "secret")
	for key, value := range map[string]string{"causeway/invitations/v1/a": "1", "causeway/members/v1/west": "2", "cilium/state/x": "3"} {
		if err := etcd.Put(ctx, key, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	stop := one.start()
	if err := one.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}

	two, other := newPod(t, slots, t.TempDir(), prefixes).begin(), startEtcd(t)
	if err := other.Put(ctx, "causeway/members/v1/west", []byte("newer")); err != nil {
		t.Fatal(err)
	}
	if err := two.Fill(ctx, other); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"causeway/invitations/v1/a": "1", "causeway/members/v1/west": "newer", "cilium/state/x": ""} {
		got, found, err := other.Get(ctx, key)
		if err != nil || string(got) != want || found != (want != "") {
			t.Errorf("%s holds %q, want %q (%v)", key, got, want, err)
		}
	}
	if _, err := os.Stat(two.own(keysFile)); !os.IsNotExist(err) {
		t.Errorf("the keys would be put in again: %v", err)
	}
}
