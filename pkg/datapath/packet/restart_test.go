package packet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/tests/frame"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// programs returns the ids of what runs on the site's device, in whatever way.
func (s *site) programs(t testing.TB, attach ebpf.AttachType) []ebpf.ProgramID {
	t.Helper()
	var ids []ebpf.ProgramID
	tcx := sandbox.Since(t, 6, 6)
	s.do(t, "read programs", func() error {
		index, err := meshIndex()
		if err != nil {
			return err
		}
		if tcx {
			chain, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: attach})
			if err != nil {
				return err
			}
			for _, p := range chain.Programs {
				ids = append(ids, p.ID)
			}
		}
		all, err := s.filters(attach)
		for _, f := range all {
			ids = append(ids, ebpf.ProgramID(f.Id))
		}
		return err
	})
	return ids
}

func meshIndex() (int, error) {
	device, err := net.InterfaceByName("mesh0")
	if err != nil {
		return 0, err
	}
	return device.Index, nil
}

// reopen ends the process's part, and starts the next one's.
func (s *site) reopen(t testing.TB, c Config) {
	t.Helper()
	must(t, s.plane.Close())
	s.open(t, c)
}

// flow sends a packet each millisecond from near to far until stop is called,
// which returns how many there were and how many have arrived.
func flow(t testing.TB, near, far *site) (stop func() (sent, arrived int)) {
	t.Helper()
	to := netip.MustParseAddrPort("10.2.0.7:7999")
	here, there := near.listen(t, netip.MustParseAddrPort("10.1.0.5:7999")), far.listen(t, to)
	ctx, cancel := context.WithCancel(t.Context())
	var both sync.WaitGroup
	sent, arrived := 0, 0
	both.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			if _, err := here.WriteToUDPAddrPort([]byte("go on"), to); err != nil {
				t.Errorf("send: %v", err)
				return
			}
			sent++
		}
		if _, err := here.WriteToUDPAddrPort([]byte("end"), to); err != nil {
			t.Errorf("send: %v", err)
		}
	})
	both.Go(func() {
		buffer := make([]byte, 100)
		for {
			n, err := there.Read(buffer)
			if err != nil {
				t.Errorf("receive: %v", err)
				return
			}
			if string(buffer[:n]) == "end" {
				return
			}
			arrived++
		}
	})
	return func() (int, int) {
		cancel()
		both.Wait()
		_ = errors.Join(here.Close(), there.Close()) // read and written to the end
		return sent, arrived
	}
}

// TestRestart has processes come and go, with other programs and maps of another
// size, while packets pass. None may be lost.
func TestRestart(t *testing.T) { each(t, testRestart) }

func testRestart(t *testing.T, m Method) {
	near, far := wired(t, m)
	joined(t, near, far, either)
	stop := flow(t, near, far)
	before := [2][]ebpf.ProgramID{near.programs(t, ebpf.AttachTCXIngress), near.programs(t, ebpf.AttachTCXEgress)}
	state := readState(t, near.plane)

	c := near.plane.config
	near.reopen(t, c)
	if diff := cmp.Diff(state, readState(t, near.plane), cmpAddr()); diff != "" {
		t.Errorf("adopted: %s", diff)
	}
	near.do(t, "attach", near.plane.Attach)
	after := [2][]ebpf.ProgramID{near.programs(t, ebpf.AttachTCXIngress), near.programs(t, ebpf.AttachTCXEgress)}
	for i := range before {
		if len(before[i]) != 1 || len(after[i]) != 1 || before[i][0] == after[i][0] {
			t.Errorf("programs were %v and are %v: want one, and a new one", before[i], after[i])
		}
	}
	near.do(t, "attach again", near.plane.Attach)
	if again := near.programs(t, ebpf.AttachTCXEgress); !cmp.Equal(again, after[1]) {
		t.Errorf("programs were %v and are %v", after[1], again)
	}

	// Maps of another size: the programs of before serve until these are filled.
	for _, size := range []uint32{1 << 13, 1 << 11} {
		c.MapCapacity = size
		near.reopen(t, c)
		near.do(t, "attach", near.plane.Attach)
		joined(t, near, far, either)
		must(t, near.plane.Prune(Keep{}))
		if diff := cmp.Diff(state, readState(t, near.plane), cmpAddr()); diff != "" {
			t.Errorf("filled anew: %s", diff)
		}
		near.reopen(t, c) // and these are adopted
		if len(near.plane.addresses) != len(state.Addresses) {
			t.Errorf("%d addresses adopted, want %d", len(near.plane.addresses), len(state.Addresses))
		}
		near.do(t, "attach", near.plane.Attach)
	}
	if sent, arrived := stop(); sent != arrived || sent == 0 {
		t.Errorf("%d packets sent, %d arrived", sent, arrived)
	}
}

