package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/google/nftables"
	mdlayher "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// kernel is what the kernel is talked to by. All of it is opened at once, on one
// thread, so it stays with that thread's network namespace wherever it is used.
// It needs CAP_NET_ADMIN, and no writable /proc/sys.
type kernel struct {
	links  *netlink.Handle
	raw    map[int]*nl.SocketHandle
	filter *nftables.Conn
	events *nl.NetlinkSocket
	// namespace is for what has to be done by other programs.
	namespace   *os.File
	namespaceID string
}

// eventBuffer is for bursts of changes; what does not fit is noticed, not lost.
const eventBuffer = 1 << 20

// batchBuffer holds the largest netfilter table in one message, some 25,000
// ranges.
const batchBuffer = 16 << 20

// dumpTries is how often a list is read that changes while it is read.
const dumpTries = 5

func openKernel() (*kernel, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	k := &kernel{raw: map[int]*nl.SocketHandle{}}
	if err := k.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink: %w", err), k.close())
	}
	return k, nil
}

func (k *kernel) open() (err error) {
	if k.namespaceID, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if k.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	if k.links, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return err
	}
	for _, family := range []int{unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER} {
		socket, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), family)
		if err != nil {
			return err
		}
		k.raw[family] = &nl.SocketHandle{Socket: socket}
	}
	k.filter, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(conn *mdlayher.Conn) error {
		return errors.Join(conn.SetWriteBuffer(batchBuffer), conn.SetReadBuffer(batchBuffer))
	}))
	if err != nil {
		return err
	}
	k.events, err = nl.Subscribe(unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
		unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE)
	if err != nil {
		return err
	}
	return k.events.SetReceiveBufferSize(eventBuffer, true)
}

func (k *kernel) close() error {
	if k.links != nil {
		k.links.Close()
	}
	for _, socket := range k.raw {
		socket.Close()
	}
	if k.events != nil {
		k.events.Close()
	}
	var err error
	if k.filter != nil {
		err = k.filter.CloseLasting()
	}
	if k.namespace != nil {
		err = errors.Join(err, k.namespace.Close())
	}
	return err
}

// ask sends one request and returns the answers of type reply, 0 for whatever
// comes.
func (k *kernel) ask(family, request, flags int, reply uint16, data []byte) ([][]byte, error) {
	req := nl.NewNetlinkRequest(request, flags)
	req.Sockets = k.raw
	req.AddRawData(data)
	return req.Execute(family, reply)
}

// dump calls list again while it was interrupted by a change.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for try := 1; ; try++ {
		items, err := list()
		if err == nil || try == dumpTries || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return items, err
		}
	}
}

// Of enum IPV4_DEVCONF_ in linux/ip.h and NETCONFA_ in linux/netconf.h.
const (
	devconfForwarding = 1
	devconfRPFilter   = 8

	netconfIndex      = 1
	netconfForwarding = 2
	netconfRPFilter   = 3
	netconfAll        = -1
)

// settings are those of a device, or of all of them.
type settings struct{ forwarding, rpFilter int }

// settings reads what /proc/sys/net would say.
func (k *kernel) settings(family uint8, index int) (settings, error) {
	data := []byte{family, 0, 0, 0}
	data = append(data, attribute(netconfIndex, binary.NativeEndian.AppendUint32(nil, uint32(int32(index))))...)
	answers, err := k.ask(unix.NETLINK_ROUTE, unix.RTM_GETNETCONF, 0, unix.RTM_NEWNETCONF, data)
	if err != nil || len(answers) == 0 {
		return settings{}, fmt.Errorf("read network settings: %w", err)
	}
	found, err := nl.ParseRouteAttrAsMap(answers[0][4:])
	if err != nil {
		return settings{}, fmt.Errorf("read network settings: %w", err)
	}
	value := func(kind uint16) int {
		if a, ok := found[kind]; ok && len(a.Value) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(a.Value)))
		}
		return 0
	}
	return settings{value(netconfForwarding), value(netconfRPFilter)}, nil
}

// set writes settings of a device's IPv4. By netlink, as a container may not
// write /proc/sys.
func (k *kernel) set(index int, s settings) error {
	var values []byte
	for kind, value := range map[uint16]int{devconfForwarding: s.forwarding, devconfRPFilter: s.rpFilter} {
		values = append(values, attribute(kind, binary.NativeEndian.AppendUint32(nil, uint32(value)))...)
	}
	spec := attribute(unix.IFLA_AF_SPEC, attribute(unix.AF_INET, attribute(unix.IFLA_INET_CONF, values)))
	message := nl.NewIfInfomsg(unix.AF_UNSPEC)
	message.Index = int32(index)
	_, err := k.ask(unix.NETLINK_ROUTE, unix.RTM_SETLINK, unix.NLM_F_ACK, 0, append(message.Serialize(), spec...))
	return err
}

// attribute returns one netlink attribute, padded.
func attribute(kind uint16, value []byte) []byte {
	return nl.NewRtAttr(int(kind), value).Serialize()
}
