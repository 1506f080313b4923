package datapath

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Answer is what a probe found out.
type Answer int

// The answers. Unknown means that the probe itself went wrong: what it asked
// for is then tried, and the kernel's own error is shown.
const (
	Unknown Answer = iota
	Yes
	No
)

// String returns yes, no or unknown.
func (a Answer) String() string { return [...]string{"unknown", "yes", "no"}[a] }

// Features is what the kernel can do of what the data plane asks for.
type Features struct {
	Connect4 Answer // the hook of connect() on IPv4 sockets
	Connect6 Answer // the same for IPv6; a kernel without IPv6 lacks it
	Datagram Answer // the hooks of UDP sockets that are not connected (5.2)
	Release  Answer // the hook of a socket's end (5.9)
	PeerName Answer // the hook of getpeername() (5.8)
	Retval   Answer // hooks that choose the error of a refusal (5.18)
	Link     Answer // links to cgroups, which can be pinned and updated (5.7)
	Batch    Answer // many map entries a system call (5.6)
	// Err is the first error that made an answer Unknown.
	Err error
}

// decide returns what runs on a kernel with these features, or one error that
// names all that is missing. It is pure.
func (f Features) decide(reverse Reverse) (Features, error) {
	var missing []string
	for _, need := range []struct {
		answer Answer
		what   string
	}{
		{f.Connect4, "socket hooks for connect (CONFIG_CGROUP_BPF)"},
		{f.Datagram, "socket hooks for UDP"},
		{f.Release, "socket hook for the end of a socket"},
		{f.Link, "links to cgroups"},
		{f.Batch, "batches of map entries"},
	} {
		if need.answer == No {
			missing = append(missing, need.what)
		}
	}
	if reverse == ReverseAll && f.PeerName == No {
		missing = append(missing, "socket hooks for getpeername (leave out --getpeername=service)")
	}
	if len(missing) > 0 {
		return f, fmt.Errorf("no %s: %w", strings.Join(missing, ", no "), ErrKernel)
	}
	if errors.Is(f.Err, unix.EPERM) {
		return f, fmt.Errorf("probe the kernel: run as root, or with CAP_BPF and CAP_NET_ADMIN: %w", f.Err)
	}
	return f, nil
}

// Supported returns one error that names all that the kernel lacks of what every
// node needs, nil when it lacks nothing. It wraps ErrKernel, or says what a process
// needs to find out.
func (f Features) Supported() error {
	_, err := f.decide(ReverseUDP)
	return err
}

// Probe asks the kernel, by trying each feature on something that is thrown away.
func Probe() Features {
	var f Features
	note := func(answer Answer, err error) Answer {
		if answer == Unknown && f.Err == nil {
			f.Err = err
		}
		return answer
	}
	var program *ebpf.Program
	program, answer, err := probeHook(ebpf.AttachCGroupInet4Connect, asm.Mov.Imm(asm.R0, 1))
	f.Connect4 = note(answer, err)
	if program != nil {
		f.Link = note(probeLink(program))
		_ = program.Close() // thrown away
	}
	for _, probe := range []struct {
		answer *Answer
		attach ebpf.AttachType
		body   asm.Instructions
	}{
		{&f.Connect6, ebpf.AttachCGroupInet6Connect, nil},
		{&f.Datagram, ebpf.AttachCGroupUDP4Recvmsg, nil},
		{&f.Release, ebpf.AttachCgroupInetSockRelease, nil},
		{&f.PeerName, ebpf.AttachCgroupInet4GetPeername, nil},
		{&f.Retval, ebpf.AttachCGroupInet4Connect, asm.Instructions{asm.Mov.Imm(asm.R1, 0), asm.FnSetRetval.Call()}},
	} {
		program, answer, err := probeHook(probe.attach, append(probe.body, asm.Mov.Imm(asm.R0, 1))...)
		*probe.answer = note(answer, err)
		if program != nil {
			_ = program.Close() // thrown away
		}
	}
	f.Batch = note(probeBatch())
	return f
}

// probeHook loads a program of this body for a hook.
func probeHook(attach ebpf.AttachType, body ...asm.Instruction) (*ebpf.Program, Answer, error) {
	kind := ebpf.CGroupSockAddr
	if attach == ebpf.AttachCgroupInetSockRelease {
		kind = ebpf.CGroupSock
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: kind, AttachType: attach, License: "Dual BSD/GPL",
		Instructions: append(body, asm.Return()),
	})
	switch {
	case err == nil:
		return program, Yes, nil
	case errors.Is(err, unix.EINVAL):
		return nil, No, nil
	}
	return nil, Unknown, err
}

// probeLink attaches to what is no cgroup: a kernel that knows links to cgroups
// says so, one that does not rejects the whole request.
func probeLink(program *ebpf.Program) (Answer, error) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		return Unknown, err
	}
	defer file.Close() // read only
	l, err := link.AttachRawLink(link.RawLinkOptions{
		Target: int(file.Fd()), Program: program, Attach: ebpf.AttachCGroupInet4Connect,
	})
	switch {
	case err == nil:
		return Yes, l.Close()
	case errors.Is(err, unix.EBADF):
		return Yes, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported):
		return No, nil
	}
	return Unknown, err
}

func probeBatch() (Answer, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 2})
	if err != nil {
		return Unknown, err
	}
	defer m.Close() // thrown away
	_, err = m.BatchUpdate([]uint32{1, 2}, []uint32{1, 2}, nil)
	switch {
	case err == nil:
		return Yes, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, ebpf.ErrNotSupported):
		return No, nil
	}
	return Unknown, err
}