// TestDiesOnTheWay leaves what a process leaves that ends between two steps of
// the move to other maps.
func TestDiesOnTheWay(t *testing.T) { each(t, testDiesOnTheWay) }

func testDiesOnTheWay(t *testing.T, m Method) {
	for name, die := range map[string]func(t *testing.T, p *Plane){
		"new maps pinned": func(t *testing.T, p *Plane) { must(t, p.maps.pin(p.dir)) },
		"one program moved": func(t *testing.T, p *Plane) {
			must(t, p.maps.pin(p.dir))
			at, _ := p.hooks[0].device()
			must(t, p.hooks[0].run(at, filepath.Join(p.dir, p.hooks[0].name)))
		},
		"programs moved": func(t *testing.T, p *Plane) {
			must(t, p.maps.pin(p.dir))
			for _, h := range p.hooks {
				at, _ := h.device()
				must(t, h.run(at, filepath.Join(p.dir, h.name)))
			}
		},
		"old maps removed": func(t *testing.T, p *Plane) {
			must(t, p.maps.pin(p.dir))
			for _, h := range p.hooks {
				at, _ := h.device()
				must(t, h.run(at, filepath.Join(p.dir, h.name)))
			}
			must(t, removeMaps(filepath.Join(p.dir, mapsDir)))
		},
		"pins gone": func(t *testing.T, p *Plane) { must(t, os.Remove(filepath.Join(p.dir, mapsDir, "address_v4"))) },
	} {
		t.Run(name, func(t *testing.T) {
			near, far := wired(t, m)
			joined(t, near, far, either)
			want := readState(t, near.plane)
			c := near.plane.config
			c.MapCapacity *= 2
			near.reopen(t, c)
			joined(t, near, far, either)
			near.do(t, "die", func() error { die(t, near.plane); return nil })
			near.reopen(t, c)
			near.do(t, "attach", near.plane.Attach)
			joined(t, near, far, either)
			must(t, near.plane.Prune(Keep{}))
			if diff := cmp.Diff(want, readState(t, near.plane), cmpAddr()); diff != "" {
				t.Error(diff)
			}
			if err := runOn(near.plane.hooks, near.plane.maps); err != nil || near.plane.pending {
				t.Errorf("pending %v: %v", near.plane.pending, err)
			}
			set, err := openMapSet(filepath.Join(near.plane.dir, mapsDir), specsOf(t, c.MapCapacity))
			if err != nil {
				t.Fatal(err)
			}
			defer set.close()
			if err := runOn(near.plane.hooks, set); err != nil {
				t.Errorf("pinned: %v", err)
			}
			if _, err := os.Stat(filepath.Join(near.plane.dir, nextDir)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", nextDir, err)
			}
			stop := flow(t, near, far)
			if sent, arrived := stop(); sent != arrived {
				t.Errorf("%d packets sent, %d arrived", sent, arrived)
			}
		})
	}
}

func specsOf(t *testing.T, capacity uint32) map[string]*ebpf.MapSpec {
	t.Helper()
	specs, err := mapSpecs(capacity)
	must(t, err)
	return specs
}

// A device that is made anew gets the programs, though the links are pinned.
func TestDeviceMadeAnew(t *testing.T) { each(t, testDeviceMadeAnew) }

func testDeviceMadeAnew(t *testing.T, m Method) {
	near, far := wired(t, m)
	joined(t, near, far, either)
	must(t, near.space.Delete("mesh0"))
	if err := near.space.Do(near.plane.Attach); !errors.Is(err, ErrDevice) {
		t.Errorf("%v, want %v", err, ErrDevice)
	}
	near.reopen(t, near.plane.config)
	near.addDevice(t, 10)
	near.do(t, "attach", near.plane.Attach)
	near.setUp(t)
	near.route(t, netip.MustParsePrefix("10.2.0.0/16"))
	near.attached(t, m)
	stop := flow(t, near, far)
	if sent, arrived := stop(); sent != arrived {
		t.Errorf("%d packets sent, %d arrived", sent, arrived)
	}
}

