package feed

import (
	"encoding/binary"
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/service"
)

// Kind is a kind of resource.
type Kind uint8

// The kinds, numbered as on the wire.
const (
	View     = Kind(feedpb.Kind_VIEW)
	Slice    = Kind(feedpb.Kind_SLICE)
	Node     = Kind(feedpb.Kind_NODE)
	Identity = Kind(feedpb.Kind_IDENTITY)
	Address  = Kind(feedpb.Kind_ADDRESS)
	Peer     = Kind(feedpb.Kind_PEER)
	Range    = Kind(feedpb.Kind_RANGE)

	lastKind = Range
)

// String is the kind as metrics label it.
func (k Kind) String() string {
	return [...]string{"none", "view", "slice", "node", "identity", "address", "peer", "range"}[k]
}

// kindOf returns the kind of a number on the wire, and whether this version knows
// it. The number is judged in full: a Kind has room for a part of it only.
func kindOf(number feedpb.Kind) (k Kind, known bool) {
	if number < feedpb.Kind(View) || number > feedpb.Kind(lastKind) {
		return 0, false
	}
	return Kind(number), true
}

// kindSet is a set of Kinds, one bit each.
type kindSet uint64

func setOf(kinds ...Kind) kindSet {
	var s kindSet
	for _, k := range kinds {
		s |= 1 << k
	}
	return s
}

// allKinds are those that this version knows.
func allKinds() kindSet { return setOf(View, Slice, Node, Identity, Address, Peer, Range) }

func (s kindSet) has(k Kind) bool { return s&setOf(k) != 0 }

// list returns the kinds in s that this version knows, in order.
func (s kindSet) list() []Kind {
	var out []Kind
	for k := View; k <= lastKind; k++ {
		if s.has(k) {
			out = append(out, k)
		}
	}
	return out
}

// key names a resource. Its text is made the same way by all processes, since
// it decides on the resource's bucket; different resources of a kind have
// different texts.
type key struct {
	kind Kind
	text string
}

func viewKey(name service.Name) key { return key{View, join(name.Namespace, name.Name)} }

func sliceKey(k service.BackendSliceKey) key {
	text := join(k.Service.Namespace, k.Service.Name, k.Cluster, k.Slice)
	return key{Slice, text + string(binary.BigEndian.AppendUint32(nil, uint32(k.Part)))}
}

func nodeKey(k node.Key) key { return key{Node, join(k.Cluster, k.Name)} }

func identityKey(n identity.Number) key {
	return key{Identity, string(binary.BigEndian.AppendUint32(nil, uint32(n)))}
}

func addressKey(p netip.Prefix) key {
	return key{Address, string(append(p.Addr().AsSlice(), byte(p.Bits())))}
}

// join puts the length before each part, so that no part can hold what looks
// like the border of two.
func join(parts ...string) string {
	var b []byte
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return string(b)
}
