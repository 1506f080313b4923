// Package route holds what a node has to know to carry packets between the
// clusters of a mesh: who it is itself, and which addresses lie behind which
// peer. The types are values and do no I/O.
package route

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// Mode says how packets reach a peer.
type Mode string

// The modes. There is none that stands for looking for one: whoever makes a Peer
// has decided for now.
const (
	// VXLAN puts packets into a tunnel of our own, from node to node.
	VXLAN Mode = "vxlan"
	// Native leaves packets to the network, which routes the peer's addresses
	// already.
	Native Mode = "native"
)

// Search says what is known of the way by which the network may carry packets to
// a peer itself, where the mode is found out.
type Search string

// What may be known.
const (
	// NoSearch is of a peer whose mode was set by hand.
	NoSearch Search = ""
	// Unfit says that packets do not arrive that way, or are not known to.
	Unfit Search = "unfit"
	// Fit says that they do, both ways and unchanged.
	Fit Search = "fit"
)

// Peer is another cluster as the nodes of ours reach it. It is comparable.
type Peer struct {
	Cluster string
	ID      cluster.ID
	// Size is the mesh's: it says how identities are divided.
	Size   cluster.Size
	Mode   Mode
	Search Search
}

// Tries reports whether nodes try the way by which the network carries packets to
// p itself.
func (p *Peer) Tries() bool { return p.Mode == Native || p.Search != NoSearch }

// Agrees reports whether our side would leave packets to p to the network.
func (p *Peer) Agrees() bool { return p.Search == Fit || p.Search == NoSearch && p.Mode == Native }

// Range says whose the addresses of a prefix are: the pod range of a node, or a
// host prefix for an address outside of its cluster's ranges. It overlaps none of
// another cluster; those of one cluster may overlap. It is comparable.
type Range struct {
	Prefix  netip.Prefix
	Cluster string
}

// Self is a node of our own cluster as it sees itself. A published Self is not
// changed any more.
type Self struct {
	Cluster string
	ID      cluster.ID
	Node    string
	// Mesh are the node's mesh addresses, at most one a family, IPv4 first. A
	// node without any takes no part in the routing between clusters.
	Mesh []netip.Addr
	// Pods are the ranges that the addresses of our cluster's pods are in, on
	// all nodes, as Canonical returns them.
	Pods []netip.Prefix
	// Underlay are the addresses by which other nodes reach this one, at most
	// one a family, IPv4 first.
	Underlay []netip.Addr
}

// Errors that the rules of this package return; all are wrapped with the
// offending value.
var (
	// ErrMode is returned for a mode that is neither vxlan nor native.
	ErrMode = errors.New("the mode of a route is vxlan or native")
	// ErrSearch is returned for a Search that is none of this package's.
	ErrSearch = errors.New("a search finds a way fit or unfit")
	// ErrPrefix is returned for a prefix that no cluster may have its pods in.
	ErrPrefix = errors.New("not a range for pods")
	// ErrOrder is returned for prefixes or addresses that are not in their one order.
	ErrOrder = errors.New("not in order")
	// ErrAddress is returned for an address that no node may have.
	ErrAddress = errors.New("not an address for a node")
)

// The shortest prefixes that a cluster may have: a shorter one would take a
// great part of all addresses from its reader.
const (
	minBits4 = 8
	minBits6 = 16
)

// ParseMode returns the mode of that name, or an error that wraps ErrMode.
func ParseMode(text string) (Mode, error) {
	mode := Mode(text)
	if mode != VXLAN && mode != Native {
		return "", fmt.Errorf("mode %q: %w", text, ErrMode)
	}
	return mode, nil
}

// ValidatePrefix returns an error that wraps ErrPrefix unless the addresses of
// a cluster's pods may be in p: it is masked, not too short, and holds unicast
// addresses that mean the same on every machine.
func ValidatePrefix(p netip.Prefix) error {
	wrong := func(why string) error { return fmt.Errorf("prefix %s: %s: %w", p, why, ErrPrefix) }
	switch {
	case !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "":
		return wrong("no plain IPv4 or IPv6 prefix")
	case p != p.Masked():
		return wrong("bits are set behind its length")
	case p.Addr().Is4() && p.Bits() < minBits4, p.Addr().Is6() && p.Bits() < minBits6:
		return wrong("shorter than /8 (IPv4) or /16 (IPv6)")
	case !unicast(p.Addr()):
		return wrong("loopback, link-local, multicast or unspecified")
	}
	return nil
}

// ValidateAddr returns an error that wraps ErrAddress unless a may be the
// address of a node or pod.
func ValidateAddr(a netip.Addr) error {
	if !a.IsValid() || a.Is4In6() || a.Zone() != "" || !unicast(a) {
		return fmt.Errorf("address %s: %w", a, ErrAddress)
	}
	return nil
}

