package packet

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How our filters are known. Of the filters of a device those of the lowest
// priority run first. On a device of ours nobody else should have any.
const (
	filterHandle   = 0x8473
	filterPriority = 1
	clsactHandle   = 0xffff0000
)

// dumpTries is how often a list is read that changes while it is read.
const dumpTries = 5

// filters are the programs of a device that run as filters of its clsact queueing
// discipline. The kernel keeps them with the device, so they need no pins.
type filters struct {
	name  string // of the device
	links *netlink.Handle
}

// openFilters opens what the kernel is talked to by. The device need not be there.
func openFilters(device string) (*filters, error) {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return &filters{device, links}, nil
}

func (f *filters) close() { f.links.Close() }

// device returns the device's index. The error wraps ErrDevice where that is the
// reason.
func (f *filters) device() (int, error) {
	index, _, err := f.find()
	return index, err
}

// find returns the device's index and flags.
func (f *filters) find() (int, net.Flags, error) {
	link, err := f.links.LinkByName(f.name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, 0, fmt.Errorf("device %s: %w", f.name, ErrDevice)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find device %s: %w", f.name, err)
	}
	return link.Attrs().Index, link.Attrs().Flags, nil
}

// at names a device for the library, which asks for no more than the index.
func at(device int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: device}}
}

// list returns the filters with programs at one end of a device, as they run.
func (f *filters) list(device int, parent uint32) ([]*netlink.BpfFilter, error) {
	all, err := f.links.FilterList(at(device), parent)
	for try := 1; try < dumpTries && errors.Is(err, netlink.ErrDumpInterrupted); try++ {
		all, err = f.links.FilterList(at(device), parent)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return nil, nil // no such queueing discipline, or device
	}
	if err != nil {
		return nil, fmt.Errorf("list filters: %w", err)
	}
	var programs []*netlink.BpfFilter
	for _, one := range all {
		if b, ok := one.(*netlink.BpfFilter); ok && b.Handle != 0 { // 0 stands for all of a priority
			programs = append(programs, b)
		}
	}
	return programs, nil
}

// first returns the program that runs first, 0 for none.
func (f *filters) first(device int, parent uint32) (ebpf.ProgramID, error) {
	all, err := f.list(device, parent)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	return ebpf.ProgramID(all[0].Id), nil
}

// filtered returns the device and the program of the hook's filter, 0 for none.
func (h *hook) filtered() (int, ebpf.ProgramID) {
	device, id, _ := h.readFilter() // what cannot be read is as if it were not there
	return device, id
}

// readFilter is filtered for those who have to know when that cannot be told.
func (h *hook) readFilter() (device int, id ebpf.ProgramID, err error) {
	if device, err = h.filters.device(); err != nil {
		return 0, 0, err
	}
	all, err := h.filters.list(device, h.parent)
	i := slices.IndexFunc(all, h.has)
	if err != nil || i < 0 {
		return 0, 0, err
	}
	return device, ebpf.ProgramID(all[i].Id), nil
}

func (h *hook) has(f *netlink.BpfFilter) bool {
	return f.Handle == filterHandle && f.Priority == filterPriority && f.DirectAction
}

func (h *hook) filter(device int) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: device, Handle: filterHandle, Parent: h.parent, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: -1, Name: h.name, DirectAction: true,
	}
}

// runFiltered puts the program in the place of the one that the filter has.
func (h *hook) runFiltered(device int) error {
	if at, running := h.filtered(); at == device && h.isProgram(running) {
		return nil
	}
	if err := h.filters.discipline(device); err != nil {
		return err
	}
	f := h.filter(device)
	f.Fd = h.program.FD()
	// The kernel replaces what has the same handle, under the eyes of those who
	// go through the list: a packet meets the one or the other.
	if err := h.filters.links.FilterReplace(f); err != nil {
		return fmt.Errorf("set the filter: %w", err)
	}
	return nil
}

// discipline makes sure that the device has a place for filters.
func (f *filters) discipline(device int) error {
	err := f.links.QdiscAdd(clsact(device))
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EEXIST) {
		there, listErr := f.links.QdiscList(at(device))
		if !slices.ContainsFunc(there, func(q netlink.Qdisc) bool { return q.Type() == "ingress" }) {
			return listErr
		}
		err = fmt.Errorf("another of kind ingress is in its place (tc qdisc del dev %s ingress): %w", f.name, err)
	}
	return fmt.Errorf("add queueing discipline clsact: %w", err)
}

func clsact(device int) netlink.Qdisc {
	return &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: device, Handle: clsactHandle, Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
}

// unfilter removes the hook's filter, and the place for filters with the last one;
// none is fine.
func (h *hook) unfilter(device int) error {
	all, err := h.filters.list(device, h.parent)
	if err != nil || !slices.ContainsFunc(all, h.has) {
		return err
	}
	if err := h.filters.links.FilterDel(h.filter(device)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove the filter: %w", err)
	}
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		left, err := h.filters.links.FilterList(at(device), parent)
		if err != nil || len(left) > 0 {
			return nil // somebody else uses it, or the device is gone
		}
	}
	if err := h.filters.links.QdiscDel(clsact(device)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove queueing discipline clsact: %w", err)
	}
	return nil
}
