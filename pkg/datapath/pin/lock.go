// Package pin holds what every user of a folder of pinned maps and links needs:
// the right to be the only one, maps whose layout is the expected one, and many
// entries in one system call.
package pin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LockFolder makes dir if need be and locks it until the file is closed or the
// process ends. The error wraps ErrBPFFS or ErrInUse where that is the reason.
func LockFolder(dir string) (*os.File, error) {
	if err := checkBPFFS(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for pins: %w", err)
	}
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder for pins: %w", err)
	}
	if err := lockFile(file); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, err), file.Close())
	}
	return file, nil
}

// checkBPFFS looks at dir, or what there is above it: nothing is made on another
// file system.
func checkBPFFS(dir string) error {
	var fs unix.Statfs_t
	above, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("folder for pins: %w", err)
	}
	for {
		err = unix.Statfs(above, &fs)
		if !errors.Is(err, unix.ENOENT) || above == filepath.Dir(above) {
			break
		}
		above = filepath.Dir(above)
	}
	if err != nil {
		return fmt.Errorf("file system of %s: %w", above, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s: %w", dir, ErrBPFFS)
	}
	return nil
}

func lockFile(file *os.File) error {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}