// TestChain has another program on the device, there before ours: ours go ahead
// of it, and it sees what passes and nothing else.
func TestChain(t *testing.T) { each(t, testChain) }

func testChain(t *testing.T, m Method) {
	near, far := wired(t, m)
	joined(t, near, far, either)
	c := near.plane.config
	must(t, near.plane.Remove())
	must(t, near.plane.Close())
	seen, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	must(t, err)
	defer seen.Close()
	counter, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, seen.FD(), 0), asm.Mov.Imm(asm.R0, 1),
		asm.StoreXAdd(asm.R1, asm.R0, asm.DWord), asm.Mov.Imm(asm.R0, -1), asm.Return(),
	}})
	must(t, err)
	defer counter.Close()
	near.do(t, "attach another", func() error { return attachOther(t, counter, m) })
	near.open(t, c)
	near.do(t, "attach", near.plane.Attach)
	if got := near.programs(t, ebpf.AttachTCXIngress); len(got) != 2 {
		t.Fatalf("programs %v, want two", got)
	}
	joined(t, near, far, either)
	stream(t, far, near, addr("10.2.0.7"), addr("10.1.0.5"))
	// A packet that is dropped, and then one that passes.
	must(t, far.space.SetDown("mesh0"))
	conn := far.listen(t, netip.MustParseAddrPort("192.0.2.2:0"))
	server := near.listen(t, netip.MustParseAddrPort("10.1.0.5:53"))
	passed := counts(t, near.plane)[FromMesh][Passed]
	for _, number := range []identity.Number{westPod + 1, westPod} {
		data := frame.VXLAN(uint32(number), packetOf("10.2.0.7", "10.1.0.5"))
		if _, err := conn.WriteToUDPAddrPort(data, netip.AddrPortFrom(addr("192.0.2.1"), meshPort)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := server.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	var n uint64
	must(t, seen.Lookup(uint32(0), &n))
	if n != passed+1 || passed == 0 {
		t.Errorf("the other program has seen %d packets, ours let %d pass", n, passed+1)
	}
	if by := counts(t, near.plane)[FromMesh]; by[Identity] != 1 {
		t.Errorf("%v", by)
	}
}

// attachOther attaches a program to packets that come in.
func attachOther(t *testing.T, program *ebpf.Program, m Method) error {
	index, err := meshIndex()
	if err != nil {
		return err
	}
	if m == TCX {
		other, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: ebpf.AttachTCXIngress})
		if err == nil {
			t.Cleanup(func() { _ = other.Close() }) // gone with its device, maybe
		}
		return err
	}
	return errors.Join(netlink.QdiscAdd(clsact(index)), netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 2, Protocol: unix.ETH_P_ALL},
		Fd:          program.FD(), Name: "other", DirectAction: true,
	}))
}

func TestLock(t *testing.T) {
	c := config(t)
	open(t, c)
	if _, err := Open(c); !errors.Is(err, pin.ErrInUse) {
		t.Errorf("%v, want %v", err, pin.ErrInUse)
	}
	c.BPFFS = t.TempDir()
	if _, err := Open(c); !errors.Is(err, pin.ErrBPFFS) {
		t.Errorf("%v, want %v", err, pin.ErrBPFFS)
	}
}

// Remove leaves nothing: no program, no pin.
func TestRemove(t *testing.T) { each(t, testRemove) }

func testRemove(t *testing.T, m Method) {
	near, _ := wired(t, m)
	must(t, near.plane.Remove())
	if got := append(near.programs(t, ebpf.AttachTCXIngress), near.programs(t, ebpf.AttachTCXEgress)...); len(got) != 0 {
		t.Errorf("programs %v are left", got)
	}
	if _, err := os.Stat(near.plane.dir); !errors.Is(err, unix.ENOENT) {
		t.Errorf("folder of pins: %v", err)
	}
}
