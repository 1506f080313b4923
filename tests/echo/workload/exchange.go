package workload

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// errDiffers says that bytes were changed, lost or put in another order.
var errDiffers = errors.New("other bytes came back than were sent")

// payload is what is sent: no part of it is like another.
func payload(size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data) // never fails
	return data
}

// streamLine sends an empty line and returns the first line of what comes back,
// once so many bytes have gone both ways after it, at the same time.
func streamLine(conn net.Conn, size int) ([]byte, error) {
	if _, err := conn.Write([]byte("\n")); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, maxAnswer)
	line, err := in.ReadBytes('\n')
	if err != nil || size == 0 {
		return line, err
	}
	sent := payload(size)
	var group errgroup.Group
	group.Go(func() error {
		_, err := conn.Write(sent)
		return err
	})
	back := make([]byte, 1+size) // what asked comes back, too
	n, err := io.ReadFull(in, back)
	if err != nil {
		_ = conn.Close() // so that the writer ends
		err = fmt.Errorf("after %d of %d bytes: %w", n, len(back), err)
	}
	err = errors.Join(err, group.Wait())
	if err == nil && !bytes.Equal(back[1:], sent) {
		err = errDiffers
	}
	return line, err
}

// sendAgain is how often a datagram of many bytes is sent until it is answered:
// the first ones may be lost on either way while it is found out what fits. Its
// sender is told so, by EMSGSIZE, or not.
const sendAgain = 300 * time.Millisecond

// datagramLine sends one datagram, of so many bytes or with an empty line, and
// returns the line that comes back before it.
func datagramLine(ctx context.Context, conn net.Conn, size int) ([]byte, error) {
	if size == 0 {
		return datagram(conn, []byte("\n"))
	}
	sent := payload(size)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(sendAgain))
		line, err := datagram(conn, sent)
		if ctx.Err() != nil || !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, unix.EMSGSIZE) {
			return line, err
		}
	}
}

func datagram(conn net.Conn, sent []byte) (line []byte, err error) {
	if _, err := conn.Write(sent); err != nil {
		return nil, err
	}
	reply := make([]byte, maxAnswer)
	n, err := conn.Read(reply)
	if err != nil {
		return nil, err
	}
	line, back, _ := bytes.Cut(reply[:n], []byte("\n"))
	if !bytes.Equal(back, sent) {
		return nil, errDiffers
	}
	return line, nil
}

// segment returns what the kernel puts in one segment of a connection, 0 when it
// does not say.
func segment(conn net.Conn) (size int) {
	tcp, ok := conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0 // closed
	}
	_ = raw.Control(func(fd uintptr) {
		size, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG)
	})
	if err != nil {
		return 0
	}
	return size
}
