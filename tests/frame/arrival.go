package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// Outer is what a tunnel device tells of the packet around a packet.
type Outer struct {
	Source netip.Addr
	// Number is the one of the tunnel's network: an identity.
	Number uint32
}

// Random has the lowest bits of an address in the frame drawn for each run: the
// four bytes at Offset become Base plus a number that Mask lets through.
type Random struct {
	Offset, Base, Mask uint32
}

// Arrival runs a program on frames as if they had come out of a tunnel, or, with
// a zero Outer, as they are.
//
// A test run has no tunnel device. But the kernel notes a tunnel for a packet
// that is about to enter one in the same place, and bpf_skb_get_tunnel_key does
// not ask which way it was meant. So a program of this package notes one whose
// local address is the outer source, and then gives way to the program.
type Arrival struct {
	program *ebpf.Program
	target  *ebpf.Map
}

const tunnelKeySize = 44

// NewArrival prepares runs of a program that was loaded for that attach type.
func NewArrival(program *ebpf.Program, attach ebpf.AttachType, outer Outer, random *Random) (*Arrival, error) {
	target, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make map of programs: %w", err)
	}
	body := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	if random != nil {
		body = append(body, random.instructions()...)
	}
	if outer.Source.IsValid() {
		body = append(body, outer.instructions()...)
	}
	body = append(body,
		asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, target.FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, notReached).WithSymbol("fail"), asm.Return(),
	)
	made, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "arrive", Type: ebpf.SchedCLS, AttachType: attach, License: "GPL", Instructions: body})
	if err == nil {
		err = target.Put(uint32(0), program)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a tunnel: %w", err), target.Close())
	}
	return &Arrival{made, target}, nil
}

// notReached is what a run returns when the program did not run.
const notReached = 77

var errNotReached = errors.New("no tunnel could be noted, or the program is not there")

// Run runs the program on a frame and returns its verdict.
func (a *Arrival) Run(frame []byte) (verdict int32, err error) {
	result, err := a.program.Run(&ebpf.RunOptions{Data: frame})
	if err == nil && result == notReached {
		err = errNotReached
	}
	return int32(result), err
}

// Bench returns the mean time of a run in ns.
func (a *Arrival) Bench(frame []byte, repeat int) (float64, error) {
	verdict, took, err := a.program.Benchmark(frame, repeat, nil)
	if err == nil && verdict == notReached {
		err = errNotReached
	}
	return float64(took.Nanoseconds()), err
}

// Close gives the program up.
func (a *Arrival) Close() error { return errors.Join(a.program.Close(), a.target.Close()) }

// instructions draw an address.
func (r *Random) instructions() asm.Instructions {
	return asm.Instructions{
		asm.FnGetPrandomU32.Call(),
		asm.And.Imm32(asm.R0, int32(r.Mask)),
		asm.Add.Imm32(asm.R0, int32(r.Base)),
		asm.HostTo(asm.BE, asm.R0, asm.Word),
		asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, int32(r.Offset)),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, -4),
		asm.Mov.Imm(asm.R4, 4),
		asm.Mov.Imm(asm.R5, 0),
		asm.FnSkbStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "fail"),
	}
}

// instructions note the tunnel. The key is as the kernel has it: IPv4 in host
// order, IPv6 in the network's.
func (o Outer) instructions() asm.Instructions {
	var key [tunnelKeySize]byte
	flags := int32(0)
	binary.NativeEndian.PutUint32(key[0:], o.Number)
	if o.Source.Is4() {
		local := o.Source.As4()
		binary.NativeEndian.PutUint32(key[28:], binary.BigEndian.Uint32(local[:]))
		binary.NativeEndian.PutUint32(key[4:], 1<<24) // to some other
	} else {
		local := o.Source.As16()
		copy(key[28:], local[:])
		key[4] = 0x20
		flags = 1 // BPF_F_TUNINFO_IPV6
	}
	var list asm.Instructions
	for i := 0; i < tunnelKeySize; i += 4 {
		list = append(list, asm.StoreImm(asm.RFP, int16(i-48), int64(int32(binary.NativeEndian.Uint32(key[i:]))), asm.Word))
	}
	return append(list,
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -48),
		asm.Mov.Imm(asm.R3, tunnelKeySize),
		asm.Mov.Imm(asm.R4, flags),
		asm.FnSkbSetTunnelKey.Call(),
		asm.JNE.Imm(asm.R0, 0, "fail"),
		// The device says that the frame is for another machine, each time.
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 3), // PACKET_OTHERHOST
		asm.FnSkbChangeType.Call(),
		asm.JNE.Imm(asm.R0, 0, "fail"),
	)
}
