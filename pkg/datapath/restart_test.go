package datapath

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/tests/sandbox"
)

// reopen ends d as a process that ends does, and opens its folder again.
func reopen(t *testing.T, d *Datapath, change ...func(*Config)) *Datapath {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	c := d.config
	for _, f := range change {
		f(&c)
	}
	d, err := tryOpen(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantServices(t *testing.T, d *Datapath, want ...Service) {
	t.Helper()
	byText := func(a, b netip.AddrPort) bool { return a.String() < b.String() }
	diff := cmp.Diff(want, d.Services(),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmpopts.SortSlices(byText), cmpopts.EquateEmpty(),
		cmpopts.SortSlices(func(a, b Service) bool { return a.String() < b.String() }))
	if diff != "" {
		t.Errorf("services: %s", diff)
	}
}

// entries returns all that is in a map.
func entries[K comparable, V any](t *testing.T, m *ebpf.Map) map[K]V {
	t.Helper()
	all := map[K]V{}
	if err := pin.Read(m, func(k K, v V) { all[k] = v }); err != nil {
		t.Fatal(err)
	}
	return all
}

func contents(t *testing.T, d *Datapath) (map[bpf.SocketServiceKey]bpf.SocketService, map[bpf.SocketSlotKey]bpf.SocketSlot, map[uint32]bpf.SocketBackend) {
	t.Helper()
	return entries[bpf.SocketServiceKey, bpf.SocketService](t, d.maps.service),
		entries[bpf.SocketSlotKey, bpf.SocketSlot](t, d.maps.slot),
		entries[uint32, bpf.SocketBackend](t, d.maps.backend)
}

func TestRestartAdopts(t *testing.T) {
	d := open(t)
	backend := echo(t, "10.1.0.1:8080")
	want := []Service{
		one("10.96.0.1:80", backend),
		{Frontend: frontend("10.96.0.2:80"), Groups: []Group{
			{Tier: 0, Weight: 3, Backends: []netip.AddrPort{addrPort(1), addrPort(2), addrPort(3), addrPort(4), addrPort(5)}},
			{Tier: 1, Backends: []netip.AddrPort{addrPort(6)}},
		}},
		one("[fd00:96::1]:80", netip.MustParseAddrPort("[fd00:1::1]:80")),
		{Frontend: frontend("10.96.0.3:80")},
	}
	update(t, d, want...)
	services, slots, backends := contents(t, d)

	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, "tcp4", "10.96.0.1:80", backend) // nobody is there but the kernel

	d = reopen(t, d)
	wantServices(t, d, want...)
	update(t, d, want...)
	services2, slots2, backends2 := contents(t, d)
	if diff := cmp.Diff([]any{services, slots, backends}, []any{services2, slots2, backends2}); diff != "" {
		t.Errorf("what is in effect was written again: %s", diff)
	}

	// Ids of what is gone are not used again, even when nothing shows them.
	last := slices.Max(keys(backends))
	if err := d.Prune(func(Frontend) bool { return false }); err != nil {
		t.Fatal(err)
	}
	if _, err := d.sweep(time.Now().Add(grace)); err != nil {
		t.Fatal(err)
	}
	d = reopen(t, d)
	wantServices(t, d)
	update(t, d, one("10.96.0.1:80", backend))
	services, _, backends = contents(t, d)
	if first := slices.Min(keys(backends)); first <= last {
		t.Errorf("backend id %d was used before, up to %d", first, last)
	}
	for _, v := range services {
		if v.Id <= 4 {
			t.Errorf("service id %d was used before", v.Id)
		}
	}
}

func keys[K comparable, V any](m map[K]V) []K {
	var all []K
	for k := range m {
		all = append(all, k)
	}
	return all
}

func TestRestartRepairs(t *testing.T) {
	d := open(t)
	backends := echoes(t, 6)
	s := one("10.96.0.1:80", backends...)
	other := one("10.96.0.2:80", backends[0])
	update(t, d, s, other)
	_, slots, known := contents(t, d)

	// A slot is lost, another and a value are damaged, and there is what nobody refers to.
	lost, damaged := slotKey(1, 0, 1), slotKey(1, 0, 5)
	if err := errors.Join(
		d.maps.slot.Delete(&lost),
		d.maps.slot.Put(&damaged, &bpf.SocketSlot{Backend: slots[damaged].Backend}),
		d.maps.backend.Delete(slots[slotKey(1, 0, 2)].Backend),
	); err != nil {
		t.Fatal(err)
	}
	key := encodeKey(other.Frontend)
	orphan := slotKey(77, 0, 0)
	if err := errors.Join(
		d.maps.service.Put(&key, &bpf.SocketService{Id: 5}),
		d.maps.slot.Put(&orphan, &bpf.SocketSlot{Backend: 3}),
		d.maps.backend.Put(uint32(4000), &bpf.SocketBackend{}),
	); err != nil {
		t.Fatal(err)
	}
	// Readers never follow what is damaged, and use the rest.
	answers := map[netip.AddrPort]int{}
	for range 200 {
		if who, err := dial("tcp4", "10.96.0.1:80"); err == nil {
			answers[who]++
		}
	}
	if len(answers) == 0 || answers[backends[5]] != 0 {
		t.Errorf("answers of a damaged service: %v", answers)
	}
	wantNone(t, "tcp4", "10.96.0.2:80")

	d = reopen(t, d)
	update(t, d, s, other)
	wantServices(t, d, s, other)
	if got := count(t, "10.96.0.1:80", 200); len(got) != len(backends) {
		t.Errorf("%d backends answer after the repair", len(got))
	}
	wantAnswer(t, "tcp4", "10.96.0.2:80", backends[0])
	if err := d.Prune(func(Frontend) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if _, err := d.sweep(time.Now().Add(grace)); err != nil {
		t.Fatal(err)
	}
	_, slots, now := contents(t, d)
	if _, ok := slots[orphan]; ok || len(slots) != 7 {
		t.Errorf("%d slots after the prune", len(slots))
	}
	if len(now) != 7 {
		t.Errorf("%d backends after the prune, %d before", len(now), len(known))
	}
	if _, ok := now[4000]; ok {
		t.Error("a backend of no service is still there")
	}
}

// Programs are exchanged under traffic without a connection that fails.
func TestUpdateInPlace(t *testing.T) {
	d := open(t)
	backend := echo(t, "10.1.0.1:8080")
	update(t, d, one("10.96.0.1:80", backend))
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error, 1)
	dials := 0
	go func() {
		defer close(failed)
		for ctx.Err() == nil {
			if who, err := dial("tcp4", "10.96.0.1:80"); err != nil || who != backend {
				failed <- errors.Join(err, errors.New("answered by "+who.String()))
				return
			}
			dials++
		}
	}()
	links := map[uint32]bool{}
	for range 15 {
		d = reopen(t, d)
		info, err := d.hooks[0].link.Info()
		if err != nil {
			t.Fatal(err)
		}
		links[uint32(info.ID)] = true
	}
	cancel()
	if err := <-failed; err != nil {
		t.Error(err)
	}
	if len(links) != 1 {
		t.Errorf("%d links were used, want the one to stay", len(links))
	}
	t.Logf("%d connections", dials)
}

func TestSecondInstance(t *testing.T) {
	d := open(t)
	update(t, d, one("10.96.0.1:80", echo(t, "10.1.0.1:8080")))
	_, err := Open(d.config)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), d.config.BPFFS) {
		t.Errorf("got %v", err)
	}
	wantAnswer(t, "tcp4", "10.96.0.1:80", netip.MustParseAddrPort("10.1.0.1:8080"))
	reopen(t, d) // the folder is free once the first has ended
}

