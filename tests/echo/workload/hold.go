package workload

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"
)

// hold keeps one long connection for as long as ctx lives and asks it again and
// again. A failure is counted, then a new connection takes its place.
func hold(ctx context.Context, cfg LoadConfig, index int, tally *tally) error {
	ticker := time.NewTicker(cfg.LongInterval)
	defer ticker.Stop()
	var long *longConn
	defer func() { long.close() }()
	for n := 0; ; n++ {
		var err error
		if long == nil {
			long, err = dialLong(ctx, cfg)
		}
		if err == nil {
			err = long.exchange(ctx, cfg.Timeout, n)
		}
		if ctx.Err() != nil {
			return nil
		}
		tally.held(time.Now(), index, long.name(), err)
		if err != nil {
			long.close()
			long = nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// longConn is a TCP connection whose server has named itself. A nil one may be
// closed and asked for its name.
type longConn struct {
	conn net.Conn
	in   *bufio.Reader
	who  Identity
}

func dialLong(ctx context.Context, cfg LoadConfig) (*longConn, error) {
	dialer := net.Dialer{Timeout: cfg.Timeout}
	conn, err := dialer.DialContext(ctx, TCP, cfg.Target)
	if err != nil {
		return nil, err
	}
	long := &longConn{conn: conn, in: bufio.NewReaderSize(conn, maxAnswer)}
	if err := long.greet(ctx, cfg.Timeout); err != nil {
		long.close()
		return nil, err
	}
	return long, nil
}

// greet makes the server name itself; it repeats the line that asked for it.
func (l *longConn) greet(ctx context.Context, timeout time.Duration) error {
	line, err := l.roundTrip(ctx, timeout, "\n", 2)
	if err != nil {
		return err
	}
	var answer Answer
	if err := json.Unmarshal(line, &answer); err != nil {
		return fmt.Errorf("read the answer %.80q: %w", line, err)
	}
	l.who = answer.Identity
	return nil
}

// exchange sends a line that differs with n and expects it back.
func (l *longConn) exchange(ctx context.Context, timeout time.Duration, n int) error {
	sent := fmt.Sprintf("ping %d\n", n)
	got, err := l.roundTrip(ctx, timeout, sent, 1)
	if err != nil {
		return err
	}
	if string(got) != sent {
		return fmt.Errorf("another line came back than was sent")
	}
	return nil
}

// roundTrip sends and returns the first of so many lines that come back.
func (l *longConn) roundTrip(ctx context.Context, timeout time.Duration, send string, lines int) ([]byte, error) {
	_ = l.conn.SetDeadline(time.Now().Add(timeout))
	defer context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := l.conn.Write([]byte(send)); err != nil {
		return nil, err
	}
	var first []byte
	for i := range lines {
		line, err := l.in.ReadBytes('\n')
		if err != nil {
			return nil, err
		}
		if i == 0 {
			first = line
		}
	}
	return first, nil
}

func (l *longConn) name() string {
	if l == nil {
		return ""
	}
	return l.who.String()
}

func (l *longConn) close() {
	if l != nil {
		_ = l.conn.Close()
	}
}
