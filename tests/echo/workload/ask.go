package workload

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"
)

// maxAnswer bounds what a client reads of one answer, in bytes.
const maxAnswer = 64 << 10

// Mapped is TCP as a program without AF_INET speaks it: an IPv6 socket that is
// connected to the IPv4-mapped form of an IPv4 target. Only Ask knows it.
const Mapped = "mapped"

// Ask makes one new connection to target (host:port) by protocol TCP, UDP, HTTP
// or Mapped and returns what it got; a failure is in Result.Error. It gives up
// when ctx ends.
func Ask(ctx context.Context, protocol, target string) Result {
	return Exchange(ctx, protocol, target, 0)
}

// Exchange is Ask and then sends so many bytes, the same each time, and expects
// them back: over TCP and Mapped as they come, by UDP in one datagram, which is
// the one that asks, and is sent again until it is answered.
func Exchange(ctx context.Context, protocol, target string, bytes int) Result {
	begin := time.Now()
	result := Result{Bytes: bytes}
	if err := ask(ctx, protocol, target, &result); err != nil {
		result.Error, result.Bytes = Reason(err), 0
	}
	result.Millis = float64(time.Since(begin).Microseconds()) / 1000
	return result
}

func ask(ctx context.Context, protocol, target string, result *Result) error {
	conn, err := dial(ctx, protocol, target)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	result.Peer = conn.RemoteAddr().String()
	var line []byte
	switch {
	case protocol == HTTP && result.Bytes > 0:
		return errors.New("http has no bytes that come back: ask by tcp, mapped or udp")
	case protocol == HTTP:
		line, err = requestLine(conn, target)
	case protocol == UDP:
		line, err = datagramLine(ctx, conn, result.Bytes)
	default:
		line, err = streamLine(conn, result.Bytes)
		result.MSS = segment(conn)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(line, &result.Answer); err != nil {
		return fmt.Errorf("read the answer %.80q: %w", line, err)
	}
	return nil
}

func dial(ctx context.Context, protocol, target string) (net.Conn, error) {
	dialer := &net.Dialer{}
	network := TCP
	switch protocol {
	case TCP, HTTP:
	case UDP:
		network = UDP
	case Mapped:
		// A local address of IPv6 makes the socket one of IPv6.
		dialer.LocalAddr = &net.TCPAddr{IP: net.IPv6zero}
	default:
		return nil, fmt.Errorf("protocol %q is none of tcp, udp, http, mapped", protocol)
	}
	return dialer.DialContext(ctx, network, target)
}

func requestLine(conn net.Conn, host string) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, "http://"+host+"/", nil)
	if err != nil {
		return nil, err
	}
	request.Close = true
	if err := request.Write(conn); err != nil {
		return nil, err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("http status %s", response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, maxAnswer))
}

// Reason returns a short text of err without addresses and ports, so that equal
// failures are counted together.
func Reason(err error) string {
	var number syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.As(err, &number):
		return number.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed without an answer"
	}
	return err.Error()
}
