package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// reexec runs this program again in a mount namespace of its own: what is
// mounted and pinned there ends with it, however it ends.
func reexec(ctx context.Context, args []string) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for namespaces, cgroups and eBPF")
	}
	// The death signal comes when the thread ends that started the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	command := exec.CommandContext(ctx, "/proc/self/exe", args...)
	command.Stdout, command.Stderr = os.Stdout, os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 10 * time.Second
	if err := command.Run(); err != nil {
		return fmt.Errorf("the benchmark ended: %w", err)
	}
	return nil
}

// namespace is a network namespace with all backends on its loopback device.
type namespace struct{ file *os.File }

// newNamespace makes a namespace. With routed set, service addresses have a
// route, without which nothing could translate their packets; where sockets
// are translated, none may be needed.
func newNamespace(routed bool) (*namespace, error) {
	var n namespace
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unshare network namespace: %w", err)
		}
		if err := configure(routed); err != nil {
			return err
		}
		file, err := os.Open("/proc/thread-self/ns/net")
		n.file = file
		return err
	})
	if err != nil {
		return nil, err
	}
	return &n, nil
}

// onThread calls do on a thread of its own, which ends with it: it may have
// changed what cannot be changed back.
func onThread(do func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- do()
	}()
	return <-done
}

// configure sets up the calling thread's namespace.
func configure(routed bool) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set up lo: %w", err)
	}
	address, err := netlink.ParseAddr(clientIP + "/32")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(lo, address); err != nil {
		return fmt.Errorf("add %s to lo: %w", clientIP, err)
	}
	routes := []*netlink.Route{{Dst: network(backendRange), Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST}}
	if routed {
		routes = append(routes, &netlink.Route{Dst: network(serviceRange), Scope: netlink.SCOPE_LINK})
	}
	for _, route := range routes {
		route.LinkIndex = lo.Attrs().Index
		route.Src = address.IP
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("add route %s: %w", route.Dst, err)
		}
	}
	// Connections wait for a server that got no CPU for a while; none is lost.
	return os.WriteFile("/proc/sys/net/core/somaxconn", []byte("65535"), 0)
}

// start starts command in the namespace.
func (n *namespace) start(command *exec.Cmd) error {
	return onThread(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return command.Start()
	})
}

// run runs a program in the namespace with text as its input; its error holds
// what it printed.
func (n *namespace) run(ctx context.Context, text string, name string, args ...string) error {
	var output strings.Builder
	command := exec.CommandContext(ctx, name, args...)
	command.Stdin = strings.NewReader(text)
	command.Stdout, command.Stderr = &output, &output
	if err := n.start(command); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := command.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %.500s", name, err, output.String())
	}
	return nil
}

func (n *namespace) close() error { return n.file.Close() }

// network returns a prefix in the form that netlink takes.
func network(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