// Maps of another capacity serve until the new ones are complete.
func TestOtherCapacity(t *testing.T) {
	d := open(t)
	before, after := echo(t, "10.1.0.1:8080"), echo(t, "10.1.0.2:8080")
	update(t, d, one("10.96.0.1:80", before))
	larger := func(c *Config) { c.MapCapacity *= 2 }

	d = reopen(t, d, larger)
	wantServices(t, d)
	if err := d.SelfTest(t.Context()); err != nil {
		t.Errorf("self-test while others serve: %v", err)
	}
	update(t, d, one("10.96.0.1:80", after))
	wantAnswer(t, "tcp4", "10.96.0.1:80", before)

	d = reopen(t, d) // it died before it was complete
	wantServices(t, d)
	wantAnswer(t, "tcp4", "10.96.0.1:80", before)
	update(t, d, one("10.96.0.1:80", after))
	for range 2 {
		if err := errors.Join(d.Prune(func(Frontend) bool { return true }), d.Complete()); err != nil {
			t.Fatal(err)
		}
		wantAnswer(t, "tcp4", "10.96.0.1:80", after)
	}
	d = reopen(t, d)
	wantServices(t, d, one("10.96.0.1:80", after))
}

// A process that dies between moving the programs and naming their maps leaves
// pins that nothing runs on.
func TestPinsOfOtherMaps(t *testing.T) {
	d := open(t)
	backend := echo(t, "10.1.0.1:8080")
	update(t, d, one("10.96.0.1:80", backend))
	specs, err := mapSpecs(d.config.MapCapacity)
	if err != nil {
		t.Fatal(err)
	}
	others, err := newMapSet(specs)
	if err != nil {
		t.Fatal(err)
	}
	defer others.close()
	pin := filepath.Join(d.config.BPFFS, bpf.SocketMapSlot)
	if err := errors.Join(os.Remove(pin), others.slot.Pin(pin)); err != nil {
		t.Fatal(err)
	}
	d = reopen(t, d)
	wantAnswer(t, "tcp4", "10.96.0.1:80", backend) // the old maps serve
	update(t, d, one("10.96.0.1:80", backend))
	if err := d.Complete(); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, "tcp4", "10.96.0.1:80", backend)
	d = reopen(t, d)
	wantServices(t, d, one("10.96.0.1:80", backend))
}

