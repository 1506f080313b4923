package host

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// loose is the value of rp_filter that lets a packet in when its source is
// reachable at all. What may come through the tunnel is checked by our programs;
// a strict look would ask a `from` rule of a CNI's for the way back.
const loose = 2

// addressModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addressModeNone = 1

// hardwareAddress returns what the device is called on its link. It is given, not
// drawn, because what was drawn is changed by systemd-udevd; and it is another on
// each node, because the kernel drops what comes from its own.
func hardwareAddress(mesh []netip.Addr) net.HardwareAddr {
	digest := sha256.New()
	for _, a := range mesh {
		digest.Write(a.AsSlice())
	}
	address := net.HardwareAddr(digest.Sum(nil)[:6])
	address[0] = address[0]&^1 | 2 // one station's, administered locally
	return address
}

// fits reports whether the device is what we would make, but for what can be
// changed in place.
func fits(device *netlink.Vxlan, port uint16) bool {
	return device.FlowBased && device.Port == int(port) && !device.Learning && device.UDP6ZeroCSumRx
}

// unfinished reports whether the device is one that a process began to make and
// did not get to mark.
func unfinished(device *netlink.Vxlan, port uint16) bool {
	return fits(device, port) && device.Alias == "" && device.Flags&net.FlagUp == 0
}

// find returns the link of that name, nil when there is none.
func (k *kernel) find(name string) (netlink.Link, error) {
	link, err := k.links.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", name, err)
	}
	return link, nil
}

// ours returns all tunnel devices with our mark.
func (k *kernel) ours() ([]netlink.Link, error) {
	links, err := dump(k.links.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool {
		return l.Attrs().Alias != Mark || l.Type() != "vxlan"
	}), nil
}

// device makes sure of the tunnel device and returns it.
func (w *work) device() (*netlink.Vxlan, error) {
	name := w.config.Device
	link, err := w.kernel.find(name)
	if err != nil {
		return nil, err
	}
	device, _ := link.(*netlink.Vxlan)
	switch {
	case link == nil:
	case device == nil || (device.Alias != Mark && device.Index != w.host.index && !unfinished(device, w.desired.Port)):
		return nil, fmt.Errorf("device %s (%s, alias %q): %w", name, link.Type(), link.Attrs().Alias, ErrForeignDevice)
	case !fits(device, w.desired.Port):
		// Port and kind are for a device's life.
		if err := w.kernel.links.LinkDel(device); err != nil {
			return nil, fmt.Errorf("delete device %s, which has another port or kind: %w", name, err)
		}
		device = nil
	}
	if device == nil {
		if device, err = w.makeDevice(); err != nil {
			return nil, err
		}
		w.changed(Device, name)
	}
	w.host.index = device.Index
	if err := w.tune(device); err != nil {
		return nil, err
	}
	return device, nil
}

func (w *work) makeDevice() (*netlink.Vxlan, error) {
	// Another name in the flags leaves a device that has our port.
	old, err := w.kernel.ours()
	if err != nil {
		return nil, err
	}
	for _, link := range old {
		if err := w.kernel.links.LinkDel(link); err != nil {
			return nil, fmt.Errorf("delete device %s, which is ours under another name: %w", link.Attrs().Name, err)
		}
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU, attributes.HardwareAddr = w.config.Device, w.mtu, hardwareAddress(w.desired.Mesh)
	device := &netlink.Vxlan{
		LinkAttrs: attributes, FlowBased: true, Port: int(w.desired.Port),
		// A peer may leave out the checksum of UDP over IPv6 (RFC 6935).
		UDP6ZeroCSumRx: true,
	}
	if err := w.kernel.links.LinkAdd(device); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make device %s: %w", w.config.Device, w.portError())
		}
		return nil, fmt.Errorf("make device %s: %w", w.config.Device, err)
	}
	if err := w.kernel.links.LinkSetAlias(device, Mark); err != nil {
		return nil, fmt.Errorf("mark device %s: %w", w.config.Device, err)
	}
	// Without a link-local address the node sends no router solicitations and
	// the like into a tunnel that has nowhere to take them.
	if err := w.kernel.links.LinkSetIP6AddrGenMode(device, addressModeNone); err != nil && !noIPv6(err) {
		return nil, fmt.Errorf("IPv6 of device %s: %w", w.config.Device, err)
	}
	link, err := w.kernel.find(w.config.Device)
	if err != nil {
		return nil, err
	}
	made, ok := link.(*netlink.Vxlan)
	if !ok {
		return nil, fmt.Errorf("device %s went as soon as it was made", w.config.Device)
	}
	return made, nil
}

func (w *work) portError() error {
	return fmt.Errorf("UDP port %d: %w", w.desired.Port, ErrPort)
}

// tune changes in place what is not as wanted, but for whether the device is up.
func (w *work) tune(device *netlink.Vxlan) error {
	links, name := w.kernel.links, device.Name
	if device.Alias != Mark {
		if err := links.LinkSetAlias(device, Mark); err != nil {
			return fmt.Errorf("mark device %s: %w", name, err)
		}
		w.changed(DeviceConfig, name+" alias "+Mark)
	}
	if device.MTU != w.mtu {
		if err := links.LinkSetMTU(device, w.mtu); err != nil {
			return fmt.Errorf("MTU %d of device %s: %w", w.mtu, name, err)
		}
		w.config.Logger.Info("tunnel MTU", "device", name, "mtu", w.mtu, "before", device.MTU)
		if w.host.mtu == w.mtu { // it was so already, and somebody changed it
			w.changed(DeviceConfig, fmt.Sprintf("%s mtu %d", name, w.mtu))
		}
		device.MTU = w.mtu
	}
	if address := hardwareAddress(w.desired.Mesh); !bytes.Equal(device.HardwareAddr, address) {
		if err := links.LinkSetHardwareAddr(device, address); err != nil {
			return fmt.Errorf("address of device %s: %w", name, err)
		}
		w.changed(DeviceConfig, fmt.Sprintf("%s address %s", name, address))
	}
	if device.RawFlags&unix.IFF_NOARP == 0 {
		if err := links.LinkSetARPOff(device); err != nil {
			return fmt.Errorf("turn off ARP of device %s: %w", name, err)
		}
		w.changed(DeviceConfig, name+" noarp")
	}
	return w.tuneIPv4(device)
}

