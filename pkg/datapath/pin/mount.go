package pin

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Mount mounts a BPF file system on dir, which exists, unless one is there, and
// reports whether it had to. It takes CAP_SYS_ADMIN. Who else sees the mount is
// decided by the propagation of the one below it.
func Mount(dir string) (mounted bool, err error) {
	err = checkBPFFS(dir)
	if err == nil || !errors.Is(err, ErrBPFFS) {
		return false, err
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return false, fmt.Errorf("mount a BPF file system on %s: %w", dir, err)
	}
	return true, nil
}
