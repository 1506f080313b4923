package datapath

import (
	"errors"

	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// Errors that callers tell apart; all are wrapped with what and where.
var (
	// ErrInUse is returned when another process has the bpffs folder.
	ErrInUse = pin.ErrInUse
	// ErrFull is returned when a map has no room. What was in the maps before
	// stays as it was.
	ErrFull = pin.ErrFull
	// ErrService is returned for a service that the maps cannot express.
	ErrService = errors.New("not a service that can be programmed")
	// ErrKernel is returned when the kernel lacks what the data plane needs.
	ErrKernel = errors.New("the kernel lacks what the data plane needs (Linux 5.10 or newer has it)")
	// ErrBPFFS is returned when the folder for pins is not on a BPF file system.
	ErrBPFFS = pin.ErrBPFFS
	// ErrNoMaps is returned when no agent has put maps where they are looked for.
	ErrNoMaps = errors.New("no maps are pinned there: run it as root on a node that an agent runs on, with the agent's --bpffs-dir")
	// ErrCgroup is returned when there is no cgroup to attach to.
	ErrCgroup = errors.New("no cgroup v2 hierarchy to attach to")
	// ErrSelfTest is returned when the hooks are attached and translate nothing.
	ErrSelfTest = errors.New("the socket hooks do not see this process: the cgroup they are attached to is not above it; name the host's cgroup v2 root with --cgroup-root")
)
