// Package netspace makes network namespaces, runs code inside them and wires
// them together. It fences one hazard: a namespace belongs to a thread, and a
// goroutine does not.
package netspace

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Space is a network namespace with a name in the file system, which lets it
// live on, and be entered by other programs, without a process in it. Its
// methods may be called from many goroutines.
type Space struct {
	path  string
	file  *os.File
	links *netlink.Handle
}

// errLeft is what Do returns when its function neither returned nor panicked
// but ended its goroutine.
var errLeft = errors.New("the function ended its goroutine inside a network namespace")

// New makes a namespace that forwards packets of both families, with its
// loopback up, and binds it to path, which must not exist.
func New(path string) (*Space, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the file of a network namespace: %w", err)
	}
	_ = file.Close() // empty: there is nothing to lose
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind a network namespace to %q: %w", path, err)
		}
		return setUp()
	})
	if err != nil {
		return nil, errors.Join(err, Remove(path))
	}
	space, err := Open(path)
	if err != nil {
		return nil, errors.Join(err, Remove(path))
	}
	return space, nil
}

// Open takes up the namespace that is bound to path.
func Open(path string) (*Space, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	s := &Space{path: path, file: file}
	err = s.Do(func() (err error) {
		s.links, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open netlink in %q: %w", path, err), file.Close())
	}
	return s, nil
}

// Path is where the namespace is bound, as nsenter --net= takes it.
func (s *Space) Path() string { return s.path }

// Do runs fn on a thread inside the namespace and returns what it returns.
// Sockets that fn opens and processes that it starts stay in the namespace; a
// goroutine that it starts is not inside.
func (s *Space) Do(fn func() error) error {
	return onOwnThread(func() error {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %q: %w", s.path, err)
		}
		return fn()
	})
}

// Set gives a setting of the namespace a value; its name is the path below
// /proc/sys/net.
func (s *Space) Set(name, value string) error {
	return s.Do(func() error { return set(name, value) })
}

func set(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0); err != nil {
		return fmt.Errorf("set a network namespace's %s: %w", name, err)
	}
	return nil
}

// Close gives up the handles; the namespace stays bound.
func (s *Space) Close() error {
	s.links.Close()
	return s.file.Close()
}

// Remove unbinds the namespace at path and removes the file. The kernel frees
// the namespace when no process and no socket is left in it. A path that is
// not bound, or not there, is no error.
func Remove(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unbind network namespace %q: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// onOwnThread runs fn on a thread that no other goroutine gets afterwards: fn
// may change its namespaces. The network namespace is put back all the same,
// because the main thread can not end, only rest.
func onOwnThread(fn func() error) error {
	result := make(chan error, 1)
	go func() {
		err := errLeft
		defer func() { result <- err }()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		home, openErr := os.Open("/proc/thread-self/ns/net")
		if openErr != nil {
			err = fmt.Errorf("open own network namespace: %w", openErr)
			return
		}
		defer func() {
			if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
				err = errors.Join(err, fmt.Errorf("return to own network namespace: %w", back))
			}
			_ = home.Close()
		}()
		err = fn()
	}()
	return <-result
}

// setUp prepares the new namespace that the calling thread is in. Duplicate
// address detection would hold every IPv6 address back for a second.
func setUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set the loopback up: %w", err)
	}
	settings := []struct{ name, value string }{
		{"ipv4/ip_forward", "1"},
		{"ipv6/conf/all/disable_ipv6", "0"},
		{"ipv6/conf/default/disable_ipv6", "0"},
		{"ipv6/conf/default/accept_dad", "0"},
		{"ipv6/conf/default/accept_ra", "0"},
		{"ipv6/conf/all/forwarding", "1"},
	}
	for _, s := range settings {
		if err := set(s.name, s.value); err != nil {
			return err
		}
	}
	return nil
}
