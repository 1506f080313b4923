package packet

import (
	"errors"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Method is how programs are attached to the device.
type Method string

// The methods. What runs is the same, and what an agent attached by one of them
// the next one attaches by the other without a gap.
const (
	// Auto is TCX where the kernel has it, else Clsact.
	Auto Method = "auto"
	// TCX is by links of Linux 6.6.
	TCX Method = "tcx"
	// Clsact is by filters of the clsact queueing discipline.
	Clsact Method = "clsact"
)

// Valid reports whether m is one of them.
func (m Method) Valid() bool { return m == Auto || m == TCX || m == Clsact }

// Supported returns the method that Auto would take on this kernel. The error wraps
// ErrKernel where packets cannot be carried.
func Supported() (Method, error) { return choose(Auto) }

// choose returns the method to use, or ErrKernel where the programs could do
// nothing however they are attached.
func choose(m Method) (Method, error) {
	if knows, err := takesTunnelKey(tunnelKeyBytes); err != nil {
		return "", fmt.Errorf("try a tunnel key: %w", err)
	} else if !knows {
		return "", fmt.Errorf("%w: it takes no local address for a tunnel", ErrKernel)
	}
	if m != Auto && m != "" {
		return m, nil
	}
	has, err := hasTCX()
	if err != nil {
		return "", fmt.Errorf("try tcx: %w", err)
	}
	if has {
		return TCX, nil
	}
	return Clsact, nil
}

// hasTCX tries to attach a program to a device that cannot be.
func hasTCX() (bool, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if err != nil {
		return false, err
	}
	defer program.Close() // nothing has it
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: program, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		return true, l.Close()
	case errors.Is(err, unix.ENODEV):
		return true, nil
	case errors.Is(err, ebpf.ErrNotSupported):
		return false, nil
	}
	return false, err
}

// tunnelKeyBytes is the size of struct bpf_tunnel_key with the local address.
const tunnelKeyBytes = 44

// takesTunnelKey runs a program that gives a packet a tunnel key of that size: one
// that the kernel does not know is refused at each call, not when it is loaded.
func takesTunnelKey(size int16) (bool, error) {
	body := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for at := int16(0); at < size; at += 4 {
		body = append(body, asm.StoreImm(asm.RFP, at-size, 0, asm.Word))
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: append(body,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, int32(-size)),
		asm.Mov.Imm(asm.R3, int32(size)),
		asm.Mov.Imm(asm.R4, 0),
		asm.FnSkbSetTunnelKey.Call(),
		asm.Return(),
	)})
	if err != nil {
		return false, err
	}
	defer program.Close() // nothing has it
	result, err := program.Run(&ebpf.RunOptions{Data: make([]byte, 64)})
	return int32(result) == 0, err
}
