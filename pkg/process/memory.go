package process

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// HideMemory keeps the memory of this process, in which there are private keys, out
// of core dumps, and away from other processes of the same user: no core is written
// to a file or handed to a program, and only root may attach. What it could not do is
// in the error; nothing else depends on it.
func HideMemory() error {
	var errs []error
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		errs = append(errs, fmt.Errorf("limit core dumps to nothing: %w", err))
	}
	// The limit is not asked where cores go to a program.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		errs = append(errs, fmt.Errorf("turn core dumps off: %w", err))
	}
	return errors.Join(errs...)
}
