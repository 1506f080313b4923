package packet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/frame"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// filters returns those of the device. It is called in the site's namespace.
func (s *site) filters(attach ebpf.AttachType) ([]*netlink.BpfFilter, error) {
	device, err := netlink.LinkByName("mesh0")
	if err != nil {
		return nil, err
	}
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if attach == ebpf.AttachTCXEgress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	all, err := netlink.FilterList(device, parent)
	var out []*netlink.BpfFilter
	for _, f := range all {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Handle != 0 {
			out = append(out, b)
		}
	}
	return out, err
}

// attached fails unless exactly one program runs at each end, by that method.
func (s *site) attached(t testing.TB, m Method) {
	t.Helper()
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		if got := s.programs(t, attach); len(got) != 1 {
			t.Errorf("programs %v, want one", got)
		}
		s.do(t, "read filters", func() error {
			all, err := s.filters(attach)
			if (len(all) == 1) != (m == Clsact) {
				t.Errorf("%d filters, attached by %s", len(all), m)
			}
			return err
		})
	}
	if by := s.plane.Attached(); by[m] != 2 || by[TCX]+by[Clsact] != 2 {
		t.Errorf("attached: %v, want by %s", by, m)
	}
}

// each runs a test with the programs attached in either way.
func each(t *testing.T, test func(t *testing.T, m Method)) {
	t.Helper()
	for _, m := range []Method{TCX, Clsact} {
		t.Run(string(m), func(t *testing.T) { test(t, m) })
	}
}

// forge sends packets of a false identity from far to near all the time, whose
// frames are for near's device: what lets them in is nothing but the absence of
// the program. stop returns how many arrived.
func forge(t *testing.T, near, far *site) (stop func() (arrived int)) {
	t.Helper()
	data := frame.VXLAN(uint32(westPod+1), packetOf("10.2.0.7", "10.1.0.5"))
	near.do(t, "read the device's address", func() error {
		device, err := net.InterfaceByName("mesh0")
		if err == nil {
			copy(data[8:], device.HardwareAddr) // behind the header of VXLAN
		}
		return err
	})
	conn, server := far.listen(t, netip.MustParseAddrPort("192.0.2.2:0")), near.listen(t, netip.MustParseAddrPort("10.1.0.5:53"))
	for _, c := range []*net.UDPConn{conn, server} {
		must(t, c.SetDeadline(time.Time{})) // it ends by stop, or with the test
	}
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	both.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			if _, err := conn.WriteToUDPAddrPort(data, netip.AddrPortFrom(addr("192.0.2.1"), meshPort)); err != nil {
				t.Errorf("send: %v", err)
				return
			}
		}
	})
	arrived := 0
	both.Go(func() {
		for {
			if _, err := server.Read(make([]byte, 100)); err != nil {
				return // closed
			}
			arrived++
		}
	})
	return func() int {
		cancel()
		_ = server.Close()
		both.Wait()
		return arrived
	}
}

// judged waits until a forged packet was dropped that was sent after the call.
func (s *site) judged(t *testing.T) {
	t.Helper()
	before := counts(t, s.plane)[FromMesh][Identity]
	s.eventually(t, "a forged packet is judged", func() bool { return counts(t, s.plane)[FromMesh][Identity] >= before+2 })
}

func (s *site) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// TestOtherMethod has the next process attach the programs in another way while
// forged packets come in. None may pass, and only one of the two is left. That
// good ones are lost for a moment is the kernel's doing: it stops the device where
// it gets a queueing discipline, or loses it.
func TestOtherMethod(t *testing.T) {
	near, far := wired(t, TCX)
	joined(t, near, far, either)
	stopForging := forge(t, near, far)
	c := near.plane.config
	for _, c.Method = range []Method{Clsact, TCX, Clsact, Auto} {
		near.reopen(t, c)
		near.do(t, "attach", near.plane.Attach)
		want := c.Method
		if want == Auto {
			want = TCX // as this kernel has it
		}
		near.attached(t, want)
		near.judged(t)
		stop := flow(t, near, far)
		if sent, arrived := stop(); sent != arrived {
			t.Errorf("%d packets sent, %d arrived", sent, arrived)
		}
	}
	if arrived := stopForging(); arrived > 0 {
		t.Errorf("%d forged packets passed", arrived)
	}
}

// What somebody else has on our device stays there: his filters, when ours go.
func TestOthersFilter(t *testing.T) {
	near, _ := wired(t, Clsact)
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	must(t, err)
	defer other.Close()
	near.do(t, "add a filter", func() error {
		index, err := meshIndex()
		return errors.Join(err, netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 7, Protocol: unix.ETH_P_ALL},
			Fd:          other.FD(), Name: "other", DirectAction: true,
		}))
	})
	must(t, near.plane.Remove())
	if got := near.programs(t, ebpf.AttachTCXEgress); len(got) != 1 {
		t.Errorf("programs %v, want the other one", got)
	}
	if got := near.programs(t, ebpf.AttachTCXIngress); len(got) != 0 {
		t.Errorf("programs %v are left", got)
	}
}

// Where the old discipline for ingress alone is in the place, the error says so.
func TestOthersDiscipline(t *testing.T) {
	near, _ := wired(t, TCX)
	near.do(t, "add the discipline", func() error {
		index, err := meshIndex()
		return errors.Join(err, netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Parent: netlink.HANDLE_INGRESS}}))
	})
	c := near.plane.config
	c.Method = Clsact
	near.reopen(t, c)
	if err := near.space.Do(near.plane.Attach); err == nil || !strings.Contains(err.Error(), "tc qdisc del dev mesh0 ingress") {
		t.Errorf("error %v", err)
	}
	near.attached(t, TCX) // what ran before still runs
}

// A key larger than the kernel knows is what a smaller one is to an old kernel.
func TestTakesTunnelKey(t *testing.T) {
	sandbox.Require(t)
	for size, want := range map[int16]bool{tunnelKeyBytes: true, tunnelKeyBytes + 4: false} {
		if got, err := takesTunnelKey(size); got != want || err != nil {
			t.Errorf("%d bytes: %v, %v", size, got, err)
		}
	}
}
