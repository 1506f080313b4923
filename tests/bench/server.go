package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// serve is all backends: it accepts and closes until its input ends. It prints
// a line once it listens.
func serve(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: backendPort}); err != nil {
		return fmt.Errorf("bind port %d: %w", backendPort, err)
	}
	if err := unix.Listen(fd, 65535); err != nil {
		return fmt.Errorf("listen on port %d: %w", backendPort, err)
	}
	fmt.Fprintln(stdout, "ready")
	failed := make(chan error, 1)
	go func() { failed <- accept(fd) }()
	go func() {
		_, err := io.Copy(io.Discard, stdin)
		failed <- err
	}()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	return err // the process ends, and with it the socket and both goroutines
}

// accept takes and closes connections. The client has reset most of them
// already, so none is left in TIME-WAIT.
func accept(fd int) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pin(lastCPU)
	debug.SetGCPercent(-1)
	for {
		connection, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		default:
			_ = unix.Close(connection)
		}
	}
}

// Which of its CPUs a thread is bound to. Clients and servers have one each
// where there is more than one, so that they do not preempt each other.
const (
	firstCPU = iota
	lastCPU
)

// pin binds the calling thread to one CPU. Where that is not permitted, the
// figures are merely noisier.
func pin(which int) {
	var all, one unix.CPUSet
	if unix.SchedGetaffinity(0, &all) != nil {
		return
	}
	var cpus []int
	for cpu := range 8 * len(all) * 8 {
		if all.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	if which == firstCPU {
		one.Set(cpus[0])
	} else {
		one.Set(cpus[len(cpus)-1])
	}
	_ = unix.SchedSetaffinity(0, &one)
}
