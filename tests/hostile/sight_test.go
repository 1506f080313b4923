package hostile

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// sight is all that is in use of peers at a moment, by the peer's name: in the
// API server's cache and merged state, and in the agent's maps.
type sight struct {
	// cache are values by key, as the peer has it.
	cache map[string]map[string]string
	// merged are identities by address, and kernel those of the programs' maps.
	merged map[string]map[netip.Addr]uint32
	kernel map[netip.Addr]fact
	// backends are those that a client of shop/web may get.
	backends map[netip.Addr]bool
	refused  map[string]map[string]int
	sessions map[string]session
}

// fact is what the programs know of an address.
type fact struct{ identity, cluster uint32 }

// look reads it all.
func (w *world) look(ctx context.Context) (*sight, error) {
	s := &sight{backends: map[netip.Addr]bool{}, kernel: map[netip.Addr]fact{}}
	var err error
	if s.refused, err = w.refused(ctx); err != nil {
		return nil, err
	}
	if s.sessions, err = w.sessions(ctx); err != nil {
		return nil, err
	}
	return s, errors.Join(s.readCache(ctx, w), s.readMerged(ctx, w), s.readKernel(w), s.readBackends(w))
}

func (s *sight) readCache(ctx context.Context, w *world) error {
	s.cache = map[string]map[string]string{}
	return w.etcd.List(ctx, kvstore.Prefix("cilium/cache/"), func(i kvstore.Item) error {
		for _, p := range w.peers {
			cached := wire.Layout{Cluster: p.name, Cached: true}
			for _, kind := range wire.Kinds() {
				if rest, ok := strings.CutPrefix(i.Key, cached.Prefix(kind)); ok {
					if s.cache[p.name] == nil {
						s.cache[p.name] = map[string]string{}
					}
					s.cache[p.name][p.layout().Prefix(kind)+rest] = string(i.Value)
					return nil
				}
			}
		}
		return fmt.Errorf("the cache has %q, which is no peer's", i.Key)
	})
}

func (s *sight) readMerged(ctx context.Context, w *world) error {
	var answer struct {
		Addresses []struct {
			Address, Cluster string
			Identity         uint32
		}
	}
	out, err := w.east.Causeway(ctx, "status", "--addresses", "--output", "json")
	if err == nil {
		err = json.Unmarshal(out, &answer)
	}
	s.merged = map[string]map[netip.Addr]uint32{}
	for _, a := range answer.Addresses {
		ip, parse := netip.ParseAddr(a.Address)
		if parse != nil { // a range
			continue
		}
		if s.merged[a.Cluster] == nil {
			s.merged[a.Cluster] = map[netip.Addr]uint32{}
		}
		s.merged[a.Cluster][ip] = a.Identity
	}
	return err
}

// readKernel reads what the programs on the tunnel device know of addresses.
func (s *sight) readKernel(w *world) error {
	note := func(ip netip.Addr, v bpf.MeshAddress) {
		s.kernel[ip] = fact{
			uint32(v.Bits & (1<<bpf.MeshPacketLayoutADDRESS_IDENTITY_BITS - 1)),
			uint32(v.Bits >> bpf.MeshPacketLayoutADDRESS_CLUSTER_SHIFT & (1<<bpf.MeshPacketLayoutADDRESS_CLUSTER_BITS - 1)),
		}
	}
	var value bpf.MeshAddress
	err := w.eachEntry(bpf.MeshMapAddressV4, new(uint32), &value, func(key any) {
		var raw [4]byte
		binary.NativeEndian.PutUint32(raw[:], *key.(*uint32))
		note(netip.AddrFrom4(raw), value)
	})
	if err != nil {
		return err
	}
	return w.eachEntry(bpf.MeshMapAddressV6, new(bpf.MeshAddressKey), &value, func(key any) {
		note(netip.AddrFrom16(key.(*bpf.MeshAddressKey).Address), value)
	})
}

// eachEntry calls fn for each entry of a map of the agent, read into key and value.
func (w *world) eachEntry(name string, key, value any, fn func(key any)) error {
	m, err := ebpf.LoadPinnedMap(filepath.Join(w.agent.BPFFS(), "packet", "maps", name), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("open map %s: %w", name, err)
	}
	defer func() { _ = m.Close() }()
	entries := m.Iterate()
	for entries.Next(key, value) {
		fn(key)
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("read map %s: %w", name, err)
	}
	return nil
}

func (s *sight) readBackends(w *world) error {
	d, err := datapath.ReadDump(w.agent.BPFFS())
	if err != nil {
		return err
	}
	for _, service := range d.Services {
		for _, g := range service.Groups {
			for _, b := range g.Backends {
				s.backends[b.Addr.Addr()] = true
			}
		}
	}
	return nil
}

// matches says how what is in use of a peer differs from its model.
func (s *sight) matches(p *peer) error {
	m := p.expect()
	if err := differ("cache", m.cache, s.cache[p.name]); err != nil {
		return err
	}
	if err := differ("merged state", m.addresses, s.merged[p.name]); err != nil {
		return err
	}
	kernel := map[netip.Addr]uint32{}
	backends := map[netip.Addr]bool{}
	for ip, f := range s.kernel {
		if f.cluster == uint32(p.id) {
			kernel[ip] = f.identity
		}
	}
	for ip := range s.backends {
		if p.owns(ip) {
			backends[ip] = true
		}
	}
	if err := differ("kernel's addresses", m.kernel, kernel); err != nil {
		return err
	}
	return differ("kernel's backends", m.backends, backends)
}

// differ says how two maps differ, by one key of each kind of difference.
func differ[K comparable, V comparable](what string, want, got map[K]V) error {
	var errs []error
	for k, v := range want {
		if g, ok := got[k]; !ok {
			errs = append(errs, fmt.Errorf("the %s lacks %v", what, k))
		} else if g != v {
			errs = append(errs, fmt.Errorf("the %s has %v = %.200v, want %.200v", what, k, g, v))
		}
	}
	for k := range got {
		if _, ok := want[k]; !ok {
			errs = append(errs, fmt.Errorf("the %s has %v, which is not to be believed", what, k))
		}
	}
	return errors.Join(errs[:min(len(errs), 5)]...)
}

// foreign returns backends that are neither east's own nor any peer's.
func (s *sight) foreign(peers []*peer) []netip.Addr {
	return slices.DeleteFunc(slices.Collect(maps.Keys(s.backends)), func(ip netip.Addr) bool {
		return netip.MustParsePrefix("10.1.0.0/16").Contains(ip) || netip.MustParsePrefix("fd00:1::/32").Contains(ip) ||
			slices.ContainsFunc(peers, func(p *peer) bool { return p.owns(ip) })
	})
}
