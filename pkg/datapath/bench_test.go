package datapath

import (
	"log/slog"
	"net/netip"
	"testing"

	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// BenchmarkUpdate puts services of two backends in effect, one after the other.
func BenchmarkUpdate(b *testing.B) {
	d, err := Open(Config{
		BPFFS: sandbox.BPFFS(b) + "/causeway", Cgroup: sandbox.Cgroup(b),
		MapCapacity: 1 << 22, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	defer d.Remove()
	backends := []netip.AddrPort{addrPort(1), addrPort(2)}
	i := uint32(0)
	for b.Loop() {
		i++
		ip := netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
		s := Service{Frontend: Frontend{Addr: netip.AddrPortFrom(ip, 80), Protocol: TCP}, Groups: []Group{{Backends: backends}}}
		if err := d.Update(s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkUpdateAgain repeats what is in effect.
func BenchmarkUpdateAgain(b *testing.B) {
	d, err := Open(Config{
		BPFFS: sandbox.BPFFS(b) + "/causeway", Cgroup: sandbox.Cgroup(b),
		MapCapacity: 1 << 10, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	defer d.Remove()
	s := one("10.96.0.1:80", addrPort(1), addrPort(2))
	for b.Loop() {
		if err := d.Update(s); err != nil {
			b.Fatal(err)
		}
	}
}
