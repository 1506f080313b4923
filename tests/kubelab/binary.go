package kubelab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Version is the Kubernetes that the binary is.
const Version = "v1.36.1"

// module is where the binary's source is, relative to the repository's root.
const module = "tests/kubernetes"

// kept is how many binaries stay in the cache: enough for a change of branches.
const kept = 3

// ErrNotBuilt says that the binary of the present source is not in the cache.
var ErrNotBuilt = errors.New("the Kubernetes binary for tests is not built: make kubernetes (minutes, once)")

// linkFlags leave symbols out, and set what a released Kubernetes knows of itself.
func linkFlags() string {
	const set = " -X k8s.io/component-base/version.gitVersion=" + Version +
		" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36" +
		" -X k8s.io/client-go/pkg/version.gitVersion=" + Version
	return "-s -w" + set
}

// Binary returns the path of the multi-call binary, whose first argument names
// the program. It builds nothing: the error wraps ErrNotBuilt when Build has to.
func Binary(ctx context.Context) (string, error) {
	path, _, err := locate(ctx)
	if err != nil {
		return "", err
	}
	switch _, err := os.Stat(path); {
	case errors.Is(err, os.ErrNotExist):
		return "", ErrNotBuilt
	case err != nil:
		return "", fmt.Errorf("find the Kubernetes binary: %w", err)
	}
	return path, nil
}

// Build makes the binary unless it is there and returns its path. It takes
// minutes of all processors when nothing of it is in Go's cache; several
// processes may call it, and one of them does the work. Progress goes to say.
func Build(ctx context.Context, say io.Writer) (string, error) {
	path, source, err := locate(ctx)
	if err != nil {
		return "", err
	}
	cache := filepath.Dir(path)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache of binaries: %w", err)
	}
	unlock, err := lock(filepath.Join(cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		now := time.Now() // the last one in use goes last
		return path, os.Chtimes(path, now, now)
	}
	fmt.Fprintf(say, "building Kubernetes %s for tests into %s: minutes the first time\n", Version, cache)
	draft := path + ".draft"
	cmd := exec.CommandContext(ctx, "nice", "go", "build", "-ldflags", linkFlags(), "-o", draft, ".")
	cmd.Dir = source
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w:\n%s", source, err, text)
	}
	if err := os.Rename(draft, path); err != nil {
		return "", fmt.Errorf("keep the Kubernetes binary: %w", err)
	}
	return path, prune(cache)
}

// locate returns the path under which the binary of the present source is kept,
// whether it is there or not, and the folder of the source.
func locate(ctx context.Context) (path, source string, err error) {
	root, err := repository()
	if err != nil {
		return "", "", err
	}
	source = filepath.Join(root, filepath.FromSlash(module))
	sum, err := fingerprint(ctx, source)
	if err != nil {
		return "", "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", "", fmt.Errorf("find the cache of binaries: %w", err)
	}
	return filepath.Join(cache, "causeway", "kubernetes", "kubernetes-"+sum), source, nil
}

// fingerprint is made of all that goes into the binary.
func fingerprint(ctx context.Context, source string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOOS", "GOARCH", "CGO_ENABLED", "GOFLAGS")
	cmd.Dir = source
	environment, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go env: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(source, "*.go"))
	if err != nil {
		return "", err
	}
	files = append(files, filepath.Join(source, "go.mod"), filepath.Join(source, "go.sum"))
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\x00%s\x00", environment, linkFlags())
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("read the source of the Kubernetes binary: %w", err)
		}
		fmt.Fprintf(sum, "%s\x00%d\x00%s", filepath.Base(file), len(text), text)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:16]), nil
}

// prune removes all binaries but those used last. What a process still runs
// lives until it ends.
func prune(cache string) error {
	files, err := filepath.Glob(filepath.Join(cache, "kubernetes-*"))
	if err != nil {
		return err
	}
	age := map[string]time.Time{}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return fmt.Errorf("prune the cache of binaries: %w", err)
		}
		age[file] = info.ModTime()
	}
	slices.SortFunc(files, func(a, b string) int { return age[b].Compare(age[a]) })
	for _, file := range files[min(kept, len(files)):] {
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("prune the cache of binaries: %w", err)
		}
	}
	return nil
}

// repository finds the folder of the product's go.mod, from the working
// directory upwards.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/causeway-mesh/causeway\n") {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("find the repository: no go.mod of it in the working directory or above")
		}
		dir = parent
	}
}

// lock waits for the lock of a file and returns what lets it go.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a lock: %w", err)
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if err == nil {
			return func() { _ = file.Close() }, nil
		}
		if !errors.Is(err, unix.EINTR) {
			_ = file.Close()
			return nil, fmt.Errorf("lock %q: %w", path, err)
		}
	}
}
