package gateway

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// The frames of HTTP/2 that a hostile client makes by hand, since no client library
// would send them (RFC 9113, section 6; header fields as in RFC 7541, section 6.2).
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePing         = 0x6
	frameContinuation = 0x9

	endStream  = 0x1
	endHeaders = 0x4

	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

func frame(kind, flags byte, stream uint32, payload string) string {
	head := make([]byte, 9)
	binary.BigEndian.PutUint32(head, uint32(len(payload))<<8)
	head[3], head[4] = kind, flags
	binary.BigEndian.PutUint32(head[5:], stream)
	return string(head) + payload
}

// window0 are settings by which nothing may be sent on any stream.
func window0() string { return frame(frameSettings, 0, 0, "\x00\x04\x00\x00\x00\x00") }

// text is a string of HPACK, as it is.
func text(s string) string {
	if len(s) < 127 {
		return string(rune(len(s))) + s
	}
	out := []byte{127}
	n := len(s) - 127
	for ; n >= 128; n /= 128 {
		out = append(out, byte(n%128+128))
	}
	return string(append(out, byte(n))) + s
}

// fields are those of a call.
func fields(method string) string {
	var out strings.Builder
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "https"},
		{":path", method},
		{":authority", "localhost"},
		{"content-type", "application/grpc"},
		{"te", "trailers"},
	} {
		out.WriteString("\x00" + text(f[0]) + text(f[1]))
	}
	return out.String()
}

func call(stream uint32, method string) string {
	return frame(frameHeaders, endHeaders, stream, fields(method))
}

// message is one of gRPC, of which less may follow than it says.
func message(stream uint32, says int, body string) string {
	head := make([]byte, 5)
	binary.BigEndian.PutUint32(head[1:], uint32(says))
	return frame(frameData, 0, stream, string(head)+body)
}

// hostile connects with a certificate, or none for "", and is closed with the test.
func (b *bed) hostile(config *tls.Config) net.Conn {
	b.t.Helper()
	conn, err := (&tls.Dialer{Config: config}).DialContext(b.ctx(), "tcp", b.gateway.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.(*tls.Conn).NetConn().Close() })
	b.hostiles = append(b.hostiles, conn)
	return conn
}

// write sends as much as the other end takes: at some time it takes no more, or
// nobody is there.
func write(conn net.Conn, texts ...string) {
	_ = conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
	for _, text := range texts {
		if _, err := io.WriteString(conn, text); err != nil {
			return
		}
	}
}

func (b *bed) hostileTLS(role pki.Role) *tls.Config {
	config := b.clientTLS(role, "west", time.Hour)
	config.NextProtos, config.ServerName = []string{"h2"}, "localhost"
	return config
}
