package workload

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// ServerConfig says who a server is and where it listens.
type ServerConfig struct {
	Identity Identity
	// Host is the address to listen on; "" is every address of both families.
	Host string
	// TCP and UDP are port numbers; 0 takes a free one.
	TCP []int
	UDP []int
	Log *slog.Logger
}

// Server answers on a set of ports. A TCP port speaks HTTP to a client that
// begins with an HTTP method; any other client gets the Answer as one line of
// JSON as soon as it has sent a byte, and from then on all that it sends. A
// datagram is answered by one that holds the line and then the datagram.
type Server struct {
	identity Identity
	log      *slog.Logger
	streams  []net.Listener
	packets  []net.PacketConn
}

// Listen binds all ports of cfg or none. Connections wait until Run.
func Listen(cfg ServerConfig) (*Server, error) {
	s := &Server{identity: cfg.Identity, log: cfg.Log}
	for _, port := range cfg.TCP {
		l, err := net.Listen("tcp", net.JoinHostPort(cfg.Host, strconv.Itoa(port)))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on tcp port %d: %w", port, err), s.Close())
		}
		s.streams = append(s.streams, l)
	}
	for _, port := range cfg.UDP {
		c, err := net.ListenPacket("udp", net.JoinHostPort(cfg.Host, strconv.Itoa(port)))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on udp port %d: %w", port, err), s.Close())
		}
		s.packets = append(s.packets, c)
	}
	return s, nil
}

// Addrs returns the bound addresses, TCP first, in the order of the config.
func (s *Server) Addrs() []net.Addr {
	var addrs []net.Addr
	for _, l := range s.streams {
		addrs = append(addrs, l.Addr())
	}
	for _, c := range s.packets {
		addrs = append(addrs, c.LocalAddr())
	}
	return addrs
}

// Close frees the ports of a Server that was not run.
func (s *Server) Close() error {
	var errs []error
	for _, l := range s.streams {
		errs = append(errs, ignoreClosed(l.Close()))
	}
	for _, c := range s.packets {
		errs = append(errs, ignoreClosed(c.Close()))
	}
	return errors.Join(errs...)
}

// Run answers until ctx ends, then closes every port and connection and
// returns nil.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	open := &connections{conns: map[net.Conn]struct{}{}}
	requests := newHandoff()
	web := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	group.Go(func() error {
		if err := web.Serve(requests); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve http: %w", err)
		}
		return nil
	})
	for _, l := range s.streams {
		group.Go(func() error { return s.accept(l, open, requests) })
	}
	for _, c := range s.packets {
		group.Go(func() error { return s.reflect(c) })
	}
	group.Go(func() error {
		<-ctx.Done()
		open.closeAll()
		return errors.Join(s.Close(), web.Close())
	})
	err := group.Wait()
	open.handlers.Wait()
	return err
}

// ServeHTTP answers any request with the Answer as one line of JSON.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(s.line(local, r.RemoteAddr))
}

func (s *Server) line(local net.Addr, remote string) []byte {
	answer := Answer{Identity: s.identity, Remote: remote}
	if local != nil {
		answer.Local = local.String()
	}
	line, _ := json.Marshal(answer) // strings only: cannot be refused
	return append(line, '\n')
}

func (s *Server) accept(l net.Listener, open *connections, requests *handoff) error {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		if !open.add(conn) {
			_ = conn.Close()
			continue
		}
		open.handlers.Go(func() {
			defer open.remove(conn)
			s.talk(conn, requests)
		})
	}
}

// talk finds out what the client speaks. It owns conn, unless the HTTP server
// takes it over.
func (s *Server) talk(conn net.Conn, requests *handoff) {
	in := bufio.NewReader(conn)
	web, err := speaksHTTP(in)
	if err == nil && web && requests.give(&bufferedConn{Conn: conn, in: in}) {
		return
	}
	defer func() { _ = conn.Close() }()
	if err != nil {
		return // it left without a byte
	}
	if _, err := conn.Write(s.line(conn.LocalAddr(), conn.RemoteAddr().String())); err != nil {
		s.log.Debug("client left", "client", conn.RemoteAddr().String(), "error", err)
		return
	}
	if _, err := io.Copy(conn, in); err != nil {
		s.log.Debug("client left", "client", conn.RemoteAddr().String(), "error", err)
	}
}

func (s *Server) reflect(c net.PacketConn) error {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read a datagram on %s: %w", c.LocalAddr(), err)
		}
		reply := append(s.line(c.LocalAddr(), from.String()), buf[:n]...)
		if _, err := c.WriteTo(reply, from); err != nil {
			s.log.Debug("datagram not answered", "client", from.String(), "error", err)
		}
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// connections are the open ones that the HTTP server does not own.
type connections struct {
	handlers sync.WaitGroup
	mu       sync.Mutex
	closed   bool
	conns    map[net.Conn]struct{}
}

func (c *connections) add(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.conns[conn] = struct{}{}
	return true
}

func (c *connections) remove(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
}

func (c *connections) closeAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for conn := range c.conns {
		_ = conn.Close()
	}
}
