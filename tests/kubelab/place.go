package kubelab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// folderPrefix begins the names of control planes' folders.
const folderPrefix = "causeway-kube-"

// maxFolder is how long, in bytes, the path of one may be: a socket's name in it
// must fit into the kernel's 108.
const maxFolder = 95

// folder holds the data of one control plane. Who made it holds its lock, so
// that one without an owner is known.
type folder struct {
	path string
	lock *os.File
}

// newFolder makes a folder below base, and removes those that a crash left there.
func newFolder(base string) (folder, error) {
	sweep(base)
	// Another's sweep may take a folder that is not locked yet for one without an owner.
	for range 10 {
		path, err := os.MkdirTemp(base, folderPrefix)
		if err != nil {
			return folder{}, err
		}
		if len(path) > maxFolder {
			return folder{}, errors.Join(fmt.Errorf("%q is too long for sockets in it: set TMPDIR to a shorter folder", path), os.Remove(path))
		}
		file, err := lockFolder(path)
		if err != nil {
			continue
		}
		if _, err := os.Stat(path); err == nil {
			return folder{path: path, lock: file}, nil
		}
		_ = file.Close()
	}
	return folder{}, fmt.Errorf("make a folder below %q: each one was taken away", base)
}

// lockFolder locks the folder itself: no moment at which it is there and a lock
// in it is not.
func lockFolder(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// remove removes the folder, and the cgroups of a node with it; none is fine.
func (f folder) remove() error {
	if f.lock == nil {
		return nil
	}
	err := removeGroups(f.path)
	if err == nil { // what is left is found by the folder
		err = os.RemoveAll(f.path)
	}
	_ = f.lock.Close()
	return err
}

// port is a port of 127.0.0.1 that is kept for a server which shares it
// (SO_REUSEPORT), also while the server does not run: nobody else gets it.
type port struct {
	fd      int
	address string
}

func reservePort() (*port, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
	)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("reserve a port: %w", err)
	}
	number := bound.(*unix.SockaddrInet4).Port
	return &port{fd: fd, address: net.JoinHostPort("127.0.0.1", strconv.Itoa(number))}, nil
}

func (p *port) release() { _ = unix.Close(p.fd) }

// sweep removes the folders whose owner is gone; it is no error if it cannot.
func sweep(base string) {
	old, _ := filepath.Glob(filepath.Join(base, folderPrefix+"*")) // the pattern is good
	for _, path := range old {
		if file, err := lockFolder(path); err == nil {
			_ = folder{path: path, lock: file}.remove()
		}
	}
}
