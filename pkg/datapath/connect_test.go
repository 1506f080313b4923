package datapath

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// open returns a Datapath on a BPF file system of its own, attached above this process.
func open(t *testing.T, change ...func(*Config)) *Datapath {
	t.Helper()
	d, err := tryOpen(t, config(t, change...))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func config(t *testing.T, change ...func(*Config)) Config {
	t.Helper()
	c := Config{BPFFS: sandbox.BPFFS(t) + "/causeway", Cgroup: sandbox.Cgroup(t), MapCapacity: 4096, Logger: logger(t)}
	for _, f := range change {
		f(&c)
	}
	return c
}

func tryOpen(t *testing.T, c Config) (*Datapath, error) {
	t.Helper()
	d, err := Open(c)
	if err == nil {
		t.Cleanup(func() {
			// The folder's pins are the test's: one Datapath of many removes them.
			if err := errors.Join(d.Remove(), d.Close()); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	return d, err
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// echo listens on addr and answers each connection with its own address.
func echo(t *testing.T, addr string) netip.AddrPort {
	t.Helper()
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, listener.Addr().String())
			conn.Close()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-done })
	return netip.MustParseAddrPort(listener.Addr().String())
}

// dial connects and returns who answered.
func dial(network, addr string) (netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(string(answer))
}

// dialMapped connects an IPv6 socket to ::ffff:a.b.c.d, as a program does that
// knows IPv6 sockets alone, and returns who it says its peer is.
func dialMapped(addr netip.AddrPort) (netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: addr.Addr().As16(), Port: int(addr.Port())}); err != nil {
		return netip.AddrPort{}, err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	p := peer.(*unix.SockaddrInet6)
	return netip.AddrPortFrom(netip.AddrFrom16(p.Addr).Unmap(), uint16(p.Port)), nil
}

func frontend(addr string) Frontend {
	return Frontend{Addr: netip.MustParseAddrPort(addr), Protocol: TCP}
}

func one(addr string, backends ...netip.AddrPort) Service {
	return Service{Frontend: frontend(addr), Groups: []Group{{Backends: backends}}}
}

func update(t *testing.T, d *Datapath, services ...Service) {
	t.Helper()
	for _, s := range services {
		if err := d.Update(s); err != nil {
			t.Fatal(err)
		}
	}
}

func wantAnswer(t *testing.T, network, addr string, want netip.AddrPort) {
	t.Helper()
	if got, err := dial(network, addr); err != nil || got != want {
		t.Errorf("%s %s: answered by %v, %v; want %v", network, addr, got, err, want)
	}
}

func wantNone(t *testing.T, network, addr string) {
	t.Helper()
	if got, err := dial(network, addr); err == nil {
		t.Errorf("%s %s: answered by %v, want none", network, addr, got)
	}
}

// awaitNone waits for nobody to answer: some kernels detach a program a moment after
// nothing holds it any more.
func awaitNone(t *testing.T, network, addr string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := dial(network, addr); err != nil {
			return
		}
	}
	wantNone(t, network, addr)
}

