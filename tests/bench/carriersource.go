package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Where the server of a carrier listens: what takes bytes, what gives 64 bytes
// back, what closes what it accepts, and what counts datagrams.
const (
	sinkPort = 5001 + iota
	echoPort
	closePort
	countPort
)

const (
	requestSize  = 64
	datagramSize = 64
	chunkSize    = 128 << 10
)

// source is the client of a carrier. For each line, "METRIC MILLISECONDS", it
// prints how much it did, in how many ns, and the process' CPU time, ns.
func source(args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("an address is expected, not %q", args)
	}
	target, err := netip.ParseAddr(args[0])
	if err != nil {
		return err
	}
	g := generator{target: target.As4()}
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		var millis int
		if _, err := fmt.Sscan(text, &millis); err != nil {
			return fmt.Errorf("milliseconds of %q: %w", lines.Text(), err)
		}
		work := map[string]func(time.Time) (int64, error){
			"stream": g.streams(1), "streams": g.streams(4), "request": g.requests, "connect": g.connects, "datagram": g.datagrams,
		}[name]
		if work == nil {
			return fmt.Errorf("no work is called %q", name)
		}
		cpu, begin := processTime(), time.Now()
		count, err := work(begin.Add(time.Duration(millis) * time.Millisecond))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintln(stdout, count, time.Since(begin).Nanoseconds(), processTime()-cpu)
	}
	return lines.Err()
}

// generator makes traffic by plain system calls, so that little of what it costs
// is its own.
type generator struct{ target [4]byte }

func (g generator) dial(kind, port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	err = again(func() error { return unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: g.target}) })
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to port %d: %w", port, err)
	}
	return fd, nil
}

// again repeats what a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// streams returns what sends bytes over so many connections, each from a thread
// of its own, and counts those that arrived.
func (g generator) streams(count int) func(time.Time) (int64, error) {
	return func(until time.Time) (int64, error) {
		var total atomic.Int64
		errs := make([]error, count)
		var group sync.WaitGroup
		for i := range count {
			group.Go(func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				n, err := g.stream(until)
				total.Add(n)
				errs[i] = err
			})
		}
		group.Wait()
		return total.Load(), errors.Join(errs...)
	}
}

func (g generator) stream(until time.Time) (sent int64, err error) {
	fd, err := g.dial(unix.SOCK_STREAM, sinkPort)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	chunk := make([]byte, chunkSize)
	for time.Now().Before(until) {
		n, err := unix.Write(fd, chunk)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return sent, fmt.Errorf("send: %w", err)
		}
		sent += int64(max(n, 0))
	}
	// The other side closes when it has all.
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return sent, fmt.Errorf("shut down: %w", err)
	}
	return sent, again(func() error {
		_, err := unix.Read(fd, chunk[:1])
		return err
	})
}

// requests sends 64 bytes and waits for 64, again and again.
func (g generator) requests(until time.Time) (done int64, err error) {
	fd, err := g.dial(unix.SOCK_STREAM, echoPort)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return 0, fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	data := make([]byte, requestSize)
	for ; time.Now().Before(until); done++ {
		if _, err := unix.Write(fd, data); err != nil {
			return done, fmt.Errorf("send: %w", err)
		}
		for got := 0; got < requestSize; {
			n, err := unix.Read(fd, data[got:])
			if err != nil && !errors.Is(err, unix.EINTR) || err == nil && n == 0 {
				return done, fmt.Errorf("receive: %w", errors.Join(err, io.ErrUnexpectedEOF))
			}
			got += max(n, 0)
		}
	}
	return done, nil
}

// connects opens and resets connections.
func (g generator) connects(until time.Time) (done int64, err error) {
	for ; time.Now().Before(until); done++ {
		fd, err := g.dial(unix.SOCK_STREAM, closePort)
		if err != nil {
			return done, err
		}
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return done, fmt.Errorf("close: %w", err)
		}
	}
	return done, nil
}

// datagrams sends as many as it can; how many arrive, the server knows.
func (g generator) datagrams(until time.Time) (sent int64, err error) {
	fd, err := g.dial(unix.SOCK_DGRAM, countPort)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	data := make([]byte, datagramSize)
	for ; time.Now().Before(until); sent++ {
		_, err := unix.Write(fd, data)
		if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return sent, fmt.Errorf("send: %w", err)
		}
	}
	return sent, nil
}

// processTime returns the CPU time of this process, ns.
func processTime() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now) // cannot fail for this clock
	return now.Nano()
}
