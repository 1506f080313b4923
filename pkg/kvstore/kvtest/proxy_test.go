package kvtest

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// proxy passes bytes between clients and a store, and can do to them what
// networks do. It knows nothing of what it passes.
type proxy struct {
	listener net.Listener
	to       func() (net.Conn, error)
	group    sync.WaitGroup

	mu    sync.Mutex
	pipes map[*pipe]struct{}
	rules rules
	moved chan struct{} // closed and replaced when rules change
}

// rules are what happens to bytes at present.
type rules struct {
	delay time.Duration // of what goes each way
	stall bool          // nothing passes, connections stay
	mute  bool          // answers are dropped
	shut  bool          // connections are refused
}

// pipe is one connection through the proxy.
type pipe struct {
	near, far net.Conn
	held      chan struct{} // not nil: requests wait until it is closed, whatever becomes of the client
}

// newProxy listens on a unix socket, or with tcp on a port of this machine.
func newProxy(t *testing.T, network string, to func() (net.Conn, error)) *proxy {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		dir, err := os.MkdirTemp("", "kvtest")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = filepath.Join(dir, "p")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, to: to, pipes: map[*pipe]struct{}{}, moved: make(chan struct{})}
	p.group.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.set(rules{shut: true})
		p.cut()
		p.group.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		now, _ := p.now()
		far, err := p.to()
		if err != nil || now.shut {
			near.Close()
			if err == nil {
				far.Close()
			}
			continue
		}
		c := &pipe{near: near, far: far}
		p.mu.Lock()
		p.pipes[c] = struct{}{}
		p.mu.Unlock()
		p.group.Go(func() { p.pass(c, near, far, true) })
		p.group.Go(func() { p.pass(c, far, near, false) })
	}
}

func (p *proxy) now() (rules, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rules, p.moved
}

// set changes what happens to bytes.
func (p *proxy) set(r rules) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = r
	close(p.moved)
	p.moved = make(chan struct{})
}

// pass copies one way until either end is gone.
func (p *proxy) pass(c *pipe, from, to net.Conn, requests bool) {
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && !p.deliver(c, to, buffer[:n], requests) {
			return
		}
		if err != nil {
			if requests && p.isHeld(c) && !errors.Is(err, io.EOF) {
				<-c.held
			}
			return
		}
	}
}

// deliver writes what was read once the rules allow it.
func (p *proxy) deliver(c *pipe, to net.Conn, data []byte, requests bool) bool {
	now, moved := p.now()
	for now.stall {
		<-moved
		now, moved = p.now()
	}
	if requests && p.isHeld(c) {
		<-c.held
	}
	if now.delay > 0 {
		time.Sleep(now.delay) // the network's time
	}
	if now.mute && !requests {
		return true
	}
	_, err := to.Write(data)
	return err == nil
}

func (p *proxy) isHeld(c *pipe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return c.held != nil
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pipes {
		if c.held == nil {
			c.near.Close()
			c.far.Close()
			delete(p.pipes, c)
		}
	}
}

// hold keeps what clients send from now on from the store.
func (p *proxy) hold() (pipes []*pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pipes {
		c.held = make(chan struct{})
		pipes = append(pipes, c)
	}
	return pipes
}

// abandon breaks held connections for the clients alone, which make new ones.
func abandon(pipes []*pipe) {
	for _, c := range pipes {
		c.near.Close()
	}
}

// release lets what was held arrive, after all that was sent since.
func (p *proxy) release(pipes []*pipe) {
	for _, c := range pipes {
		close(c.held)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pipes {
		delete(p.pipes, c)
	}
}
