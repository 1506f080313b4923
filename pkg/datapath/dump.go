package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/causeway-mesh/causeway/bpf"
)

// Dump is what is in a node's pinned maps.
type Dump struct {
	// Services are sorted by frontend.
	Services []DumpedService
	// StraySlots and StrayBackends are what no service refers to: in use until a
	// moment ago, or left by an agent that was killed, until the next sweeps it.
	StraySlots    int
	StrayBackends int
}

// DumpedService is one service as the programs read it.
type DumpedService struct {
	Frontend
	ID, Generation uint32
	// Session is for how long a client keeps its backend, 0 for not at all.
	Session time.Duration
	// Refuses says that connections fail while there is no backend; otherwise
	// they are left alone.
	Refuses bool
	// Damaged says that the programs see an inconsistent value. They do for a
	// moment while it is written.
	Damaged bool
	Groups  []DumpedGroup
}

// DumpedGroup is a group of backends; the index of one is that of its slot.
type DumpedGroup struct {
	Tier     uint8
	Weight   uint16
	Backends []DumpedBackend
}

// DumpedBackend is what a slot leads to; without an Addr the slot or the backend
// is missing or damaged.
type DumpedBackend struct {
	ID   uint32
	Addr netip.AddrPort
}

// dumpAttempts is how often the maps are read at most to see no service while
// it is written.
const dumpAttempts = 5

// ReadDump reads the maps pinned in a folder. It changes nothing and needs no
// lock: an agent may be writing. The error wraps ErrNoMaps when nothing is
// pinned there.
func ReadDump(dir string) (*Dump, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("use BPF: run as root, or with CAP_BPF and CAP_NET_ADMIN, before Linux 5.11 with CAP_SYS_RESOURCE too: lift the memory lock limit: %w", err)
	}
	set, err := openForDump(dir)
	if err != nil {
		return nil, err
	}
	defer set.close()
	var d *Dump
	for range dumpAttempts {
		found, err := adopt(set)
		if err != nil {
			return nil, err
		}
		if d = dumpOf(found); !slices.ContainsFunc(d.Services, DumpedService.moving) {
			break
		}
	}
	return d, nil
}

// openForDump opens the maps whatever their capacity is.
func openForDump(dir string) (*mapSet, error) {
	specs, err := mapSpecs(0)
	if err != nil {
		return nil, err
	}
	for name, spec := range specs {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", filepath.Join(dir, name), ErrNoMaps)
		}
		if err != nil {
			return nil, fmt.Errorf("open map %s: %w", name, err)
		}
		spec.MaxEntries = m.MaxEntries()
		_ = m.Close() // a map's close loses nothing
	}
	return openMapSet(dir, specs)
}

func dumpOf(a *adopted) *Dump {
	d := &Dump{StraySlots: len(a.slots), StrayBackends: len(a.backends)}
	for f, e := range a.services {
		s := DumpedService{
			Frontend: f, ID: e.id, Generation: e.generation, Damaged: e.stale, Session: time.Duration(e.session) * time.Second,
			Refuses: e.flags&uint16(bpf.SocketServiceFlagsSERVICE_REFUSES) != 0,
		}
		for _, g := range e.groups {
			dumped := DumpedGroup{Tier: g.tier, Weight: g.weight, Backends: make([]DumpedBackend, 0, len(g.slots))}
			for _, b := range g.slots {
				to := DumpedBackend{ID: b.id}
				if b != (backend{}) {
					to.Addr = b.addrPort()
				}
				dumped.Backends = append(dumped.Backends, to)
			}
			s.Groups = append(s.Groups, dumped)
		}
		d.Services = append(d.Services, s)
	}
	slices.SortFunc(d.Services, func(a, b DumpedService) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Protocol, b.Protocol))
	})
	return d
}

// moving reports whether a service looks as if it was written just now.
func (s DumpedService) moving() bool {
	return s.Damaged || slices.ContainsFunc(s.Groups, func(g DumpedGroup) bool {
		return slices.ContainsFunc(g.Backends, func(b DumpedBackend) bool { return !b.Addr.IsValid() })
	})
}
