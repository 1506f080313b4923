package feed

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/causeway-mesh/causeway/pkg/service"
)

// BenchmarkStart is what an agent does at its start with the last state of
// 100,000 services of two backends, until the Sink has it.
func BenchmarkStart(b *testing.B) {
	cfg := StateConfig{Dir: b.TempDir(), Cluster: "east", Boot: "1", Logger: slog.New(slog.DiscardHandler)}
	s := OpenState(cfg)
	if _, err := s.accept(manyServices(b, 100_000)); err != nil {
		b.Fatal(err)
	}
	s.settle()
	if err := s.close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		s := OpenState(cfg)
		batch, ok, err := s.whole()
		if !ok || err != nil || len(batch.Delta.Views) != 100_000 || len(batch.Delta.Slices) != 100_000 {
			b.Fatal(ok, err, len(batch.Delta.Views), len(batch.Delta.Slices))
		}
		if err := s.close(); err != nil {
			b.Fatal(err)
		}
	}
}

// manyServices returns a change that adds n services of two backends.
func manyServices(tb testing.TB, n int) *incoming {
	tb.Helper()
	address := func(base byte, i int) netip.Addr {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], uint32(base)<<24+uint32(i))
		return netip.AddrFrom4(ip)
	}
	in := newIncoming()
	in.revision = Revision{Epoch: "e", N: 1}
	add := func(encoded []byte, err error) {
		if err != nil {
			tb.Fatal(err)
		}
		r, err := decode(encoded)
		if err != nil {
			tb.Fatal(err)
		}
		in.changes[r.key] = told{r, encoded}
	}
	for i := range n {
		v := view(fmt.Sprintf("service-%d", i), "east", "west")
		v.Frontends[0].IP = address(11, i)
		add(encodeView(v))
		s := slice(v.Name.Name, 0)
		for j := range 2 {
			s.Endpoints = append(s.Endpoints, service.BackendEndpoint{
				IP: address(10, 2*i+j), Node: fmt.Sprintf("node-%d", i%100), Pod: fmt.Sprintf("app-%d-7d4b9c6f5d-x2x9z", 2*i+j),
			})
		}
		add(encodeSlice(s))
	}
	return in
}
