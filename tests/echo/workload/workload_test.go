package workload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var me = Identity{Cluster: "east", Node: "n1", Namespace: "shop", Pod: "web-0"}

// serve runs a server on free ports of the loopback and returns their
// addresses: TCP, then UDP. stop ends it.
func serve(t *testing.T) (tcp, udp string, stop func()) {
	t.Helper()
	server, err := Listen(ServerConfig{
		Identity: me, Host: "127.0.0.1", TCP: []int{0}, UDP: []int{0}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	}
	t.Cleanup(stop)
	return server.Addrs()[0].String(), server.Addrs()[1].String(), stop
}

func TestAsk(t *testing.T) {
	tcp, udp, _ := serve(t)
	for protocol, target := range map[string]string{TCP: tcp, HTTP: tcp, UDP: udp, Mapped: tcp} {
		r := Ask(t.Context(), protocol, target)
		if r.Error != "" || r.Identity != me || r.Peer != target || r.Local != target || r.Remote == "" || r.Millis <= 0 {
			t.Errorf("%s: %+v", protocol, r)
		}
	}
	if r := Ask(t.Context(), "sctp", tcp); !strings.Contains(r.Error, "none of tcp, udp, http") {
		t.Errorf("unknown protocol: %+v", r)
	}
}

// TestMapped looks at the socket itself: Go shows its addresses as IPv4.
func TestMapped(t *testing.T) {
	tcp, _, _ := serve(t)
	conn, err := dial(t.Context(), Mapped, tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var family int
	err = raw.Control(func(fd uintptr) { family, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_DOMAIN) })
	if err != nil || family != syscall.AF_INET6 {
		t.Errorf("a socket of family %d, %v", family, err)
	}
}

func TestAskFailures(t *testing.T) {
	tcp, _, stop := serve(t)
	stop()
	if r := Ask(t.Context(), TCP, tcp); r.Error != "connection refused" {
		t.Errorf("nobody listens: %q", r.Error)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if r := Ask(ctx, HTTP, silent.Addr().String()); r.Error != "timeout" {
		t.Errorf("no answer: %q", r.Error)
	}
	go func() {
		for {
			conn, err := silent.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
	}()
	if r := Ask(t.Context(), TCP, silent.Addr().String()); r.Error != "closed without an answer" {
		t.Errorf("closed: %q", r.Error)
	}
}

// TestEchoes sends lines to a TCP port: first the server names itself, then all
// comes back, what asked for the name included.
func TestEchoes(t *testing.T) {
	tcp, _, _ := serve(t)
	conn, err := net.Dial("tcp", tcp)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "GETTING\nmore\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	for _, want := range []string{`"pod":"web-0"`, "GETTING\n", "more\n"} {
		line, err := in.ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Errorf("got %q (%v), want %q in it", line, err, want)
		}
	}
}

// TestKeepAlive sends two requests over one connection that began with HTTP.
func TestKeepAlive(t *testing.T) {
	tcp, _, _ := serve(t)
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	var remotes []string
	for range 2 {
		response, err := client.Get("http://" + tcp + "/any/path")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if err != nil || !strings.Contains(string(body), `"cluster":"east"`) {
			t.Errorf("got %q (%v)", body, err)
		}
		remotes = append(remotes, string(body))
	}
	if remotes[0] != remotes[1] {
		t.Errorf("not one connection: %v", remotes)
	}
}

func TestSpeaksHTTP(t *testing.T) {
	for text, want := range map[string]bool{
		"GET / HTTP/1.1\r\n": true, "DELETE /x": true, "\n": false, "G": false, "GOT\n": false, "PATCHES": false,
	} {
		got, err := speaksHTTP(bufio.NewReader(strings.NewReader(text)))
		if got != want || (text == "G") != (err != nil) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestListenAllOrNone takes a port that is in use: the others are let go.
func TestListenAllOrNone(t *testing.T) {
	tcp, udp, _ := serve(t)
	for _, cfg := range []ServerConfig{
		{Host: "127.0.0.1", TCP: []int{0, portOf(t, tcp)}},
		{Host: "127.0.0.1", UDP: []int{0, portOf(t, udp)}},
	} {
		if _, err := Listen(cfg); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

func TestReason(t *testing.T) {
	for want, err := range map[string]error{
		"":                         nil,
		"timeout":                  fmt.Errorf("read: %w", context.DeadlineExceeded),
		"no route to host":         &net.OpError{Op: "dial", Err: syscall.EHOSTUNREACH},
		"closed without an answer": io.ErrUnexpectedEOF,
		"something else":           errors.New("something else"),
	} {
		if diff := cmp.Diff(want, Reason(err)); diff != "" {
			t.Errorf("%v: %s", err, diff)
		}
	}
}
