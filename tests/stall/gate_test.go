package stall

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// agentVariable names the program that gate runs.
const agentVariable = "STALL_AGENT"

// The commands of bpf(2) that write a map.
const (
	mapUpdate      = 2
	mapDelete      = 3
	mapUpdateBatch = 26
	mapDeleteBatch = 27
)

// The kernel's interface to who answers for held system calls, see seccomp_unotify(2).
const (
	notifyReceive  = 0xc0502100
	notifySend     = 0xc0182101
	notifyContinue = 1
)

type notification struct {
	id         uint64
	pid, flags uint32
	number     int32
	arch       uint32
	pointer    uint64
	args       [6]uint64
}

type response struct {
	id         uint64
	value      int64
	err, flags int32
}

// gate runs the agent with a filter by which each call that writes a map waits
// for this process to let it pass, which it does at once. While this process
// stands still, so do the agent's maps, and nothing else of it.
func gate(args []string) int {
	runtime.LockOSThread() // the filter is this thread's, and the child inherits it
	listener, err := holdMapWrites()
	if err != nil {
		fmt.Fprintln(os.Stderr, "hold the writes of maps:", err)
		return 1
	}
	agent := exec.Command(os.Getenv(agentVariable), args...)
	agent.Stdout, agent.Stderr = os.Stdout, os.Stderr
	agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := agent.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go letPass(listener)
	if err := agent.Wait(); err != nil {
		return 1
	}
	return 0
}

// holdMapWrites filters this thread and what it starts, and returns who is asked.
func holdMapWrites() (listener int, err error) {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret    = unix.BPF_RET | unix.BPF_K
		number = 0  // of the system call, in what the filter sees
		first  = 16 // its first argument, on a little endian machine
	)
	filter := []unix.SockFilter{
		{Code: load, K: number},
		{Code: equal, K: unix.SYS_BPF, Jf: 5},
		{Code: load, K: first},
		{Code: equal, K: mapUpdate, Jt: 4},
		{Code: equal, K: mapDelete, Jt: 3},
		{Code: equal, K: mapUpdateBatch, Jt: 2},
		{Code: equal, K: mapDeleteBatch, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, failed := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&program)))
	if failed != 0 {
		return 0, failed
	}
	unix.CloseOnExec(int(fd))
	return int(fd), nil
}

// letPass answers for the calls that wait until nobody is left who could make one.
func letPass(listener int) {
	for {
		var n notification
		_, _, failed := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifyReceive, uintptr(unsafe.Pointer(&n)))
		switch {
		case errors.Is(failed, unix.EINTR), errors.Is(failed, unix.ENOENT): // the caller was interrupted, and asks again
			continue
		case failed != 0:
			fmt.Fprintln(os.Stderr, "receive what waits:", failed)
			return
		}
		pass := response{id: n.id, flags: notifyContinue}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifySend, uintptr(unsafe.Pointer(&pass)))
	}
}
