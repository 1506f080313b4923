package workload

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

// TestExchange sends bytes that come back, more than any buffer holds by TCP and
// in one datagram by UDP.
func TestExchange(t *testing.T) {
	tcp, udp, _ := serve(t)
	for _, test := range []struct {
		protocol, target string
		bytes            int
	}{{TCP, tcp, 8 << 20}, {Mapped, tcp, 1}, {UDP, udp, 8 << 10}, {UDP, udp, 1}} {
		r := Exchange(t.Context(), test.protocol, test.target, test.bytes)
		if r.Error != "" || r.Bytes != test.bytes || r.Identity != me || r.Remote == "" {
			t.Errorf("%d bytes by %s: %+v", test.bytes, test.protocol, r)
		}
		if (r.MSS > 0) != (test.protocol != UDP) {
			t.Errorf("%s: MSS %d", test.protocol, r.MSS)
		}
	}
	if r := Exchange(t.Context(), HTTP, tcp, 1); !strings.Contains(r.Error, "http has no bytes") {
		t.Errorf("by http: %+v", r)
	}
}

// liar answers like a server, but with what change makes of the bytes.
func liar(t *testing.T, change func([]byte) []byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		data := make([]byte, 1+1000)
		_, _ = io.ReadFull(conn, data[:1])
		_, _ = io.WriteString(conn, "{}\n")
		_, _ = io.ReadFull(conn, data[1:])
		_, _ = conn.Write(change(data))
	}()
	return l.Addr().String()
}

func TestExchangeDiffers(t *testing.T) {
	for name, test := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"as they were": {func(b []byte) []byte { return b }, ""},
		"one changed":  {func(b []byte) []byte { b[500]++; return b }, errDiffers.Error()},
		"one lost":     {func(b []byte) []byte { return b[:1000] }, "closed without an answer"},
	} {
		if r := Exchange(t.Context(), TCP, liar(t, test.change), 1000); r.Error != test.want {
			t.Errorf("%s: %q, want %q", name, r.Error, test.want)
		}
	}
}

// TestDatagramDiffers gets a datagram back whose end is missing.
func TestDatagramDiffers(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	conn, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	half := append([]byte("{}\n"), payload(1000)[:500]...)
	if _, err := server.WriteTo(half, conn.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	if _, err := datagramLine(t.Context(), conn, 1000); !errors.Is(err, errDiffers) {
		t.Errorf("got %v", err)
	}
	// The first datagram is not answered, the second one is.
	go func() {
		for range 3 { // the one from above, too
			_, _, _ = server.ReadFrom(make([]byte, 2000))
		}
		_, _ = server.WriteTo(append([]byte("{}\n"), payload(1000)...), conn.LocalAddr())
	}()
	if line, err := datagramLine(t.Context(), conn, 1000); string(line) != "{}" || err != nil {
		t.Errorf("after one that was lost: %q, %v", line, err)
	}
	if bytes.Equal(payload(2000)[:1000], payload(2000)[1000:]) {
		t.Error("the payload repeats itself")
	}
}