// unicast reports whether a can name one machine among many, and means the same
// on every machine.
func unicast(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() &&
		(!a.Is4() || (a.As4()[0] != 0 && a.As4()[0] != 127 && a.As4()[0] < 240))
}

// Canonical returns the prefixes sorted (IPv4 first, then by address, a
// shorter one before a longer one), masked, and without those that another one
// of them contains. The argument is not changed.
func Canonical(prefixes []netip.Prefix) []netip.Prefix {
	sorted := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		sorted = append(sorted, p.Masked())
	}
	slices.SortFunc(sorted, Compare)
	kept := sorted[:0]
	for _, p := range sorted {
		// In this order, what contains p is the last one that was kept.
		if n := len(kept); n > 0 && kept[n-1].Overlaps(p) {
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// Compare orders prefixes: IPv4 first, then by address, a shorter one before a
// longer one.
func Compare(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// Find returns the one of the canonical prefixes that contains a.
func Find(prefixes []netip.Prefix, a netip.Addr) (netip.Prefix, bool) {
	i, _ := slices.BinarySearchFunc(prefixes, a, func(p netip.Prefix, a netip.Addr) int {
		if p.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	if i == 0 || !prefixes[i-1].Contains(a) {
		return netip.Prefix{}, false
	}
	return prefixes[i-1], true
}

// Validate returns what is wrong with p; the errors of this package and of
// pkg/cluster say which rule was broken.
func (p *Peer) Validate() error {
	if err := cluster.ValidateName(p.Cluster); err != nil {
		return err
	}
	if err := p.Size.Validate(); err != nil {
		return fmt.Errorf("peer %s: %w", p.Cluster, err)
	}
	if err := p.Size.ValidateID(p.ID); err != nil {
		return fmt.Errorf("peer %s: %w", p.Cluster, err)
	}
	if _, err := ParseMode(string(p.Mode)); err != nil {
		return fmt.Errorf("peer %s: %w", p.Cluster, err)
	}
	if p.Search != NoSearch && p.Search != Unfit && p.Search != Fit {
		return fmt.Errorf("peer %s: %q: %w", p.Cluster, p.Search, ErrSearch)
	}
	return nil
}

// Validate returns what is wrong with r; the errors of this package and of
// pkg/cluster say which rule was broken.
func (r *Range) Validate() error {
	if err := cluster.ValidateName(r.Cluster); err != nil {
		return err
	}
	return ValidatePrefix(r.Prefix)
}

// Validate returns what is wrong with s; the errors of this package and of
// pkg/cluster say which rule was broken.
func (s *Self) Validate() error {
	if err := cluster.ValidateName(s.Cluster); err != nil {
		return err
	}
	if err := cluster.Size511.ValidateID(s.ID); err != nil {
		return err
	}
	if s.Node == "" {
		return errors.New("the node has no name")
	}
	for what, addrs := range map[string][]netip.Addr{"mesh": s.Mesh, "underlay": s.Underlay} {
		if err := validateAddrs(addrs); err != nil {
			return fmt.Errorf("node %s: %s addresses: %w", s.Node, what, err)
		}
	}
	if err := validatePrefixes(s.Pods); err != nil {
		return fmt.Errorf("node %s: pods: %w", s.Node, err)
	}
	return nil
}

// Equal reports whether s and t say the same.
func (s *Self) Equal(t *Self) bool {
	return s.Cluster == t.Cluster && s.ID == t.ID && s.Node == t.Node &&
		slices.Equal(s.Mesh, t.Mesh) && slices.Equal(s.Pods, t.Pods) && slices.Equal(s.Underlay, t.Underlay)
}

// Family returns the address of addrs, which are at most one a family, that
// has the family of v6, or the zero Addr.
func Family(addrs []netip.Addr, v6 bool) netip.Addr {
	for _, a := range addrs {
		if a.Is6() == v6 {
			return a
		}
	}
	return netip.Addr{}
}

func validatePrefixes(prefixes []netip.Prefix) error {
	for _, p := range prefixes {
		if err := ValidatePrefix(p); err != nil {
			return err
		}
	}
	if !slices.Equal(prefixes, Canonical(prefixes)) {
		return fmt.Errorf("prefixes %v: %w", prefixes, ErrOrder)
	}
	return nil
}

// validateAddrs checks a list of at most one address a family, IPv4 first.
func validateAddrs(addrs []netip.Addr) error {
	for _, a := range addrs {
		if err := ValidateAddr(a); err != nil {
			return err
		}
	}
	if len(addrs) > 2 || (len(addrs) == 2 && (!addrs[0].Is4() || !addrs[1].Is6())) {
		return fmt.Errorf("addresses %v: %w", addrs, ErrOrder)
	}
	return nil
}
