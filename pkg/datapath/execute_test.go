package datapath

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/causeway-mesh/causeway/bpf"
)

// Of many services that are written together, into maps that cannot hold all,
// each is in effect whole or as it was, and nothing else is in the maps.
func TestUpdateAll(t *testing.T) {
	d := open(t, func(c *Config) { c.MapCapacity = 120 })
	random := rand.New(rand.NewPCG(7, 8))
	want := map[Frontend][][]string{}
	refused, written := 0, 0
	for step := range 60 {
		var services []Service
		for i := range 40 {
			f := frontend(fmt.Sprintf("10.96.0.%d:80", i+1))
			switch random.IntN(4) {
			case 0:
				if err := d.Delete(f); err != nil {
					t.Fatal(err)
				}
				delete(want, f)
			case 1, 2:
				services = append(services, Service{Frontend: f, Groups: randomGroups(random)})
			}
		}
		for i, err := range d.UpdateAll(services) {
			switch {
			case err == nil:
				want[services[i].Frontend] = naive(services[i].Groups)
				written++
			case errors.Is(err, ErrFull):
				refused++
			default:
				t.Fatal(err)
			}
		}
		if _, err := d.sweep(time.Now().Add(grace)); err != nil {
			t.Fatal(err)
		}
		found, err := adopt(d.maps)
		if err != nil {
			t.Fatal(err)
		}
		got := map[Frontend][][]string{}
		for f, e := range found.services {
			got[f] = (&Datapath{services: map[Frontend]*entry{f: e}}).texts()
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(sameGroups)); diff != "" || len(found.slots)+len(found.backends) != 0 {
			t.Fatalf("step %d: %s; left behind: %v, %v", step, diff, found.slots, found.backends)
		}
	}
	if refused == 0 || written < 100 {
		t.Errorf("%d written, %d refused: that shows nothing", written, refused)
	}
}

// One that is wrong costs no other, nor does one that is named twice.
func TestUpdateAllRefuses(t *testing.T) {
	d := open(t)
	var services []Service
	for i := range updatePiece + 5 { // more than are written together
		services = append(services, one(fmt.Sprintf("10.97.%d.%d:80", i>>8, i&255), addrPort(i)))
	}
	good := append([]Service{}, services...)
	services = append(services,
		one("127.0.0.1:80", addrPort(1)),
		one("10.98.0.1:80", netip.MustParseAddrPort("127.0.0.1:80")),
		Service{Frontend: Frontend{Addr: netip.MustParseAddrPort("[::ffff:10.97.1.4]:80"), Protocol: TCP}},
	)
	for i, err := range d.UpdateAll(services) {
		if bad := i >= len(good); bad != errors.Is(err, ErrService) || !bad && err != nil {
			t.Errorf("%v: %v", services[i].Frontend, err)
		}
	}
	wantServices(t, d, good...)
	if errs := d.UpdateAll(nil); len(errs) != 0 {
		t.Error(errs)
	}
}

// A write that the kernel refuses half way leaves of each service what serves.
// Those that need nothing written are in effect.
func TestUpdateAllFails(t *testing.T) {
	for _, name := range []string{bpf.SocketMapBackend, bpf.SocketMapSlot, bpf.SocketMapService} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			all := many(6)
			before := []Service{one("10.96.0.1:80", all[:3]...), one("10.96.0.2:80", all[:4]...), one("10.96.0.3:80", all[:2]...)}
			update(t, d, before...)
			if err := (*d.maps.byName()[name]).Freeze(); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				errs := d.UpdateAll([]Service{one("10.96.0.1:80", all[2:]...), one("10.96.0.2:80", all[3:]...), before[2], one("10.96.0.4:80", all[0])})
				for i, err := range errs {
					if (err == nil) != (i == 2) || errors.Is(err, ErrFull) {
						t.Errorf("service %d: %v", i, err)
					}
				}
				if n := len(d.Services()); n != 3 {
					t.Errorf("%d services are in effect", n)
				}
				found, err := adopt(d.maps)
				if err != nil {
					t.Fatal(err)
				}
				for f, e := range found.services {
					e.each(func(k bpf.SocketSlotKey, b backend) {
						if b.id == 0 {
							t.Errorf("slot %+v of %v leads nowhere", k, f)
						}
					})
				}
			}
		})
	}
}
