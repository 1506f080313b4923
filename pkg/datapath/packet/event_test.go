package packet

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/tests/frame"
)

// running has the plane read events until the test ends.
func running(t *testing.T, p *Plane) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
}

// receive returns the next event.
func receive(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(patience):
		t.Fatal("no event")
		return Event{}
	}
}

func TestEvents(t *testing.T) {
	p := prepared(t)
	running(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	events := p.Events(ctx)
	udp4 := func(from, to string) []byte { return packetOf(from, to) }
	at := netip.MustParseAddrPort
	west := frame.Outer{Source: addr("192.0.2.2"), Number: uint32(westPod + 1)}
	west6 := frame.Outer{Source: addr("2001:db8::2"), Number: uint32(southPod)}
	extended := frame.Ethernet(frame.TypeIPv6, frame.IPv6(addr("fd00:2::7"), addr("fd00:1::5"), frame.HopByHop, append(optionsHeader(frame.UDP), datagram()...)))
	for _, test := range []struct {
		name  string
		d     Direction
		outer frame.Outer
		data  []byte
		want  Event
	}{
		{"to", ToMesh, frame.Outer{}, udp4("10.1.0.5", "10.2.0.77"), Event{
			Reason: Destination, Source: at("10.1.0.5:40000"), Destination: at("10.2.0.77:53"), Identity: eastPod, Known: eastPod,
		}},
		{"to, unknown source", ToMesh, frame.Outer{}, udp4("10.1.0.99", "10.2.0.7"), Event{
			Reason: Source, Source: at("10.1.0.99:40000"), Destination: at("10.2.0.7:53"),
		}},
		{"to, no node", ToMesh, frame.Outer{}, udp4("10.1.0.5", "10.2.9.9"), Event{
			Reason: NoNode, Source: at("10.1.0.5:40000"), Destination: at("10.2.9.9:53"), Identity: eastPod, Known: eastPod, Cluster: 2,
		}},
		{"from, identity", FromMesh, west, udp4("10.2.0.7", "10.1.0.5"), Event{
			Reason: Identity, Source: at("10.2.0.7:40000"), Destination: at("10.1.0.5:53"), Tunnel: addr("192.0.2.2"), Cluster: 2,
			Identity: westPod + 1, Known: westPod,
		}},
		{"from, IPv6 with an extension", FromMesh, west6, extended, Event{
			Reason: Identity, Source: at("[fd00:2::7]:40000"), Destination: at("[fd00:1::5]:53"), Tunnel: addr("2001:db8::2"), Cluster: 2,
			Identity: southPod, Known: westPod,
		}},
		{"from, no node", FromMesh, frame.Outer{Source: addr("192.0.2.77"), Number: 5}, udp4("10.2.0.7", "10.1.0.5"), Event{
			Reason: NoNode, Source: at("10.2.0.7:40000"), Destination: at("10.1.0.5:53"), Tunnel: addr("192.0.2.77"), Identity: 5,
		}},
		{"from, later fragment", FromMesh, west, with(udp4("10.2.0.7", "10.1.0.5"), frame.EthernetLength+7, 9), Event{
			Reason: Identity, Source: at("10.2.0.7:0"), Destination: at("10.1.0.5:0"), Tunnel: addr("192.0.2.2"), Cluster: 2,
			Identity: westPod + 1, Known: westPod,
		}},
		{"from, ports cut", FromMesh, west, frame.IP(addr("10.2.0.7"), addr("10.1.0.5"), frame.UDP, []byte{1, 2}), Event{
			Reason: Identity, Source: at("10.2.0.7:0"), Destination: at("10.1.0.5:0"), Tunnel: addr("192.0.2.2"), Cluster: 2,
			Identity: westPod + 1, Known: westPod,
		}},
		{"no IP", FromMesh, west, frame.Ethernet(frame.TypeARP, make([]byte, 28)), Event{
			Reason: Protocol, Tunnel: addr("192.0.2.2"), Identity: westPod + 1,
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			begin := time.Now()
			judge(t, p, test.d, test.outer, test.data)
			got := receive(t, events)
			if got.Time.Before(begin.Add(-time.Second)) || got.Time.After(time.Now().Add(time.Second)) {
				t.Errorf("at %v, now is %v", got.Time, time.Now())
			}
			test.want.Time, test.want.Direction, test.want.Length = got.Time, test.d, len(test.data)
			if test.want.Source.IsValid() {
				test.want.Protocol = frame.UDP
			}
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
	cancel()
	for range events { // until it is closed
	}
}

// A flood is counted whole and shown in part, of each reason for itself; what a
// device sends of itself is never shown.
func TestEventRate(t *testing.T) {
	p := prepared(t)
	running(t, p)
	events := p.Events(t.Context())
	const flood = 5000
	run := func(d Direction, outer frame.Outer, data []byte) {
		t.Helper()
		h := p.hooks[1-d]
		arrival, err := frame.NewArrival(h.program, h.attach, outer, nil)
		must(t, err)
		defer arrival.Close()
		_, err = arrival.Bench(data, flood)
		must(t, err)
	}
	begin := time.Now()
	run(FromMesh, frame.Outer{Source: addr("192.0.2.2"), Number: 7}, packetOf("10.2.0.7", "10.1.0.5"))
	run(ToMesh, frame.Outer{}, packetOf("10.1.0.5", "224.0.0.22"))
	run(ToMesh, frame.Outer{}, packetOf("10.1.0.5", "10.2.0.77"))
	took := time.Since(begin)
	if by := counts(t, p); by[FromMesh][Identity] != flood || by[ToMesh][LinkScope] != flood || by[ToMesh][Destination] != flood {
		t.Errorf("%v", by)
	}
	// The last one tells that all before have been read.
	judge(t, p, ToMesh, frame.Outer{}, packetOf("10.1.0.5", "10.2.9.9"))
	shown := map[Reason]int{}
	for {
		e := receive(t, events)
		if e.Reason == NoNode {
			break
		}
		shown[e.Reason]++
	}
	most := eventBurst*possible(t) + int(took.Seconds()*eventRate) + 1
	if n := shown[Identity]; n < eventBurst || n > most {
		t.Errorf("%d events of %d packets, want %d to %d", n, flood, eventBurst, most)
	}
	if n := shown[Destination]; n < 1 || n > most {
		t.Errorf("%d events of the second reason", n)
	}
	if n := shown[LinkScope]; n != 0 {
		t.Errorf("%d events of what stays on its link", n)
	}
}

func possible(t *testing.T) int {
	t.Helper()
	n, err := ebpf.PossibleCPU()
	must(t, err)
	return n
}

// Events that find no room are counted, and the packets all the same.
func TestLostEvents(t *testing.T) {
	p := prepared(t)
	fill, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapPtr(asm.R1, p.maps.event.FD()),
		asm.StoreImm(asm.RFP, -8, 0, asm.Word), asm.StoreImm(asm.RFP, -4, 0, asm.Word), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.Mov.Imm(asm.R3, 8), asm.Mov.Imm(asm.R4, 1), asm.FnRingbufOutput.Call(),
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}})
	must(t, err)
	defer fill.Close()
	_, _, err = fill.Benchmark(make([]byte, 14), int(p.maps.event.MaxEntries())/16+1, nil)
	must(t, err)
	judge(t, p, ToMesh, frame.Outer{}, packetOf("10.1.0.5", "10.2.0.77"))
	all, err := p.Counts()
	must(t, err)
	for _, c := range all {
		want := uint64(0)
		if c.Direction == ToMesh && c.Reason == Destination {
			want = 1
		}
		if c.LostEvents != want || c.Packets != want {
			t.Errorf("%+v, want %d", c, want)
		}
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for r := range reasons {
		if seen[r.String()] || r.String() == "" {
			t.Errorf("reason %d is called %q", r, r)
		}
		seen[r.String()] = true
	}
	if got := reasons.String(); got != "reason-15" {
		t.Errorf("%q", got)
	}
	if ToMesh.String() != "to_mesh" || FromMesh.String() != "from_mesh" {
		t.Errorf("%v, %v", ToMesh, FromMesh)
	}
	if _, ok := decodeEvent([]byte("short")); ok {
		t.Error("a short event is one")
	}
}
