package host_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
)

// TestHolder: who is in charge of a network namespace can be seen there and in no
// other, as long as Run runs; the next one in line takes over.
func TestHolder(t *testing.T) {
	a, b := newSide(t, "a", 1), newSide(t, "b", 2)
	first, second, elsewhere := a.openHost(host.Config{}), a.openHost(host.Config{}), b.openHost(host.Config{})
	want := func(h *host.Host, want bool) {
		t.Helper()
		await(t, func() string {
			pid, held, err := h.Holder()
			if held != want || err != nil || (pid == os.Getpid()) != want {
				return fmt.Sprintf("process %d, held %t, %v; want %t", pid, held, err, want)
			}
			return ""
		})
	}
	want(second, false)
	run := func(h *host.Host) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- h.Run(ctx) }()
		return func() {
			cancel()
			must(t, <-done)
		}
	}
	stopFirst := run(first)
	want(second, true)
	stopSecond := run(second)
	stopFirst()
	want(first, true)
	want(elsewhere, false)
	stopSecond()
	want(first, false)
}
