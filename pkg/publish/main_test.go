package publish

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openEtcd serves an etcd of its own until the test ends.
func openEtcd(t *testing.T) *kvstore.Client {
	t.Helper()
	server := kvstore.NewServer(kvstore.ServerConfig{Dir: t.TempDir(), Logger: quiet()})
	run(t, server.Run)
	client, err := server.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	eventually(t, func() error { // a slow machine may not connect at the first attempt
		_, _, err := client.Get(t.Context(), "any")
		return err
	})
	return client
}

// run runs fn until the test ends and fails the test when it ends with an error.
// The func returned ends it earlier.
func run(t *testing.T, fn func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// eventually asks until got returns nil, and fails with its last error.
func eventually(t *testing.T, got func() error) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		err := got()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // between two looks; nothing depends on its length
	}
}