// up sets the device up. It takes packets from then on, so what judges them has
// to be there.
func (w *work) up(device *netlink.Vxlan) error {
	if device.Flags&net.FlagUp != 0 {
		return nil
	}
	if err := w.kernel.links.LinkSetUp(device); errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("set up device %s: %w", device.Name, w.portError())
	} else if err != nil {
		return fmt.Errorf("set up device %s: %w", device.Name, err)
	}
	w.changed(DeviceConfig, device.Name+" up")
	return nil
}

// tuneIPv4 lets packets be forwarded from the device and sees to its rp_filter.
// The kernel takes the greater of the device's and of all devices'.
func (w *work) tuneIPv4(device *netlink.Vxlan) error {
	if !w.hasFamily(false) {
		return nil
	}
	is, err := w.kernel.settings(unix.AF_INET, device.Index)
	if err != nil {
		return err
	}
	wanted := settings{forwarding: 1, rpFilter: loose}
	if is == wanted {
		return nil
	}
	if err := w.kernel.set(device.Index, wanted); err != nil {
		return fmt.Errorf("IPv4 settings of device %s: %w", device.Name, err)
	}
	w.changed(DeviceConfig, fmt.Sprintf("%s rp_filter %d, forwarding %d", device.Name, wanted.rpFilter, wanted.forwarding))
	return nil
}

// forwarding reports nodes that forward nothing: what is set for all devices
// changes too much else (with IPv6, whether routes are learnt) to be set here.
func (w *work) forwarding() error {
	for _, family := range []struct {
		v6     bool
		number uint8
		sysctl string
	}{
		{false, unix.AF_INET, "net.ipv4.ip_forward"},
		{true, unix.AF_INET6, "net.ipv6.conf.all.forwarding"},
	} {
		if !w.hasFamily(family.v6) {
			continue
		}
		is, err := w.kernel.settings(family.number, netconfAll)
		if err != nil {
			return err
		}
		if is.forwarding == 0 {
			w.problem(Problem{
				What:  "the node forwards no packets of this family, so pods reach no peer",
				Where: family.sysctl + " is 0",
				Do:    "set it to 1 (for IPv6 also accept_ra=2 on devices that learn their routes)",
			})
		}
	}
	return nil
}

// addresses gives the device this node's mesh addresses.
func (w *work) addresses(device *netlink.Vxlan) (stale []netlink.Addr, err error) {
	is, err := w.kernel.addresses(device)
	if err != nil {
		return nil, err
	}
	missing := slices.Clone(w.desired.Mesh)
	for _, a := range is {
		address, ok := netip.AddrFromSlice(a.IP)
		bits, _ := a.Mask.Size()
		if i := slices.Index(missing, address.Unmap()); ok && i >= 0 && bits == missing[i].BitLen() {
			missing = slices.Delete(missing, i, i+1)
			continue
		}
		if address.Unmap().IsLinkLocalUnicast() {
			continue // the kernel's
		}
		stale = append(stale, a)
	}
	for _, address := range missing {
		if address.Is6() && w.noIPv6 {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(hostPrefix(address))}
		if address.Is6() {
			a.Flags = unix.IFA_F_NODAD // nobody else can have it, and it is needed at once
		}
		err := w.kernel.links.AddrReplace(device, a)
		if address.Is6() && noIPv6(err) {
			w.withoutIPv6(device.Name)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("add address %s to %s: %w", address, device.Name, err)
		}
		w.changed(Address, fmt.Sprintf("%s dev %s", hostPrefix(address), device.Name))
	}
	return stale, nil
}

// noIPv6 reports whether the kernel has no IPv6, or none on that device.
func noIPv6(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)
}

// withoutIPv6 has the rest of the pass do without: IPv4 goes on.
func (w *work) withoutIPv6(device string) {
	w.noIPv6 = true
	w.problem(Problem{
		What:  "IPv6 is turned off, so peers are reached by IPv4 alone",
		Where: fmt.Sprintf("net.ipv6.conf.%s.disable_ipv6", device),
		Do:    "set it to 0, and that of default, if this cluster has IPv6; otherwise give it no IPv6 range in --mesh-cidr",
	})
}

func (k *kernel) addresses(link netlink.Link) ([]netlink.Addr, error) {
	addresses, err := dump(func() ([]netlink.Addr, error) { return k.links.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	return addresses, nil
}

// dropAddresses takes addresses away that are ours no more. It comes last: the
// kernel deletes the routes that name them.
func (w *work) dropAddresses(device *netlink.Vxlan, stale []netlink.Addr) error {
	for i := range stale {
		if err := w.kernel.links.AddrDel(device, &stale[i]); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("delete address %s of %s: %w", stale[i].IPNet, device.Name, err)
		}
		w.changed(Address, fmt.Sprintf("%s dev %s", stale[i].IPNet, device.Name))
	}
	return nil
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf returns what the library has as an IPNet, where nil is everything.
func prefixOf(n *net.IPNet, v6 bool) netip.Prefix {
	if n == nil {
		if v6 {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	address, _ := netip.AddrFromSlice(n.IP)
	if !v6 {
		address = address.Unmap()
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(address, bits)
}
