package pin

import "errors"

// Errors that callers tell apart; all are wrapped with what and where.
var (
	// ErrInUse is returned when another process has the bpffs folder.
	ErrInUse = errors.New("in use by another agent")
	// ErrFull is returned when a map has no room. What was in it before stays
	// as it was.
	ErrFull = errors.New("map is full: raise --map-capacity")
	// ErrBPFFS is returned when the folder for pins is not on a BPF file system.
	ErrBPFFS = errors.New("not on a BPF file system: mount one there (mount -t bpf bpf DIR), or name another with --bpffs-dir")
)
