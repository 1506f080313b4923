package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath"
)

// dial is the client of one case: for each line it reads, a number, it makes
// and closes so many connections and prints the CPU time of its thread in ns.
// Its arguments are the protocol, the first address, and the count of those
// that follow it, among which it chooses at random.
func dial(args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("protocol, address:port and count are expected, not %q", args)
	}
	protocol := datapath.TCP
	if args[0] == datapath.UDP.String() {
		protocol = datapath.UDP
	}
	first, err := netip.ParseAddrPort(args[1])
	if err != nil {
		return err
	}
	count, err := strconv.ParseUint(args[2], 10, 32)
	if err != nil || count == 0 {
		return fmt.Errorf("count %q is not a number of 1 or more", args[2])
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pin(firstCPU)
	debug.SetGCPercent(-1) // the loop allocates nothing
	dialer := newDialer(protocol, first, uint32(count))
	lines := bufio.NewScanner(stdin)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return fmt.Errorf("number of connections: %w", err)
		}
		used, err := dialer.measure(n)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, used)
	}
	return lines.Err()
}

// dialer connects to random addresses of a row of them.
type dialer struct {
	first   uint32
	count   uint32
	random  uint64
	address unix.RawSockaddrInet4
	linger  unix.Linger
	kind    uintptr // of the socket
}

func newDialer(protocol datapath.Protocol, first netip.AddrPort, count uint32) *dialer {
	ip := first.Addr().As4()
	d := &dialer{
		first: binary.BigEndian.Uint32(ip[:]), count: count, random: 0x9e3779b97f4a7c15,
		address: unix.RawSockaddrInet4{Family: unix.AF_INET},
		// Closing resets: neither side keeps a port in TIME-WAIT.
		linger: unix.Linger{Onoff: 1},
		kind:   unix.SOCK_STREAM | unix.SOCK_CLOEXEC,
	}
	if protocol == datapath.UDP {
		d.kind = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC
	}
	port := binary.BigEndian.AppendUint16(nil, first.Port())
	d.address.Port = binary.NativeEndian.Uint16(port)
	return d
}

// measure makes n connections and returns the thread's CPU time in ns.
func (d *dialer) measure(n int) (int64, error) {
	begin, err := threadTime()
	if err != nil {
		return 0, err
	}
	for range n {
		if errno := d.connect(); errno != 0 {
			return 0, fmt.Errorf("connect to %s: %w", netip.AddrFrom4(d.address.Addr), errno)
		}
	}
	end, err := threadTime()
	return end - begin, err
}

// connect opens and closes one connection. Raw system calls keep the Go
// scheduler out of the figures.
func (d *dialer) connect() syscall.Errno {
	d.random ^= d.random << 13
	d.random ^= d.random >> 7
	d.random ^= d.random << 17
	binary.BigEndian.PutUint32(d.address.Addr[:], d.first+uint32(d.random>>32)%d.count)
	fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_INET, d.kind, 0)
	if errno != 0 {
		return errno
	}
	if d.kind&unix.SOCK_STREAM != 0 {
		_, _, errno = syscall.RawSyscall6(unix.SYS_SETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_LINGER,
			uintptr(unsafe.Pointer(&d.linger)), unsafe.Sizeof(d.linger), 0)
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&d.address)), unsafe.Sizeof(d.address))
	}
	if _, _, closed := syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0); errno == 0 {
		errno = closed
	}
	return errno
}

func threadTime() (int64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now); err != nil {
		return 0, fmt.Errorf("read the thread's CPU time: %w", err)
	}
	return now.Nano(), nil
}

// part is a process of this benchmark, spoken with in lines.
type part struct {
	command *exec.Cmd
	stdin   io.WriteCloser
	stdout  *bufio.Reader
}

// startPart starts this program again, as the part that args name, by start and
// in a cgroup; cgroup may be nil. It ends when its input is closed.
func startPart(ctx context.Context, start func(*exec.Cmd) error, cgroup *os.File, args ...string) (*part, error) {
	command := exec.CommandContext(ctx, "/proc/self/exe", args...)
	// A signal by which the runtime preempts would interrupt a connect.
	command.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	command.Stderr = os.Stderr
	if cgroup != nil {
		command.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	}
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := start(command); err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	return &part{command: command, stdin: stdin, stdout: bufio.NewReader(stdout)}, nil
}

// measure has a client make n connections; it returns the CPU time of one, ns.
func (p *part) measure(n int) (float64, error) {
	if _, err := fmt.Fprintln(p.stdin, n); err != nil {
		return 0, err
	}
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("the client ended: %w", err)
	}
	used, err := strconv.ParseInt(line[:len(line)-1], 10, 64)
	return float64(used) / float64(n), err
}
