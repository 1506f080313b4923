package kubelab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// egressConfig has kube-apiserver reach nodes by a proxy: they are in networks of
// their own. It speaks HTTP's CONNECT on a socket in the control plane's folder.
const egressConfig = `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection: {proxyProtocol: HTTPConnect, transport: {uds: {udsName: SOCKET}}}
`

// egressTimeout is for a connection to a node, which is on the same machine.
const egressTimeout = 10 * time.Second

// egress is the proxy. Logs of pods, exec and forwarded ports go through it.
type egress struct {
	listener net.Listener
	group    sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]*Node // by address
	open  map[net.Conn]struct{}
	ended bool
}

func newEgress(socket string) (*egress, error) {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("make the way to nodes: %w", err)
	}
	e := &egress{listener: listener, nodes: map[string]*Node{}, open: map[net.Conn]struct{}{}}
	e.group.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return // closed
			}
			e.group.Go(func() { e.carry(near) })
		}
	})
	return e, nil
}

// close ends all connections and returns when nothing runs any more. It may be
// called again.
func (e *egress) close() error {
	err := e.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	e.mu.Lock()
	e.ended = true
	for connection := range e.open {
		_ = connection.Close()
	}
	e.mu.Unlock()
	e.group.Wait()
	return err
}

// add lets the node be reached; of two with one address, the later.
func (e *egress) add(n *Node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nodes[n.address] = n
}

// forget ends that, before the node does.
func (e *egress) forget(n *Node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.nodes[n.address] == n {
		delete(e.nodes, n.address)
	}
}

func (e *egress) carry(near net.Conn) {
	defer e.done(near)
	if !e.keep(near) {
		return
	}
	reader := bufio.NewReader(near)
	request, err := http.ReadRequest(reader)
	if err != nil || request.Method != http.MethodConnect {
		return
	}
	far, err := e.dial(request.Host)
	if err != nil {
		_, _ = fmt.Fprintf(near, "HTTP/1.1 502 Bad Gateway\r\n\r\n%v", err)
		return
	}
	defer e.done(far)
	if !e.keep(far) {
		return
	}
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(near, far) // an end of either kind is one
		_ = near.Close()
	}()
	_, _ = io.Copy(far, reader)
	_ = far.Close()
	<-back
}

// dial holds the lock while it enters the node's network, so that this stays.
func (e *egress) dial(address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.nodes[host]
	if n == nil {
		return nil, fmt.Errorf("no node has the address %s", host)
	}
	ctx, cancel := context.WithTimeout(context.Background(), egressTimeout)
	defer cancel()
	return n.Dial(ctx, "tcp", address)
}

// keep reports false when the proxy was closed meanwhile.
func (e *egress) keep(c net.Conn) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open[c] = struct{}{}
	return !e.ended
}

func (e *egress) done(c net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.open, c)
	_ = c.Close()
}
