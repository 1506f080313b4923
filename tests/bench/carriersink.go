package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// sink is the server of a carrier. It prints a line once it listens, and then
// for each line that it reads the process' CPU time, ns, and how many datagrams
// have come. It ends with its input.
func sink(stdin io.Reader, stdout io.Writer) error {
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default: // the first one counts
		}
	}
	for port, handle := range map[int]func(int){sinkPort: take, echoPort: giveBack, closePort: nil} {
		fd, err := listen(unix.SOCK_STREAM, port)
		if err != nil {
			return err
		}
		go func() { fail(acceptAll(fd, handle)) }()
	}
	datagrams, err := listen(unix.SOCK_DGRAM, countPort)
	if err != nil {
		return err
	}
	var count atomic.Int64
	go func() { fail(countDatagrams(datagrams, &count)) }()
	fmt.Fprintln(stdout, "ready")
	go func() {
		lines := bufio.NewScanner(stdin)
		for lines.Scan() {
			fmt.Fprintln(stdout, processTime(), count.Load())
		}
		fail(lines.Err())
	}()
	return <-failed // the process ends, and with it all sockets and goroutines
}

func listen(kind, port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return -1, fmt.Errorf("bind port %d: %w", port, err)
	}
	if kind == unix.SOCK_STREAM {
		if err := unix.Listen(fd, 4096); err != nil {
			return -1, fmt.Errorf("listen on port %d: %w", port, err)
		}
	}
	return fd, nil
}

func acceptAll(fd int, handle func(int)) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		connection, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("accept: %w", err)
		default:
			serveOne(connection, handle)
		}
	}
}

// serveOne gives a connection a thread of its own, unless it is only closed.
func serveOne(fd int, handle func(int)) {
	if handle == nil {
		_ = unix.Close(fd)
		return
	}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		handle(fd)
		_ = unix.Close(fd)
	}()
}

// take reads until the client has said all.
func take(fd int) {
	chunk := make([]byte, chunkSize)
	for {
		n, err := unix.Read(fd, chunk)
		if err != nil && !errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			return
		}
	}
}

// giveBack returns what comes as it comes.
func giveBack(fd int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // slower without
	data := make([]byte, requestSize)
	for {
		n, err := unix.Read(fd, data)
		if err != nil && !errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			return
		}
		if _, err := unix.Write(fd, data[:max(n, 0)]); err != nil {
			return
		}
	}
}

func countDatagrams(fd int, count *atomic.Int64) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	data := make([]byte, 2*datagramSize)
	for {
		n, err := unix.Read(fd, data)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case n == datagramSize:
			count.Add(1)
		}
	}
}
