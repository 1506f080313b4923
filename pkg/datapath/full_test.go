package datapath

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// A map that is full keeps what it has, of each service all or nothing.
func TestMapFull(t *testing.T) {
	registry := prometheus.NewRegistry()
	d := open(t, func(c *Config) { c.MapCapacity, c.Registerer = 8, registry })
	all := echoes(t, 12)
	first := one("10.96.0.1:80", all[:5]...)
	update(t, d, first)
	services, slots, backends := contents(t, d)

	grown := one("10.96.0.1:80", all[2:]...)
	second := one("10.96.0.2:80", all[:4]...)
	for name, s := range map[string]Service{"grown": grown, "second": second} {
		if err := d.Update(s); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), s.Frontend.String()) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	services2, slots2, backends2 := contents(t, d)
	if fmt.Sprint(services, slots, backends) != fmt.Sprint(services2, slots2, backends2) {
		t.Error("a service that did not fit left something behind")
	}
	wantServices(t, d, first)
	if got := count(t, "10.96.0.1:80", 100); len(got) != 5 {
		t.Errorf("answered by %v", got)
	}
	want := map[string]float64{
		"causeway_datapath_map_entries backend": 5, "causeway_datapath_map_capacity_entries backend": 8,
		"causeway_datapath_map_entries service": 1, "causeway_datapath_map_capacity_entries service": 8,
		"causeway_datapath_map_entries slot": 5, "causeway_datapath_map_capacity_entries slot": 8,
		"causeway_datapath_map_entries affinity": 0, "causeway_datapath_map_capacity_entries affinity": smallestLRU,
		"causeway_datapath_map_entries reverse": 0, "causeway_datapath_map_capacity_entries reverse": smallestLRU,
	}
	if diff := cmp.Diff(want, gather(t, registry)); diff != "" {
		t.Errorf("metrics: %s", diff)
	}

	// Room is made, and what was refused fits.
	first.Groups[0].Backends = all[:4]
	update(t, d, first)
	if _, err := d.sweep(time.Now().Add(grace)); err != nil {
		t.Fatal(err)
	}
	update(t, d, second)
	wantServices(t, d, first, second)
}

// gather returns the gauges of a registry by name and label.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if len(m.GetLabel()) == 1 {
				all[f.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
	}
	return all
}

// The service map alone is full: slots and backends would fit.
func TestServiceMapFull(t *testing.T) {
	d := open(t, func(c *Config) { c.MapCapacity = 4 })
	for i := range 4 {
		update(t, d, one(fmt.Sprintf("10.96.0.%d:80", i+1)))
	}
	if err := d.Update(one("10.96.0.9:80", addrPort(1))); !errors.Is(err, ErrFull) {
		t.Errorf("got %v", err)
	}
	_, slots, backends := contents(t, d)
	if len(slots)+len(backends) != 0 {
		t.Errorf("left: %v, %v", slots, backends)
	}
	if err := d.SelfTest(t.Context()); !errors.Is(err, ErrFull) {
		t.Errorf("self-test: got %v", err)
	}
	update(t, d, one("10.96.0.4:80", addrPort(1))) // there is room in what is there
}

func TestSweepWaits(t *testing.T) {
	d := open(t)
	s := one("10.96.0.1:80", addrPort(1), addrPort(2), addrPort(3))
	update(t, d, s)
	s.Groups[0].Backends = s.Groups[0].Backends[:1]
	update(t, d, s)
	size := func() int {
		_, slots, backends := contents(t, d)
		return len(slots) + len(backends)
	}
	if next, err := d.sweep(time.Now()); err != nil || next <= 0 || next > grace || size() != 6 {
		t.Errorf("swept too early: %v, %v, %d entries", next, err, size())
	}
	// A slot is used again before its time has come.
	s.Groups[0].Backends = []netip.AddrPort{addrPort(1), addrPort(4)}
	update(t, d, s)
	if next, err := d.sweep(time.Now().Add(2 * grace)); err != nil || next != 0 || size() != 4 {
		t.Errorf("after the sweep: %v, %v, %d entries, want 4", next, err, size())
	}
	wantServices(t, d, s)
}

func TestRunSweeps(t *testing.T) {
	d := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	update(t, d, one("10.96.0.1:80", addrPort(1)))
	if err := d.Delete(frontend("10.96.0.1:80")); err != nil {
		t.Fatal(err)
	}
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for left := -1; left != 0; {
		select {
		case <-deadline.C:
			t.Fatalf("%d entries are left", left)
		case <-look.C:
			_, slots, backends := contents(t, d)
			left = len(slots) + len(backends)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// connect connects and returns the peer, without a word to it: as often as can be.
func connect(addr netip.AddrPort) (netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.AddrPort{}, err
	}
	defer unix.Close(fd)
	// A reset instead of TIME_WAIT, or the ports run out.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return netip.AddrPort{}, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err != nil {
		return netip.AddrPort{}, err
	}
	peer, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	p := peer.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(p.Addr), uint16(p.Port)), nil
}

// Services are replaced under connects, and elements of the maps pass
// from key to key; each connect must reach a backend of its own service.
// The third byte of a backend's address is its service.
func TestReplaceUnderConnects(t *testing.T) {
	const services, backends = 6, 8
	d := open(t, func(c *Config) { c.MapCapacity = 1 << 20 }) // the writer outruns the sweep
	random := rand.New(rand.NewPCG(1, 2))
	all := make([][]netip.AddrPort, services)
	for i := range all {
		for j := range backends {
			all[i] = append(all[i], netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i + 1), byte(j + 1)}), 8080))
		}
	}
	listen(t, "0.0.0.0:8080")
	address := func(i int) netip.AddrPort { return netip.MustParseAddrPort(fmt.Sprintf("10.96.0.%d:80", i+1)) }
	change := func(i int) Service {
		order := random.Perm(backends)[:1+random.IntN(backends)]
		s := Service{Frontend: Frontend{Addr: address(i), Protocol: TCP}, Groups: make([]Group, 1+random.IntN(2))}
		for n, j := range order {
			g := &s.Groups[n%len(s.Groups)]
			g.Backends = append(g.Backends, all[i][j])
		}
		return s
	}
	for i := range services {
		update(t, d, change(i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var reads atomic.Int64
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for i := 0; ctx.Err() == nil; i = (i + 1) % services {
				peer, err := connect(address(i))
				if err != nil || int(peer.Addr().As4()[2]) != i+1 {
					t.Errorf("service %d: connected to %v, %v", i+1, peer, err)
					cancel()
				}
				reads.Add(1)
			}
		})
	}
	writes := 0
	other := Frontend{Addr: netip.MustParseAddrPort("10.96.1.1:80"), Protocol: TCP}
	for ; ctx.Err() == nil; writes++ {
		s := change(random.IntN(services))
		if err := d.Update(s); err != nil {
			t.Error(err)
			break
		}
		// Another key comes and goes, so that elements change hands.
		s.Frontend = other
		if err := errors.Join(d.Update(s), d.Delete(other)); err != nil {
			t.Error(err)
			break
		}
		if writes%64 == 0 {
			if _, err := d.sweep(time.Now()); err != nil {
				t.Error(err)
			}
		}
	}
	readers.Wait()
	t.Logf("%d changes, %d connections", writes, reads.Load())
}

// listen accepts and closes whatever comes.
func listen(t *testing.T, addr string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddrPort(addr)
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}),
		unix.Listen(fd, 4096),
	); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return
			}
			unix.Close(conn)
		}
	}()
	t.Cleanup(func() {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // wakes the accept
		<-done
		unix.Close(fd)
	})
}
