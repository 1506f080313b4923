package datapath

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What is dumped is what was put in, whatever the capacity of the maps, and
// without the lock of the one who has them.
func TestReadDump(t *testing.T) {
	if _, err := ReadDump(t.TempDir()); !errors.Is(err, ErrNoMaps) {
		t.Errorf("where nothing is pinned: %v, want %v", err, ErrNoMaps)
	}
	d := open(t, func(c *Config) { c.MapCapacity = 100 })
	update(t, d,
		one("10.96.0.2:80", addrPort(1)),
		Service{Frontend: frontend("10.96.0.1:80"), Session: time.Minute, Refuse: true, Groups: []Group{
			{Weight: 3, Backends: []netip.AddrPort{addrPort(1), addrPort(2)}},
			{Tier: 1, Backends: []netip.AddrPort{addrPort(3)}},
		}},
	)
	if err := d.Complete(); err != nil {
		t.Fatal(err)
	}
	got, err := ReadDump(d.config.BPFFS)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Services) != 2 || got.StraySlots+got.StrayBackends != 0 {
		t.Fatalf("%+v", got)
	}
	s := got.Services[0]
	if s.Frontend != frontend("10.96.0.1:80") || s.Damaged || s.Session != time.Minute || !s.Refuses || s.ID == 0 || s.ID == got.Services[1].ID {
		t.Errorf("%+v", s)
	}
	var groups []Group
	for _, g := range s.Groups {
		made := Group{Tier: g.Tier, Weight: g.Weight}
		for _, b := range g.Backends {
			if b.ID == 0 {
				t.Errorf("a backend without an id: %+v", g)
			}
			made.Backends = append(made.Backends, b.Addr)
		}
		groups = append(groups, made)
	}
	want := []Group{
		{Weight: 3, Backends: []netip.AddrPort{addrPort(1), addrPort(2)}},
		{Tier: 1, Backends: []netip.AddrPort{addrPort(3)}},
	}
	if diff := cmp.Diff(want, groups, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("groups (-want +got):\n%s", diff)
	}

	// What has just been given up is stray until it is swept.
	if err := d.Delete(frontend("10.96.0.1:80")); err != nil {
		t.Fatal(err)
	}
	if got, err = ReadDump(d.config.BPFFS); err != nil || got.StraySlots != 3 || got.StrayBackends != 3 {
		t.Errorf("after a deletion: %+v, %v", got, err)
	}
	if _, err := d.sweep(time.Now().Add(grace)); err != nil {
		t.Fatal(err)
	}
	if got, err = ReadDump(d.config.BPFFS); err != nil || got.StraySlots+got.StrayBackends != 0 || len(got.Services) != 1 {
		t.Errorf("after the sweep: %+v, %v", got, err)
	}
}