func TestConnect(t *testing.T) {
	d := open(t)
	v4, v6 := echo(t, "10.1.0.1:8080"), echo(t, "[fd00:1::1]:8080")
	other := echo(t, "10.1.0.2:5353")
	update(t, d,
		one("10.96.0.1:80", v4), one("[fd00:96::1]:80", v6),
		one("10.96.0.1:53", other), // a second port of the same address
	)
	t.Run("v4", func(t *testing.T) { wantAnswer(t, "tcp4", "10.96.0.1:80", v4) })
	t.Run("v6", func(t *testing.T) { wantAnswer(t, "tcp6", "[fd00:96::1]:80", v6) })
	t.Run("mapped", func(t *testing.T) {
		if got, err := dialMapped(netip.MustParseAddrPort("10.96.0.1:80")); err != nil || got != v4 {
			t.Errorf("connected to %v, %v; want %v", got, err, v4)
		}
	})
	t.Run("second port", func(t *testing.T) { wantAnswer(t, "tcp4", "10.96.0.1:53", other) })
	t.Run("other port", func(t *testing.T) { wantNone(t, "tcp4", "10.96.0.1:81") })
	t.Run("other address", func(t *testing.T) { wantNone(t, "tcp4", "10.96.0.2:80") })
	t.Run("not a service", func(t *testing.T) { wantAnswer(t, "tcp4", v4.String(), v4) })
	t.Run("udp is left alone", func(t *testing.T) {
		conn, err := net.Dial("udp4", "10.1.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got := conn.RemoteAddr().String(); got != "10.1.0.1:80" {
			t.Errorf("connected to %s", got)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		for range 2 { // the second finds nothing to do
			if err := d.Delete(frontend("10.96.0.1:80")); err != nil {
				t.Fatal(err)
			}
		}
		wantNone(t, "tcp4", "10.96.0.1:80")
	})
}

// An address that is served in some other way, as kube-proxy does, must stay so
// while the service has no backend here.
func TestConnectWithoutBackendIsLeftAlone(t *testing.T) {
	d := open(t)
	before := echo(t, "10.1.0.1:80")
	s := one(before.String(), echo(t, "10.1.0.2:80"))
	update(t, d, s)
	wantAnswer(t, "tcp4", before.String(), s.Groups[0].Backends[0])
	s.Groups[0].Backends = nil
	update(t, d, s)
	wantAnswer(t, "tcp4", before.String(), before)
	s.Groups = nil
	update(t, d, s)
	wantAnswer(t, "tcp4", before.String(), before)
}

// count dials n times and returns how often each backend answered.
func count(t *testing.T, addr string, n int) map[netip.AddrPort]int {
	t.Helper()
	answers := map[netip.AddrPort]int{}
	for range n {
		who, err := dial("tcp4", addr)
		if err != nil {
			t.Fatal(err)
		}
		answers[who]++
	}
	return answers
}

func echoes(t *testing.T, n int) []netip.AddrPort {
	t.Helper()
	all := make([]netip.AddrPort, n)
	for i := range all {
		all[i] = echo(t, fmt.Sprintf("10.1.1.%d:8080", i+1))
	}
	return all
}

// within reports whether the share of n is that of want to total, with room for
// five standard deviations.
func within(t *testing.T, what string, got, n int, share float64) {
	t.Helper()
	mean := float64(n) * share
	if diff := float64(got) - mean; diff*diff > 25*mean*(1-share)+1e-9 {
		t.Errorf("%s: %d of %d, want about %.0f", what, got, n, mean)
	}
}

func TestDistribution(t *testing.T) {
	d := open(t)
	const n = 1500
	all := echoes(t, 12)
	tests := []struct {
		name   string
		groups []Group
		want   []float64 // share of each of all
	}{
		{"inline", []Group{{Backends: all[:3]}}, []float64{1. / 3, 1. / 3, 1. / 3}},
		{"inline and slots", []Group{{Backends: all[:6]}}, []float64{1. / 6, 1. / 6, 1. / 6, 1. / 6, 1. / 6, 1. / 6}},
		{"groups by size", []Group{{Backends: all[:1]}, {Backends: all[1:4]}}, []float64{.25, .25, .25, .25}},
		{"weights", []Group{{Weight: 90, Backends: all[:2]}, {Weight: 10, Backends: all[2:3]}}, []float64{.45, .45, .1}},
		{"lowest tier alone", []Group{{Tier: 1, Backends: all[:3]}, {Tier: 0, Backends: all[3:4]}}, []float64{0, 0, 0, 1}},
		{"empty tier", []Group{{Tier: 0}, {Tier: 1, Backends: all[:2]}}, []float64{.5, .5}},
		{"weight of an empty group", []Group{{Weight: 90}, {Weight: 10, Backends: all[:2]}}, []float64{.5, .5}},
		{"greatest tier", []Group{{Tier: 255, Backends: all[:1]}}, []float64{1}},
		{
			"eight groups",
			[]Group{
				{Tier: 2, Backends: all[8:9]},
				{Tier: 1, Weight: 1, Backends: all[:1]},
				{Tier: 1, Weight: 1, Backends: all[1:2]},
				{Tier: 1, Weight: 1, Backends: all[2:3]},
				{Tier: 1, Weight: 1, Backends: all[3:4]},
				{Tier: 0},
				{Tier: 2, Backends: all[9:10]},
				{Tier: 1, Weight: 4, Backends: all[4:6]},
			},
			[]float64{.125, .125, .125, .125, .25, .25},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			update(t, d, Service{Frontend: frontend("10.96.0.1:80"), Groups: test.groups})
			answers := count(t, "10.96.0.1:80", n)
			for i, backend := range all {
				share := 0.
				if i < len(test.want) {
					share = test.want[i]
				}
				within(t, fmt.Sprintf("backend %d", i), answers[backend], n, share)
			}
		})
	}
}
