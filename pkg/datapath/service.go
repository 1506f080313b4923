package datapath

import (
	"fmt"
	"net/netip"

	"github.com/causeway-mesh/causeway/bpf"
)

// Protocol is an IP protocol number.
type Protocol uint8

// TCP is the one protocol that the hooks translate.
const TCP Protocol = 6

// Limits of the maps' formats.
const (
	// MaxGroups is how many groups of backends a service can have.
	MaxGroups = int(bpf.SocketLayoutMAX_GROUPS)
	maxInline = int(bpf.SocketLayoutMAX_INLINE)
)

// Frontend is an address and port that clients dial. An IPv4 address and its
// IPv4-mapped form are the same Frontend.
type Frontend struct {
	Addr     netip.AddrPort
	Protocol Protocol
}

// String returns address:port/tcp.
func (f Frontend) String() string { return f.Addr.String() + "/" + f.Protocol.String() }

// String returns the protocol's name, in lower case.
func (p Protocol) String() string {
	if p == TCP {
		return "tcp"
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
}

// Group is a set of backends that are alike.
type Group struct {
	// Tier orders groups: only those of the lowest tier that has a backend are used.
	Tier uint8
	// Weight is the share of new connections among the groups of the tier; 0
	// means the number of backends.
	Weight uint16
	// Backends are of the Frontend's family, each in one group only.
	Backends []netip.AddrPort
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
	case f.Protocol != TCP:
		return fmt.Errorf("%v: only tcp is translated: %w", f, ErrService)
	case !f.Addr.IsValid() || f.Addr.Port() == 0:
		return fmt.Errorf("%v: address or port is missing: %w", f, ErrService)
	case !isWorkload(a):
		return fmt.Errorf("%v: no service can have this address: %w", f, ErrService)
	}
	return nil
}

// validate checks the groups against a valid frontend.
func (s Service) validate() error {
	if len(s.Groups) > MaxGroups {
		return fmt.Errorf("%v: %d groups, %d fit: %w", s.Frontend, len(s.Groups), MaxGroups, ErrService)
	}
	for _, g := range s.Groups {
		for _, b := range g.Backends {
			if !s.CanUse(b) {
				return fmt.Errorf("%v: backend %v is of the other IP family or no address of a workload: %w", s.Frontend, b, ErrService)
			}
		}
	}
	return nil
}
