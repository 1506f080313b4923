package publish

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	"net/netip"
	"strconv"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// Where a cluster keeps what it allocated: `<prefix><number>` -> whose it is, as
// JSON. It is the cluster's own and is read by no peer.
const (
	ClaimPrefix       = "causeway/identities/v1/"
	MeshAddressPrefix = "causeway/mesh-addresses/v1/"
)

// space is what an allocator gives numbers N of to holders H.
type space[N, H comparable] struct {
	// name is what metrics and writers call it, nouns what people do.
	name, nouns string
	prefix      string // of the keys in etcd
	size        int    // how many numbers there are
	full        error  // when none is free
	ours        func(N) bool
	// candidates yields every number that a holder may get, once each, beginning
	// at one that depends on the holder alone.
	candidates func(H) iter.Seq[N]
	compare    func(a, b N) int
	format     func(N) string
	parse      func(string) (N, error)
	// encode returns the JSON of a claim, without the number when that is the
	// zero one; decode reads it.
	encode func(N, claim[H]) ([]byte, error)
	decode func([]byte) (N, claim[H], error)
}

// identitySpace are the identities that a cluster may allocate, by their labels.
func identitySpace(id cluster.ID, size cluster.Size) space[identity.Number, identity.Labels] {
	first, last := identity.Range(id, size)
	return space[identity.Number, identity.Labels]{
		name: "claims", nouns: "identities", prefix: ClaimPrefix, full: errRangeFull,
		size: int(last-first) + 1,
		ours: func(n identity.Number) bool { return n >= first && n <= last },
		candidates: func(l identity.Labels) iter.Seq[identity.Number] {
			return identity.Candidates(l, id, size)
		},
		compare: cmp.Compare[identity.Number],
		format:  identity.Number.String,
		parse: func(text string) (identity.Number, error) {
			n, err := strconv.ParseUint(text, 10, 32)
			return identity.Number(n), err
		},
		encode: func(n identity.Number, c claim[identity.Labels]) ([]byte, error) {
			return json.Marshal(identityClaim{n, c.Holder, c.Freed})
		},
		decode: func(text []byte) (identity.Number, claim[identity.Labels], error) {
			var c identityClaim
			err := json.Unmarshal(text, &c)
			return c.Number, claim[identity.Labels]{Holder: c.Labels, Freed: c.Freed}, err
		},
	}
}

// identityClaim is the JSON of an identity's claim.
type identityClaim struct {
	Number identity.Number `json:"number,omitempty"`
	Labels identity.Labels `json:"labels"`
	Freed  time.Time       `json:"freed,omitzero"`
}

// meshHolder is a node in one family.
type meshHolder struct {
	node string
	v6   bool
}

// meshSpace are the addresses of ranges, at most one a family, by nodes: all but
// the first and the last one, which mean something else to some programs.
func meshSpace(ranges []netip.Prefix) space[netip.Addr, meshHolder] {
	size := 0
	for _, p := range ranges {
		size += int(spanOf(p))
	}
	return space[netip.Addr, meshHolder]{
		name: "mesh_addresses", nouns: "mesh addresses", prefix: MeshAddressPrefix, full: errMeshFull,
		size: size,
		ours: func(a netip.Addr) bool {
			for _, p := range ranges {
				if p.Contains(a) {
					return true
				}
			}
			return false
		},
		candidates: func(h meshHolder) iter.Seq[netip.Addr] {
			for _, p := range ranges {
				if p.Addr().Is6() == h.v6 {
					return addressesOf(p, h.node)
				}
			}
			return func(func(netip.Addr) bool) {}
		},
		compare: netip.Addr.Compare,
		format:  netip.Addr.String,
		parse:   netip.ParseAddr,
		encode: func(a netip.Addr, c claim[meshHolder]) ([]byte, error) {
			return json.Marshal(meshClaim{a, c.Holder.node, c.Holder.v6, c.Freed})
		},
		decode: func(text []byte) (netip.Addr, claim[meshHolder], error) {
			var c meshClaim
			err := json.Unmarshal(text, &c)
			return c.Address, claim[meshHolder]{Holder: meshHolder{c.Node, c.IPv6}, Freed: c.Freed}, err
		},
	}
}

// meshClaim is the JSON of a mesh address' claim.
type meshClaim struct {
	Address netip.Addr `json:"address,omitzero"`
	Node    string     `json:"node"`
	IPv6    bool       `json:"ipv6,omitempty"`
	Freed   time.Time  `json:"freed,omitzero"`
}

// maxMeshBits is how many bits of a range's addresses are used at most: no
// cluster has more nodes.
const maxMeshBits = 24

// spanOf returns how many addresses of p are given to nodes.
func spanOf(p netip.Prefix) uint64 { return 1<<min(p.Addr().BitLen()-p.Bits(), maxMeshBits) - 2 }

// addressesOf yields the addresses of p, beginning at the node's.
func addressesOf(p netip.Prefix, name string) iter.Seq[netip.Addr] {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(name)) // never fails
	span, start := spanOf(p), hash.Sum64()
	return func(yield func(netip.Addr) bool) {
		for i := range span {
			if !yield(nth(p, 1+(start+i)%span)) {
				return
			}
		}
	}
}

// nth returns the n-th address of p, which has that many.
func nth(p netip.Prefix, n uint64) netip.Addr {
	if p.Addr().Is4() {
		base := p.Addr().As4()
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, binary.BigEndian.Uint32(base[:])+uint32(n))))
	}
	base := p.Addr().As16()
	low := binary.BigEndian.Uint64(base[8:]) + n
	binary.BigEndian.PutUint64(base[8:], low)
	return netip.AddrFrom16(base)
}

// minMeshAddresses is how many addresses a range for nodes must have.
const minMeshAddresses = 2

// ValidateMeshRanges returns what is wrong with the ranges that nodes are to have
// mesh addresses from, nil for none and for good ones.
func ValidateMeshRanges(ranges []netip.Prefix) error {
	for i, p := range ranges {
		if err := route.ValidatePrefix(p); err != nil {
			return err
		}
		if hosts := p.Addr().BitLen() - p.Bits(); hosts < minMeshAddresses {
			return fmt.Errorf("range %s has no room for nodes: %w", p, errMeshRange)
		}
		for _, q := range ranges[:i] {
			if p.Addr().Is6() == q.Addr().Is6() {
				return fmt.Errorf("ranges %s and %s are of one family: %w", q, p, errMeshRange)
			}
		}
	}
	return nil
}

// errMeshRange is returned for ranges that nodes cannot have addresses from.
var errMeshRange = errors.New("give one range a family, of 4 addresses at least")
