package kubelab

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// forwarder lets a node reach the control plane at an address that, in the
// node's network, is the node's own.
type forwarder struct {
	listener net.Listener
	address  string
	group    sync.WaitGroup

	mu    sync.Mutex
	open  map[net.Conn]struct{}
	ended bool
}

// forward listens at an address in a network, which may get it later, and passes
// each connection to another address out here.
func forward(space *netspace.Space, listen, address string) (*forwarder, error) {
	f := &forwarder{address: address, open: map[net.Conn]struct{}{}}
	err := space.Do(func() (err error) {
		f.listener, err = (&net.ListenConfig{Control: freebind}).Listen(context.Background(), "tcp", listen)
		return err
	})
	if err != nil {
		return nil, err
	}
	f.group.Go(f.accept)
	return f, nil
}

// freebind lets a socket have an address that is not there yet (ip(7)).
func freebind(_, _ string, socket syscall.RawConn) error {
	var refused error
	err := socket.Control(func(fd uintptr) { refused = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1) })
	return errors.Join(err, refused)
}

// close ends all connections and returns when nothing runs any more. It may be
// called again.
func (f *forwarder) close() error {
	err := f.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	f.mu.Lock()
	f.ended = true
	for connection := range f.open {
		_ = connection.Close()
	}
	f.mu.Unlock()
	f.group.Wait()
	return err
}

func (f *forwarder) accept() {
	for {
		near, err := f.listener.Accept()
		if err != nil {
			return // closed
		}
		f.group.Go(func() { f.carry(near) })
	}
}

// carry passes bytes both ways until one side ends.
func (f *forwarder) carry(near net.Conn) {
	defer f.forget(near)
	if !f.keep(near) {
		return
	}
	far, err := net.Dial("tcp", f.address)
	if err != nil {
		return // the server is away: so the client sees it
	}
	defer f.forget(far)
	if !f.keep(far) {
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(near, far) // an end of either kind is one
		_ = near.Close()
	}()
	_, _ = io.Copy(far, near)
	_ = far.Close()
	<-back
}

// keep reports false when the forwarder was closed meanwhile.
func (f *forwarder) keep(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[c] = struct{}{}
	return !f.ended
}

func (f *forwarder) forget(c net.Conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
	_ = c.Close()
}
