package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab/cgroup"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// The folder of all labs and what is in one lab's folder.
const (
	baseDir     = "/run/causeway-lab"
	groupPrefix = "causeway-lab-"
	lockFile    = "lock"
	keepFile    = "keep"
	groupFile   = "cgroup"
	spaceDir    = "net"
	bpfDir      = "bpf"
)

// errLocked says that a living process holds a lock.
var errLocked = errors.New("in use")

// Remove takes down one lab that was kept. One that a living process uses is
// refused.
func Remove(ctx context.Context, id string) error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	base, err := lockBase()
	if err != nil {
		return err
	}
	defer unlock(base)
	dir := filepath.Join(baseDir, filepath.Base(id))
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("find lab %q: %w", id, err)
	}
	return removeFree(ctx, dir)
}

// sweep takes down every lab whose process is gone, but for those that were
// kept. The base lock is held.
func sweep(ctx context.Context, log *slog.Logger) error {
	entries, err := os.ReadDir(baseDir)
	if err != nil {
		return fmt.Errorf("list labs: %w", err)
	}
	for _, entry := range entries {
		dir := filepath.Join(baseDir, entry.Name())
		if !entry.IsDir() {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, keepFile)); err == nil {
			continue
		}
		err := removeFree(ctx, dir)
		switch {
		case errors.Is(err, errLocked):
		case err != nil:
			return fmt.Errorf("take down lab %s, whose process is gone: %w", entry.Name(), err)
		default:
			log.Info("lab of a process that is gone taken down", "lab", entry.Name())
		}
	}
	return nil
}

// removeFree removes a lab unless a living process holds its lock.
func removeFree(ctx context.Context, dir string) error {
	lock, err := tryLock(filepath.Join(dir, lockFile))
	if err != nil {
		return err
	}
	defer unlock(lock)
	return remove(ctx, dir)
}

// remove takes down what the lab in dir made; its lock is held. Each step may
// find its work done: a crash can come between any two, in New and in here. The
// folder goes last, so that what is left is found again.
func remove(ctx context.Context, dir string) error {
	group, err := os.ReadFile(filepath.Join(dir, groupFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the lab's cgroup: %w", err)
	}
	if path := string(group); path != "" {
		// Never another's: the name is the lab's own.
		if filepath.Base(path) != groupPrefix+filepath.Base(dir) {
			return fmt.Errorf("%s names the cgroup %q, which is not the lab's", groupFile, path)
		}
		if err := cgroup.Kill(ctx, path); err != nil {
			return err
		}
		if err := cgroup.Remove(ctx, path); err != nil {
			return err
		}
	}
	if err := removeSpaces(filepath.Join(dir, spaceDir)); err != nil {
		return err
	}
	if err := unmount(filepath.Join(dir, bpfDir)); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the lab's folder: %w", err)
	}
	return nil
}

func removeSpaces(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list the lab's namespaces: %w", err)
	}
	for _, entry := range entries {
		if err := netspace.Remove(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// unmount ends the mount on dir; pins in a bpffs go with it.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %q: %w", dir, err)
	}
	return nil
}

// lockBase waits for the lock under which labs are claimed and swept.
func lockBase() (*os.File, error) {
	if err := os.MkdirAll(baseDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of labs: %w", err)
	}
	return lock(filepath.Join(baseDir, lockFile), 0)
}

// tryLock returns an error that wraps errLocked when another process holds it.
func tryLock(path string) (*os.File, error) { return lock(path, unix.LOCK_NB) }

func lock(path string, flag int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open a lock: %w", err)
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|flag)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return file, nil
	}
	_ = file.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = errLocked
	}
	return nil, fmt.Errorf("lock %q: %w", strings.TrimPrefix(path, baseDir+"/"), err)
}

// unlock lets a lock go by closing its file.
func unlock(file *os.File) { _ = file.Close() }
