package packet

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// check has the guard make a pass.
func (s *site) check(t *testing.T) {
	t.Helper()
	s.do(t, "check", func() error { s.plane.check(t.Context()); return nil })
}

// keeps fails unless all pins are there, and nothing is a problem but what was put
// back.
func (s *site) keeps(t *testing.T) {
	t.Helper()
	s.plane.mu.Lock()
	missing := s.plane.missingPins()
	s.plane.mu.Unlock()
	if len(missing) > 0 {
		t.Errorf("missing: %v", missing)
	}
	for _, p := range s.plane.Problems() {
		if !strings.Contains(p.What, "put back") {
			t.Errorf("problem %v", p)
		}
	}
}

// loses removes pins at once for the guard, which would make them anew meanwhile.
func (s *site) loses(t *testing.T, path string) {
	t.Helper()
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	must(t, os.RemoveAll(path))
}

// TestPinsRemoved removes all pins while a process runs. It makes them anew, so that
// the programs stay when it ends, and the next process goes on with the maps.
func TestPinsRemoved(t *testing.T) { each(t, testPinsRemoved) }

func testPinsRemoved(t *testing.T, m Method) {
	t.Parallel() // it waits for the guard
	near, far := wired(t, m)
	joined(t, near, far, either)
	want := readState(t, near.plane)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- near.space.Do(func() error { return near.plane.Run(ctx) }) }()
	defer cancel()
	stop := forge(t, near, far)
	near.loses(t, near.plane.dir)
	near.eventually(t, "the pins are back", func() bool {
		near.plane.mu.Lock()
		defer near.plane.mu.Unlock()
		return len(near.plane.missingPins()) == 0
	})
	cancel()
	must(t, <-ended)
	must(t, os.Remove(filepath.Join(near.plane.dir, mapsDir, "settings")))
	near.check(t)
	near.keeps(t)
	must(t, near.plane.Close())
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		if got := near.programs(t, attach); len(got) != 1 {
			t.Errorf("programs %v, want one", got)
		}
	}
	near.open(t, near.plane.config)
	if diff := cmp.Diff(want, readState(t, near.plane), cmpAddr()); diff != "" {
		t.Errorf("adopted: %s", diff)
	}
	near.do(t, "attach", near.plane.Attach)
	near.attached(t, m)
	near.judged(t)
	if arrived := stop(); arrived > 0 {
		t.Errorf("%d forged packets passed", arrived)
	}
}

// TestFolderTaken: where another process has taken the folder meanwhile, nothing in
// it is touched.
func TestFolderTaken(t *testing.T) {
	near, _ := wired(t, TCX)
	must(t, os.RemoveAll(near.plane.dir))
	other := open(t, near.plane.config)
	near.check(t)
	if p := near.plane.Problems(); len(p) != 1 || !strings.Contains(p[0].Where, "in use by another agent") {
		t.Errorf("problems %v", p)
	}
	if missing := other.missingPins(); len(missing) > 0 {
		t.Errorf("missing: %v", missing)
	}
	near.attached(t, Clsact) // which stays without pins
}

// TestUnmounted takes the BPF file system away. The programs stay without it when
// the process ends, and are attached as before when it is there again.
func TestUnmounted(t *testing.T) {
	near, far := wired(t, TCX)
	joined(t, near, far, either)
	want := readState(t, near.plane)
	c := near.plane.config
	mount := filepath.Dir(c.BPFFS)
	unmount := func() { must(t, unix.Unmount(mount, unix.MNT_DETACH)) }
	again := func() { must(t, unix.Mount("bpf", mount, "bpf", 0, "")) }
	stop := forge(t, near, far)
	unmount()
	near.check(t)
	near.attached(t, Clsact)
	if p := near.plane.Problems(); len(p) != 1 || !strings.Contains(p[0].Do, "mount -t bpf") {
		t.Errorf("problems %v", p)
	}
	near.judged(t)
	again()
	near.check(t)
	near.attached(t, TCX)
	near.keeps(t)

	unmount()
	near.check(t)
	must(t, near.plane.Close())
	again()
	near.open(t, c)
	near.do(t, "attach", near.plane.Attach)
	joined(t, near, far, either)
	near.do(t, "prune", func() error { return near.plane.Prune(Keep{}) })
	if diff := cmp.Diff(want, readState(t, near.plane), cmpAddr()); diff != "" {
		t.Error(diff)
	}
	near.attached(t, TCX)
	near.judged(t)
	if arrived := stop(); arrived > 0 {
		t.Errorf("%d forged packets passed", arrived)
	}
}

// TestUnmountedPending takes the BPF file system away while the programs wait for
// their new maps: those of before go on with the maps that they have.
func TestUnmountedPending(t *testing.T) {
	near, far := wired(t, TCX)
	joined(t, near, far, either)
	c := near.plane.config
	c.MapCapacity *= 2
	near.reopen(t, c)
	near.do(t, "attach", near.plane.Attach)
	programs := func() (all [][]ebpf.ProgramID) {
		for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			all = append(all, near.programs(t, attach))
		}
		return all
	}
	before := programs()
	stop := flow(t, near, far)
	mount := filepath.Dir(c.BPFFS)
	must(t, unix.Unmount(mount, unix.MNT_DETACH))
	near.check(t)
	if diff := cmp.Diff(before, programs()); diff != "" || !near.plane.pending {
		t.Errorf("pending %t: %s", near.plane.pending, diff)
	}
	if sent, arrived := stop(); sent != arrived || sent == 0 {
		t.Errorf("%d packets sent, %d arrived", sent, arrived)
	}
	must(t, unix.Mount("bpf", mount, "bpf", 0, ""))
	near.check(t)
	joined(t, near, far, either)
	near.do(t, "prune", func() error { return near.plane.Prune(Keep{}) })
	near.check(t)
	near.attached(t, TCX)
	near.keeps(t)
}

