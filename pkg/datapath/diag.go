package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// endSockets ends the sockets of wanted in whatever network namespace of this
// machine they are: their owners get ECONNABORTED. Those are taken out of wanted:
// what is left in it was not found.
//
// It goes by sock_diag: that is there since Linux 4.5, needs no BTF, and says
// which sockets it means by address and cookie, so it can meet no other.
func endSockets(wanted map[socket]bool) (err error) {
	onOwnThread(func() { err = endEverywhere(wanted) })
	return err
}

// onOwnThread runs fn on a thread that ends after it, so that it may change the
// thread's namespace. The first thread never ends, and its namespace is what
// others see as the process': it is passed over.
func onOwnThread(fn func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onOwnThread(fn)
			runtime.UnlockOSThread()
			return
		}
		fn()
	}()
	<-done
}

// endEverywhere looks into one namespace after the other until all are found:
// those of processes first, then those that only a thread is in.
func endEverywhere(wanted map[socket]bool) error {
	seen := map[string]bool{}
	var errs []error
	for _, pattern := range []string{"/proc/[0-9]*/ns/net", "/proc/[0-9]*/task/[0-9]*/ns/net"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("list namespaces: %w", err)
		}
		for _, path := range paths {
			if len(wanted) == 0 {
				return nil
			}
			id, err := os.Readlink(path)
			if id != "" && seen[id] {
				continue
			}
			seen[id] = true
			if err == nil {
				err = endInside(path, wanted)
			}
			// A process that has ended meanwhile has no sockets.
			if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("%s: %w", path, err))
			}
		}
	}
	if len(errs) > 0 && len(wanted) > 0 {
		return fmt.Errorf("looked into network namespaces, which needs CAP_SYS_ADMIN and CAP_SYS_PTRACE; of %d that could not be entered the first is %w", len(errs), errs[0])
	}
	return nil
}

func endInside(path string, wanted map[socket]bool) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close() // read only
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter: %w", err)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if err := endFamily(family, wanted); err != nil {
			return err
		}
	}
	return nil
}

// Of struct inet_diag_req_v2 and inet_diag_msg in linux/inet_diag.h.
const (
	diagIDSize    = 48
	diagStates    = 1 << 1 // TCP_ESTABLISHED, for UDP: connected
	diagMinAnswer = 4 + diagIDSize
)

// diagID is struct inet_diag_sockid.
type diagID struct {
	SourcePort, PeerPort [2]byte // network order
	Source, Peer         [16]byte
	Interface            uint32
	Cookie               [2]uint32
}

// diagRequest is struct inet_diag_req_v2.
type diagRequest struct {
	Family, Protocol, Extensions, Pad uint8
	States                            uint32
	ID                                diagID
}

// Len implements nl.NetlinkRequestData.
func (r diagRequest) Len() int { return 8 + diagIDSize }

// Serialize implements nl.NetlinkRequestData.
func (r diagRequest) Serialize() []byte {
	out, err := binary.Append(make([]byte, 0, r.Len()), binary.NativeEndian, r)
	if err != nil {
		return nil // the type has a fixed size
	}
	return out
}

// socket returns what the programs know the socket by.
func (id diagID) socket(family uint8) socket {
	peer := netip.AddrFrom16(id.Peer)
	if family == unix.AF_INET {
		peer = netip.AddrFrom4([4]byte(id.Peer[:4]))
	}
	return socket{
		cookie: uint64(id.Cookie[1])<<32 | uint64(id.Cookie[0]),
		peer:   target{peer.As16(), binary.BigEndian.Uint16(id.PeerPort[:])},
	}
}

// endFamily ends what is wanted in this thread's network namespace.
func endFamily(family uint8, wanted map[socket]bool) error {
	list := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	list.AddData(diagRequest{Family: family, Protocol: uint8(UDP), States: diagStates})
	answers, err := list.Execute(unix.NETLINK_SOCK_DIAG, nl.SOCK_DIAG_BY_FAMILY)
	if err != nil {
		return fmt.Errorf("list UDP sockets: %w", err)
	}
	for _, answer := range answers {
		if len(answer) < diagMinAnswer {
			continue
		}
		var id diagID
		if err := binary.Read(bytes.NewReader(answer[4:diagMinAnswer]), binary.NativeEndian, &id); err != nil {
			return fmt.Errorf("read UDP socket: %w", err)
		}
		found := id.socket(family)
		if !wanted[found] {
			continue
		}
		end := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
		end.AddData(diagRequest{Family: family, Protocol: uint8(UDP), ID: id})
		_, err := end.Execute(unix.NETLINK_SOCK_DIAG, 0)
		if err != nil && !errors.Is(err, unix.ENOENT) { // closed meanwhile
			return fmt.Errorf("end a UDP socket (CONFIG_INET_DIAG_DESTROY): %w", err)
		}
		delete(wanted, found)
	}
	return nil
}
