// Package cgroup makes, empties and removes folders of the cgroup v2 tree.
package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNone is returned when no cgroup v2 tree can be used; it says what to do.
var ErrNone = errors.New("no writable cgroup v2 tree is mounted: mount one, for instance by mount -t cgroup2 none /sys/fs/cgroup")

// pollInterval is how often a condition of the kernel that sends no event is
// looked at again.
const pollInterval = 5 * time.Millisecond

// Root returns where this machine has its cgroup v2 tree; a hybrid one has it
// beside the trees of version 1.
func Root() (string, error) {
	found, err := mounted(2)
	if err == nil && len(found) == 0 {
		err = ErrNone
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

// Roots returns where this machine has trees that can be written, of both
// versions.
func Roots() ([]string, error) { return mounted(1, 2) }

func mounted(versions ...int) ([]string, error) {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	defer func() { _ = file.Close() }()
	return roots(file, versions...)
}

// roots takes the text of a mountinfo file: "id parent dev root point options
// optional... - type source options".
func roots(mountinfo io.Reader, versions ...int) ([]string, error) {
	var found []string
	lines := bufio.NewScanner(mountinfo)
	for lines.Scan() {
		place, kind, ok := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(place)
		if !ok || len(fields) < 6 || !strings.HasPrefix(fields[5], "rw") {
			continue
		}
		name, _, _ := strings.Cut(kind, " ")
		version := map[string]int{"cgroup": 1, "cgroup2": 2}[name]
		if slices.Contains(versions, version) {
			found = append(found, fields[4])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	return found, nil
}

// Kill ends every process in and beneath the folder and returns once none is
// left; zombies count as gone. A folder that is not there is no error.
func Kill(ctx context.Context, path string) error {
	err := writeExisting(filepath.Join(path, "cgroup.kill"), "1")
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("kill cgroup %q: the kernel has no cgroup.kill, which came with 5.14", path)
	}
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	return until(ctx, func() (bool, error) {
		empty, err := Empty(path)
		if errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
		return empty, err
	})
}

func writeExisting(path, text string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(text)
	return errors.Join(err, file.Close())
}

// Empty reports whether no live process is in or beneath the folder.
func Empty(path string) (bool, error) {
	events, err := os.ReadFile(filepath.Join(path, "cgroup.events"))
	if err != nil {
		return false, fmt.Errorf("read state of cgroup: %w", err)
	}
	return bytes.Contains(events, []byte("populated 0")), nil
}

// Remove removes the folder and all beneath it, which must be Empty. A folder
// that is not there is no error.
func Remove(ctx context.Context, path string) error {
	var folders []string
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			folders = append(folders, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list cgroup %q: %w", path, err)
	}
	for i := len(folders) - 1; i >= 0; i-- {
		if err := removeOne(ctx, folders[i]); err != nil {
			return err
		}
	}
	return nil
}

// removeOne tries again while the folder is busy: the kernel lets go of a dead
// process a little after it reports it dead.
func removeOne(ctx context.Context, path string) error {
	return until(ctx, func() (bool, error) {
		err := unix.Rmdir(path)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return true, nil
		case errors.Is(err, unix.EBUSY):
			return false, fmt.Errorf("remove cgroup %q: %w", path, err)
		}
		return true, fmt.Errorf("remove cgroup %q: %w", path, err)
	})
}

// until repeats try until it is done or ctx ends, and returns its last error.
func until(ctx context.Context, try func() (done bool, err error)) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		done, err := try()
		if done {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}
