package datapath

import (
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/bpf"
)

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that the hooks translate.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// Limits of the maps' formats.
const (
	// MaxGroups is how many groups of backends a service can have.
	MaxGroups = int(bpf.SocketLayoutMAX_GROUPS)
	maxInline = int(bpf.SocketLayoutMAX_INLINE)
	// MaxSession is the longest time that a client can keep a backend unused.
	MaxSession = time.Duration(math.MaxUint32) * time.Second
)

// Frontend is an address and port that clients dial. An IPv4 address and its
// IPv4-mapped form are the same Frontend.
type Frontend struct {
	Addr     netip.AddrPort
	Protocol Protocol
}

// String returns address:port/protocol.
func (f Frontend) String() string { return f.Addr.String() + "/" + f.Protocol.String() }

// String returns the protocol's name, in lower case.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol-%d", uint8(p))
}

// Service is a Frontend and what connections to it become.
type Service struct {
	Frontend
	// Groups are at most MaxGroups; the order has no meaning, but keeping it
	// from one Update to the next makes the difference small. Without any
	// backend, connections are left alone.
	Groups []Group
	// Terminating are backends that are on their way out: used when no group
	// has any, and left in peace by what ends sockets of backends that are gone.
	Terminating []netip.AddrPort
	// Session is for how long a client, which is a network namespace, keeps the
	// backend that it used last; 0 lets each connection choose anew. Whole
	// seconds up to MaxSession.
	Session time.Duration
	// Refuse has connections fail while there is no backend: a rule excludes
	// those that there are. Otherwise the address is left alone.
	Refuse bool
}

// Group is a set of backends that are alike: Backends and Parts together. They
// are of the Frontend's family; one that is given twice counts once.
type Group struct {
	// Tier orders groups: only those of the lowest tier that has a backend are used.
	Tier uint8
	// Weight is the share of new connections among the groups of the tier; 0
	// means the number of backends.
	Weight   uint16
	Backends []netip.AddrPort
	// Parts are for many backends. The Datapath keeps them, and takes one that
	// it is given again, the same array and length, as unchanged without looking
	// at it. So nobody may write to a part any more.
	Parts [][]netip.AddrPort
}

// all returns the backends, with those that are given twice.
func (g Group) all() iter.Seq[netip.AddrPort] {
	return func(yield func(netip.AddrPort) bool) {
		for _, b := range g.Backends {
			if !yield(b) {
				return
			}
		}
		for _, part := range g.Parts {
			for _, b := range part {
				if !yield(b) {
					return
				}
			}
		}
	}
}

// Size returns the number of backends; one that is given twice counts twice.
func (g Group) Size() int {
	size := len(g.Backends)
	for _, part := range g.Parts {
		size += len(part)
	}
	return size
}

// groups returns what is put in effect: those that are terminating only while
// there is nothing better.
func (s Service) groups() []Group {
	for _, g := range s.Groups {
		if g.Size() > 0 {
			return ranked(s.Groups)
		}
	}
	if len(s.Terminating) == 0 {
		return ranked(s.Groups)
	}
	return []Group{{Backends: s.Terminating}}
}

// maxTier is the highest tier that the maps can express. There are fewer groups.
const maxTier = 1<<(64-bpf.SocketGroupBitsGROUP_TIER_SHIFT) - 1

// ranked returns groups with tiers that the maps can express, in the same order.
func ranked(groups []Group) []Group {
	var tiers []uint8
	for _, g := range groups {
		tiers = append(tiers, g.Tier)
	}
	if len(tiers) == 0 || slices.Max(tiers) <= maxTier {
		return groups
	}
	slices.Sort(tiers)
	tiers = slices.Compact(tiers)
	groups = slices.Clone(groups)
	for i := range groups {
		groups[i].Tier = uint8(slices.Index(tiers, groups[i].Tier))
	}
	return groups
}

// target is an address and port as the maps have them: IPv4 mapped into IPv6.
type target struct {
	address [16]byte
	port    uint16
}

func targetOf(a netip.AddrPort) target { return target{a.Addr().As16(), a.Port()} }

func (t target) addrPort() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16(t.address).Unmap(), t.port)
}

// normal returns f with its address in the one form that is used as a key here.
func (f Frontend) normal() Frontend {
	f.Addr = netip.AddrPortFrom(f.Addr.Addr().Unmap().WithZone(""), f.Addr.Port())
	return f
}

// CanUse reports whether connections to f may become connections to b: it is of
// f's family, and an address that a workload can have. A loopback address would
// lead a client to its own machine, whoever said so.
func (f Frontend) CanUse(b netip.AddrPort) bool {
	a := b.Addr().Unmap()
	return b.IsValid() && b.Port() != 0 && a.Is4() == f.Addr.Addr().Unmap().Is4() && isWorkload(a)
}

func isWorkload(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// validate returns an error that wraps ErrService for what must never reach the
// maps: above all an address on which something else than a service listens.
func (f Frontend) validate() error {
	a := f.Addr.Addr()
	switch {
	case f.Protocol != TCP && f.Protocol != UDP:
		return fmt.Errorf("%v: only tcp and udp are translated: %w", f, ErrService)
	case !f.Addr.IsValid() || f.Addr.Port() == 0:
		return fmt.Errorf("%v: address or port is missing: %w", f, ErrService)
	case !isWorkload(a):
		return fmt.Errorf("%v: no service can have this address: %w", f, ErrService)
	}
	return nil
}

// validate checks a service with a valid frontend. It passes over the parts that
// known has.
func (s Service) validate(known *index) error {
	if len(s.Groups) > MaxGroups {
		return fmt.Errorf("%v: %d groups, %d fit: %w", s.Frontend, len(s.Groups), MaxGroups, ErrService)
	}
	if s.Session < 0 || s.Session > MaxSession || s.Session%time.Second != 0 {
		return fmt.Errorf("%v: a session of %v is no whole number of seconds in range: %w", s.Frontend, s.Session, ErrService)
	}
	size := len(s.Terminating)
	for _, g := range s.Groups {
		size += g.Size()
	}
	if size > maxGroup {
		return fmt.Errorf("%v: %d backends, %d fit: %w", s.Frontend, size, maxGroup, ErrService)
	}
	if err := s.validateBackends(s.Terminating); err != nil {
		return err
	}
	for i, g := range s.Groups {
		if err := s.validateBackends(g.Backends); err != nil {
			return err
		}
		for _, part := range g.Parts {
			if known.has(i, part) {
				continue
			}
			if err := s.validateBackends(part); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s Service) validateBackends(backends []netip.AddrPort) error {
	for _, b := range backends {
		if !s.CanUse(b) {
			return fmt.Errorf("%v: backend %v is of the other IP family or no address of a workload: %w", s.Frontend, b, ErrService)
		}
	}
	return nil
}
