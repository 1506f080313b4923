package packet

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

const (
	// testTries is how many frames are sent before none is said to arrive, and
	// testLimit how long each has: what comes in waits in a queue with what comes
	// from everywhere else, and is lost where that is full.
	testTries = 3
	testLimit = 300 * time.Millisecond
	testPause = 2 * time.Millisecond
	// testLength is what the shortest frame of Ethernet has.
	testLength = 60
)

// selfTest sends a frame through each end of the device and returns an error
// unless the program there has counted it. The programs drop such frames, so
// nothing leaves the node. The device must be up. It needs no lock, as
// it only reads a counter; the caller is in the device's namespace.
func (p *Plane) selfTest(ctx context.Context, device int) error {
	for _, d := range []Direction{ToMesh, FromMesh} {
		if err := p.testEnd(ctx, device, d); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plane) testEnd(ctx context.Context, device int, d Direction) error {
	before, err := p.tested(d)
	if err != nil {
		return err
	}
	for range testTries {
		if err := inject(device, d); err != nil {
			return fmt.Errorf("send a frame to %s: %w", d, err)
		}
		if arrived, err := p.arrives(ctx, d, before); err != nil || arrived {
			return err
		}
	}
	return fmt.Errorf("%d frames to %s: %w", testTries, d, ErrNotReached)
}

// arrives waits until the program has counted more frames than before.
func (p *Plane) arrives(ctx context.Context, d Direction, before uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, testLimit)
	defer cancel()
	for {
		now, err := p.tested(d)
		if err != nil || now > before {
			return true, err
		}
		if !retry.Sleep(ctx, testPause) {
			return false, nil
		}
	}
}

// tested returns how many frames of self-tests one program has counted.
func (p *Plane) tested(d Direction) (uint64, error) {
	c, err := p.count(d, SelfTest)
	return c.Packets, err
}

// inject sends a frame out by the device, or has it come in by it. Only the
// kernel's functions for programs do the latter, so a program does both, in a test
// run.
func inject(device int, d Direction) error {
	const ingress = 1 // BPF_F_INGRESS
	flags := int32(0)
	if d == FromMesh {
		flags = ingress
	}
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "self_test", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, int32(device)),
		asm.Mov.Imm(asm.R3, flags),
		asm.FnCloneRedirect.Call(),
		asm.Mov.Imm(asm.R0, 0), // what became of it is counted
		asm.Return(),
	}})
	if err != nil {
		return err
	}
	defer program.Close() // nothing has it
	frame := make([]byte, testLength)
	frame[0], frame[6] = 2, 2 // addresses of nobody
	binary.BigEndian.PutUint16(frame[12:], uint16(bpf.MeshPacketLayoutSELF_TEST_TYPE))
	_, err = program.Run(&ebpf.RunOptions{Data: frame})
	return err
}
