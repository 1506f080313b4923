package hostile

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// wires are cases below the protocol: bytes that drip, and connections that break.
func wires() []conduct {
	return []conduct{
		{name: "connections that are reset in a message", wire: func(c net.Conn) net.Conn { return &cutting{Conn: c, left: 4000} }},
		{name: "connections that are reset in the handshake", wire: func(c net.Conn) net.Conn { return &cutting{Conn: c, left: 200} }},
		{name: "bytes that drip", wire: func(c net.Conn) net.Conn { return dripping{c} }},
	}
}

// cutting is a connection that is reset after so many bytes were written.
type cutting struct {
	net.Conn
	left int64
}

func (c *cutting) Write(b []byte) (int, error) {
	if left := atomic.AddInt64(&c.left, -int64(len(b))); left < 0 {
		n, _ := c.Conn.Write(b[:max(0, len(b)+int(left))])
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Conn.Close()
		return n, net.ErrClosed
	}
	return c.Conn.Write(b)
}

// dripping is a connection on which each byte comes alone, 100 a second.
type dripping struct{ net.Conn }

func (d dripping) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := d.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(10 * time.Millisecond) // what the case is about
	}
	return len(b), nil
}

// pipes is a listener that can bend the connections that it accepts.
type pipes struct {
	net.Listener

	mu    sync.Mutex
	with  func(net.Conn) net.Conn
	open  []net.Conn
	count int // of bent ones
}

// Accept implements net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	c, err := p.Listener.Accept()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, c)
	if p.with != nil {
		p.count++
		c = p.with(c)
	}
	return c, nil
}

// bend has new connections be bent, and ends those that there are; nil makes them
// straight.
func (p *pipes) bend(with func(net.Conn) net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.with = with
	for _, c := range p.open {
		_ = c.Close()
	}
	p.open = nil
}

func (p *pipes) bent() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}
