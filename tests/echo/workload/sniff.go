package workload

import (
	"bufio"
	"net"
	"strings"
	"sync"
)

// speaksHTTP reads no more of in than it takes to tell whether a client begins
// with an HTTP method; nothing is consumed. It fails when the client leaves
// before that.
func speaksHTTP(in *bufio.Reader) (bool, error) {
	methods := []string{"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH "}
	for n := 1; ; n++ {
		head, err := in.Peek(n)
		if err != nil && len(head) < n {
			return false, err
		}
		possible := false
		for _, method := range methods {
			if string(head) == method {
				return true, nil
			}
			possible = possible || strings.HasPrefix(method, string(head))
		}
		if !possible {
			return false, nil
		}
	}
}

// bufferedConn is a connection of which some bytes were read ahead.
type bufferedConn struct {
	net.Conn
	in *bufio.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.in.Read(b) }

// handoff is a listener whose connections were accepted by somebody else.
type handoff struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{})}
}

// give passes conn to whoever accepts and reports whether it was taken; after
// Close nothing is.
func (h *handoff) give(conn net.Conn) bool {
	select {
	case h.conns <- conn:
		return true
	case <-h.done:
		return false
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handoff) Addr() net.Addr { return &net.TCPAddr{} }
