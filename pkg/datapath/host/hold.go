package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// holdName is the abstract socket by which a process shows that it is in charge
// of a network namespace: it belongs to that namespace, and goes with the process
// in whatever way that ends.
const holdName = "@causeway-node-network"

// holdInterval is how often it is tried while another process has it.
const holdInterval = time.Second

// hold shows that this process is in charge, until ctx is done.
func (h *Host) hold(ctx context.Context) {
	retry := time.NewTicker(holdInterval)
	defer retry.Stop()
	for {
		if listener := h.listenHold(); listener != nil {
			defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
			// Whoever connects has learnt what there is to learn.
			for ctx.Err() == nil {
				if conn, err := listener.Accept(); err == nil {
					_ = conn.Close()
				} else if !errors.Is(err, net.ErrClosed) {
					h.config.Logger.Debug("whoever asked for the one in charge was not answered", "error", err)
					wait(ctx, holdInterval, nil, nil)
				}
			}
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-retry.C:
		}
	}
}

// listenHold returns nil while somebody else has the name: an agent that is about
// to end, or one that should not be here.
func (h *Host) listenHold() (listener net.Listener) {
	err := h.kernel.inside(func() (err error) {
		listener, err = net.Listen("unix", holdName)
		return err
	})
	if err != nil {
		h.config.Logger.Debug("another process is in charge of the node's network", "error", err)
		return nil
	}
	return listener
}

// Holder returns the process that is in charge of this network, in which Run runs:
// held is false when there is none, pid 0 when it cannot be seen from here. What a
// user without rights pretends does not count.
func (h *Host) Holder() (pid int, held bool, err error) {
	err = h.kernel.inside(func() error {
		conn, err := net.Dial("unix", holdName)
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look who is in charge of the node's network: %w", err)
		}
		defer conn.Close() // nothing was written
		raw, err := conn.(*net.UnixConn).SyscallConn()
		if err != nil {
			return err
		}
		var peer *unix.Ucred
		var sockErr error
		err = raw.Control(func(fd uintptr) { peer, sockErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
		if err := errors.Join(err, sockErr); err != nil {
			return fmt.Errorf("look who is in charge of the node's network: %w", err)
		}
		if peer.Uid == 0 || int(peer.Uid) == os.Getuid() {
			pid, held = int(peer.Pid), true
		}
		return nil
	})
	return pid, held, err
}
