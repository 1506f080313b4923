package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHideMemory: a daemon has its memory hidden before it does anything. The
// programs themselves are looked at in tests/canary.
func TestHideMemory(t *testing.T) {
	const child = "CAUSEWAY_TEST_MEMORY"
	if os.Getenv(child) != "" {
		os.Args = os.Args[:1]
		os.Exit(Main(Daemon{Name: "testd", Run: func(context.Context, *slog.Logger) error {
			var limit unix.Rlimit
			err := unix.Getrlimit(unix.RLIMIT_CORE, &limit)
			dumpable, dumpErr := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
			fmt.Println(dumpable, limit.Cur, limit.Max, errors.Join(err, dumpErr))
			return nil
		}}))
	}
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable != 1 {
		t.Fatalf("this process is not dumpable itself, which proves nothing: %d, %v", dumpable, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestHideMemory$")
	command.Env = append(os.Environ(), child+"=1")
	out, _ := command.Output() // that it ended without being told to is an error
	if string(out) != "0 0 0 <nil>\n" {
		t.Errorf("dumpable, limits of cores: %q, want 0 0 0", out)
	}
}
