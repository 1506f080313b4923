package gateway

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

var errBrief = errors.New("a connection without a certificate has brought all that it may")

// brief is a connection without a certificate. It ends after anonymousStay,
// whatever is open on it, or when it has brought anonymousBytes.
type brief struct {
	net.Conn

	end  *time.Timer
	left atomic.Int64
}

// newBrief starts its time; cut closes what is below.
func newBrief(conn net.Conn, cut func()) *brief {
	b := &brief{Conn: conn, end: time.AfterFunc(anonymousStay, cut)}
	b.left.Store(anonymousBytes)
	return b
}

// Read ends with an error, and with it the connection, after the last byte that
// may come.
func (b *brief) Read(p []byte) (int, error) {
	left := b.left.Load()
	if left <= 0 {
		return 0, errBrief
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), left)])
	b.left.Add(-int64(n))
	return n, err
}

func (b *brief) Close() error {
	b.end.Stop()
	return b.Conn.Close()
}