// TestNotRead: what the kernel does not say is no reason to put anything back, nor
// counts as if somebody had taken it away.
func TestNotRead(t *testing.T) {
	near, _ := wired(t, Clsact)
	near.check(t)
	before := near.programs(t, ebpf.AttachTCXIngress)
	near.do(t, "look", func() error {
		p := near.plane
		p.mu.Lock()
		defer p.mu.Unlock()
		p.filters.name = "away0"
		defer func() { p.filters.name = p.config.Device }()
		for _, h := range p.hooks {
			p.putBack(h, p.guarded.device)
		}
		return nil
	})
	if repairs, _ := near.plane.guardMetrics(); repairs[repairProgram] != 0 {
		t.Errorf("%d programs were put back", repairs[repairProgram])
	}
	if diff := cmp.Diff(before, near.programs(t, ebpf.AttachTCXIngress)); diff != "" {
		t.Error(diff)
	}
	near.check(t)
	near.attached(t, Clsact)
	near.keeps(t)
}

// TestDetached takes the programs off the device: they are put back.
func TestDetached(t *testing.T) { each(t, testDetached) }

func testDetached(t *testing.T, m Method) {
	near, far := wired(t, m)
	joined(t, near, far, either)
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(collector{near.plane}))
	near.check(t)
	if p := near.plane.Problems(); len(p) > 0 {
		t.Errorf("problems %v", p)
	}
	near.do(t, "detach", func() error {
		if m == Clsact {
			index, err := meshIndex()
			return errors.Join(err, netlink.QdiscDel(clsact(index)))
		}
		l, err := link.LoadPinnedLink(filepath.Join(near.plane.dir, "from_mesh"), nil)
		if err != nil {
			return err
		}
		return errors.Join(l.Detach(), l.Close())
	})
	near.check(t)
	near.attached(t, m)
	stop := forge(t, near, far)
	near.judged(t)
	if arrived := stop(); arrived > 0 {
		t.Errorf("%d forged packets passed", arrived)
	}
	if p := near.plane.Problems(); len(p) != 1 || !strings.Contains(p[0].What, "program") {
		t.Errorf("problems %v", p)
	}
	want := 1.0
	if m == Clsact {
		want = 2
	}
	if got := values(t, registry)["causeway_packet_repairs_total program"]; got != want {
		t.Errorf("%v repairs, want %v", got, want)
	}
}

// The guard leaves alone a device that Attach was not called for.
func TestGuardWaits(t *testing.T) {
	near, _ := wired(t, TCX)
	must(t, near.space.Delete("mesh0"))
	near.addDevice(t, 10)
	near.check(t)
	for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		if got := near.programs(t, attach); len(got) != 0 {
			t.Errorf("programs %v on a device that is another's business", got)
		}
	}
}

// TestSelfTest: frames reach the programs, in either way, and go no further.
func TestSelfTest(t *testing.T) { each(t, testSelfTest) }

func testSelfTest(t *testing.T, m Method) {
	near, far := wired(t, m)
	joined(t, near, far, either)
	before, farBefore := counts(t, near.plane), counts(t, far.plane)
	near.check(t)
	near.check(t) // too soon for another one
	after := counts(t, near.plane)
	for _, d := range []Direction{ToMesh, FromMesh} {
		if n := after[d][SelfTest] - before[d][SelfTest]; n < 1 || n > testTries {
			t.Errorf("%s has counted %d frames", d, n)
		}
		if n := after[d][Tunnel] + after[d][Protocol]; n > 0 {
			t.Errorf("%s has counted %d as others", d, n)
		}
	}
	if diff := cmp.Diff(farBefore[FromMesh], counts(t, far.plane)[FromMesh]); diff != "" {
		t.Errorf("on the other node: %s", diff)
	}
	near.keeps(t)
}

// TestSelfTestFails has another program end all packets before ours. That is told
// when it lasts, and no longer when it is over.
func TestSelfTestFails(t *testing.T) {
	near, far := wired(t, TCX)
	joined(t, near, far, either)
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(collector{near.plane}))
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXIngress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}, // TCX_PASS
	})
	must(t, err)
	defer other.Close()
	var l link.Link
	near.do(t, "attach another", func() error {
		index, err := meshIndex()
		if err != nil {
			return err
		}
		l, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: other, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		return err
	})
	failed := func() float64 { return values(t, registry)["causeway_packet_self_test_failed"] }
	for range testFailures {
		if failed() != 0 || len(near.plane.Problems()) > 0 {
			t.Errorf("told too early: %v", near.plane.Problems())
		}
		near.check(t)
	}
	if p := near.plane.Problems(); failed() != 1 || len(p) != 1 || !strings.Contains(p[0].Where, "from_mesh") {
		t.Errorf("problems %v, metric %v", p, failed())
	}
	last := near.plane.guarded.tested
	if near.check(t); near.plane.guarded.tested != last {
		t.Error("tested again at once, after it was told")
	}
	must(t, l.Close())
	near.plane.guarded.tested = last.Add(-testInterval)
	near.check(t)
	if p := near.plane.Problems(); failed() != 0 || len(p) > 0 {
		t.Errorf("problems %v, metric %v", p, failed())
	}
}
