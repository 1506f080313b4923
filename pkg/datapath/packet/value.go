package packet

import (
	"encoding/binary"
	"net/netip"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/pin"
	"github.com/causeway-mesh/causeway/pkg/identity"
)

// What fits into the word of an address.
const (
	maxIdentity = identity.Number(1<<bpf.MeshPacketLayoutADDRESS_IDENTITY_BITS - 1)
	maxCluster  = cluster.ID(1<<bpf.MeshPacketLayoutADDRESS_CLUSTER_BITS - 1)
)

// ip is an address as the maps have it: IPv4 mapped into IPv6.
type ip [16]byte

func ipOf(a netip.Addr) ip { return a.As16() }

func (a ip) addr() netip.Addr { return netip.AddrFrom16(a).Unmap() }

func (a ip) is4() bool { return a.addr().Is4() }

// v4 is the key of an IPv4 address: its bytes in their order, as a word.
func (a ip) v4() uint32 { return binary.NativeEndian.Uint32(a[12:]) }

func ipOfV4(key uint32) ip {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], key)
	return ipOf(netip.AddrFrom4(b))
}

// word is what is known of an address; 0 is nothing. Its bits are those of
// enum packet_layout.
type word uint64

func newWord(id identity.Number, c cluster.ID, host uint32) word {
	return word(id) | word(c)<<bpf.MeshPacketLayoutADDRESS_CLUSTER_SHIFT | word(host)<<bpf.MeshPacketLayoutADDRESS_HOST_SHIFT
}

func (w word) host() uint32 { return uint32(w >> bpf.MeshPacketLayoutADDRESS_HOST_SHIFT) }

func sealIndex(index uint32) uint64 {
	return pin.SealStep(uint64(bpf.MeshPacketLayoutPACKET_LAYOUT_VERSION), uint64(index))
}

func sealIP(a ip) uint64 {
	seal := pin.SealStep(uint64(bpf.MeshPacketLayoutPACKET_LAYOUT_VERSION), binary.NativeEndian.Uint64(a[:8]))
	return pin.SealStep(seal, binary.NativeEndian.Uint64(a[8:]))
}

// encodeAddress returns the value of an address, in the map of its family.
func encodeAddress(a ip, w word) bpf.MeshAddress {
	v := bpf.MeshAddress{Bits: uint64(w)}
	seal := sealIP(a)
	if a.is4() {
		seal = sealIndex(a.v4())
	}
	v.Seal = pin.Seal(&v, seal)
	return v
}

func encodeHost(a ip, index uint32, c cluster.ID) bpf.MeshHost {
	v := bpf.MeshHost{Index: index, Cluster: uint32(c)}
	v.Seal = pin.Seal(&v, sealIP(a))
	return v
}

// encodeNode returns the value of a host's index. Without a tunnel it is the
// same whatever the cluster: nothing leads there.
func encodeNode(index uint32, tunnel netip.Addr, c cluster.ID) bpf.MeshNode {
	var v bpf.MeshNode
	if tunnel.IsValid() {
		v.Tunnel, v.Cluster = tunnel.As16(), uint32(c)
	}
	v.Seal = pin.Seal(&v, sealIndex(index))
	return v
}

func encodeSettings(hosts [2]uint32, v4, v6 netip.Addr, localBits uint, own cluster.ID) bpf.MeshSettings {
	v := bpf.MeshSettings{Hosts: hosts, LocalBits: uint16(localBits), Cluster: uint16(own)}
	if v4.IsValid() {
		v.LocalV4 = ipOf(v4).v4()
	}
	if v6.IsValid() {
		v.LocalV6 = v6.As16()
	}
	v.Seal = pin.Seal(&v, sealIndex(0))
	return v
}

func encodeRange(p netip.Prefix) bpf.MeshRangeKey {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return bpf.MeshRangeKey{PrefixBits: uint32(bits), Address: p.Addr().As16()}
}

func decodeRange(k bpf.MeshRangeKey) netip.Prefix {
	a := ip(k.Address).addr()
	bits := int(k.PrefixBits)
	if a.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(a, bits)
}