func TestOtherLayoutIsNotAdopted(t *testing.T) {
	d := open(t)
	specs, err := mapSpecs(d.config.MapCapacity)
	if err != nil {
		t.Fatal(err)
	}
	specs[bpf.SocketMapService].Name = "service_0"
	if _, err := openMapSet(d.config.BPFFS, specs); err == nil || !strings.Contains(err.Error(), "service_0") {
		t.Errorf("got %v", err)
	}
}

func TestCgroupChanges(t *testing.T) {
	other := sandbox.NewCgroup(t)
	d := open(t, func(c *Config) { c.Cgroup = other })
	backend := echo(t, "10.1.0.1:8080")
	update(t, d, one("10.96.0.1:80", backend))
	wantNone(t, "tcp4", "10.96.0.1:80")
	if err := d.SelfTest(t.Context()); !errors.Is(err, ErrSelfTest) || !strings.Contains(err.Error(), other) {
		t.Errorf("self-test: %v", err)
	}
	d = reopen(t, d, func(c *Config) { c.Cgroup = sandbox.Cgroup(t) })
	wantAnswer(t, "tcp4", "10.96.0.1:80", backend)
	if err := d.SelfTest(t.Context()); err != nil {
		t.Error(err)
	}

	// The cgroup is removed with our links on it, and made again.
	d = reopen(t, d, func(c *Config) { c.Cgroup = other })
	awaitNone(t, "tcp4", "10.96.0.1:80")
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	d = reopen(t, d)
	wantServices(t, d, one("10.96.0.1:80", backend))
	info, err := d.hooks[0].link.Info()
	if err != nil || info.Cgroup().CgroupId == 0 {
		t.Errorf("attached to %+v, %v", info, err)
	}
}

func TestSelfTestLeavesNothing(t *testing.T) {
	d := open(t)
	for range 3 {
		if err := d.SelfTest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wantServices(t, d)

	// One that was killed half way is cleared away at the next start.
	d.mu.Lock()
	err := d.update(one("127.0.0.1:12345", netip.MustParseAddrPort("127.0.0.1:54321")))
	d.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	d = reopen(t, d)
	wantServices(t, d)
	services, _, _ := contents(t, d)
	if len(services) != 0 {
		t.Errorf("left: %v", services)
	}
}

func TestRemove(t *testing.T) {
	d := open(t)
	update(t, d, one("10.96.0.1:80", echo(t, "10.1.0.1:8080")))
	if err := errors.Join(d.Remove(), d.Close()); err != nil {
		t.Fatal(err)
	}
	awaitNone(t, "tcp4", "10.96.0.1:80")
	left, err := os.ReadDir(d.config.BPFFS)
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestWrongFolders(t *testing.T) {
	c := config(t)
	c.BPFFS = t.TempDir()
	if _, err := Open(c); !errors.Is(err, ErrBPFFS) || !strings.Contains(err.Error(), c.BPFFS) {
		t.Errorf("no bpffs: got %v", err)
	}
	above := t.TempDir()
	c.BPFFS = filepath.Join(above, "a", "b")
	if _, err := Open(c); !errors.Is(err, ErrBPFFS) {
		t.Errorf("no folder on no bpffs: got %v", err)
	}
	if made, err := os.ReadDir(above); err != nil || len(made) != 0 {
		t.Errorf("made %v, %v", made, err)
	}
	c = config(t, func(c *Config) { c.Cgroup = t.TempDir() })
	if _, err := Open(c); !errors.Is(err, ErrCgroup) {
		t.Errorf("no cgroup: got %v", err)
	}
}
