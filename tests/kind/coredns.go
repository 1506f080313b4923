package kind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNotBuilt says that a program is not in the cache.
var ErrNotBuilt = errors.New("CoreDNS for tests is not built: go run ./tests/kind/build coredns (minutes, once)")

// CoreDNS returns the path of the CoreDNS that the clusters run. When it is not there,
// it is built if progress can go to say, else the error wraps ErrNotBuilt.
func CoreDNS(ctx context.Context, say io.Writer) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache of clusters' parts: %w", err)
	}
	c := cache{dir: filepath.Join(dir, "causeway", "kind"), say: say}
	if say == nil {
		found, _ := filepath.Glob(filepath.Join(c.dir, "coredns-*")) // the pattern is good; one is kept
		if len(found) == 0 {
			return "", ErrNotBuilt
		}
		return found[0], nil
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cache of clusters' parts: %w", err)
	}
	held, err := lockFile(filepath.Join(c.dir, "lock"), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer func() { _ = held.Close() }()
	return c.program(ctx, "coredns", corednsModule, "0")
}
