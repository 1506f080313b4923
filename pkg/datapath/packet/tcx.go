package packet

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
)

// linked returns the device and the program of the hook's link, 0 for none: a
// device that was removed takes its programs along, the link stays.
func (h *hook) linked() (int, ebpf.ProgramID) {
	if h.link == nil {
		return 0, 0
	}
	info, err := h.link.Info()
	if err != nil || info.TCX() == nil {
		return 0, 0
	}
	return int(info.TCX().Ifindex), info.Program
}

// runLinked puts the program in the place of the one that the link has. Only where
// there is no link, or its device is another or gone, is a new one made, and before
// the old one goes.
func (h *hook) runLinked(device int, pinAt string) error {
	if at, running := h.linked(); at == device {
		if h.isProgram(running) {
			return nil
		}
		if err := h.link.Update(h.program); !errors.Is(err, unix.ENOLINK) {
			return err
		}
	}
	made, err := link.AttachTCX(link.TCXOptions{Interface: device, Program: h.program, Attach: h.attach, Anchor: link.Head()})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%w by tcx (Linux 6.6 has it): %w", ErrKernel, err)
	}
	if err != nil {
		return err
	}
	defer made.Close() // the pin keeps it; without one this takes it back
	h.link, err = pin.ReplaceLink(made, h.link, pinAt)
	return err
}

// unlink detaches the hook's link, wherever else it may be pinned, and removes its
// pin; none is fine.
func (h *hook) unlink(pinAt string) error {
	if err := os.Remove(pinAt); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin: %w", err)
	}
	if h.link == nil {
		return nil
	}
	if err := h.link.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return fmt.Errorf("detach %s: %w", h.name, err)
	}
	_ = h.link.Close() // nothing depends on it
	h.link = nil
	return nil
}

// firstLinked returns the program that tcx runs first, 0 for none.
func firstLinked(device int, attach ebpf.AttachType) (ebpf.ProgramID, error) {
	chain, err := link.QueryPrograms(link.QueryOptions{Target: device, Attach: attach})
	if err != nil || len(chain.Programs) == 0 {
		return 0, err
	}
	return chain.Programs[0].ID, nil
}
