// Package frame makes packets byte by byte, good ones and bad ones, and has the
// kernel run programs on them as if they had come out of a tunnel.
package frame

import (
	"encoding/binary"
	"net/netip"
)

// Numbers of protocols.
const (
	HopByHop    = 0
	TCP         = 6
	UDP         = 17
	Routing     = 43
	Fragment    = 44
	AH          = 51
	NoNext      = 59
	Destination = 60
)

// Types of frames.
const (
	TypeIPv4 = 0x0800
	TypeIPv6 = 0x86dd
	TypeARP  = 0x0806
)

// Offsets of headers in a frame that Ethernet makes.
const (
	EthernetLength = 14
	IPv4Length     = 20
	IPv6Length     = 40
)

// Ethernet returns a frame from one made-up device to another.
func Ethernet(kind uint16, payload []byte) []byte {
	head := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	return append(binary.BigEndian.AppendUint16(head, kind), payload...)
}

// IP returns a frame with a packet of the addresses' family.
func IP(source, destination netip.Addr, protocol uint8, payload []byte) []byte {
	if source.Is4() {
		return Ethernet(TypeIPv4, IPv4(source, destination, protocol, nil, payload))
	}
	return Ethernet(TypeIPv6, IPv6(source, destination, protocol, payload))
}

// IPv4 returns a packet that must not be cut into fragments. The options are
// padded to whole words.
func IPv4(source, destination netip.Addr, protocol uint8, options, payload []byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	header := make([]byte, IPv4Length, IPv4Length+len(options)+len(payload))
	header = append(header, options...)
	header[0] = 4<<4 | byte(len(header)/4)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(payload)))
	binary.BigEndian.PutUint16(header[6:], 0x4000)
	header[8], header[9] = 64, protocol
	copy(header[12:], source.AsSlice())
	copy(header[16:], destination.AsSlice())
	binary.BigEndian.PutUint16(header[10:], Checksum(header))
	return append(header, payload...)
}

// IPv6 returns a packet; next is the protocol of what its payload begins with.
func IPv6(source, destination netip.Addr, next uint8, payload []byte) []byte {
	header := make([]byte, IPv6Length, IPv6Length+len(payload))
	header[0] = 6 << 4
	binary.BigEndian.PutUint16(header[4:], uint16(len(payload)))
	header[6], header[7] = next, 64
	copy(header[8:], source.AsSlice())
	copy(header[24:], destination.AsSlice())
	return append(header, payload...)
}

// Datagram returns a UDP header and what it carries, without a checksum.
func Datagram(from, to uint16, payload []byte) []byte {
	var header []byte
	for _, v := range []uint16{from, to, uint16(8 + len(payload)), 0} {
		header = binary.BigEndian.AppendUint16(header, v)
	}
	return append(header, payload...)
}

// VXLAN returns what a tunnel's UDP carries: a header and a frame.
func VXLAN(number uint32, inner []byte) []byte {
	header := make([]byte, 8, 8+len(inner))
	header[0] = 8
	binary.BigEndian.PutUint32(header[4:], number<<8)
	return append(header, inner...)
}

// Checksum returns the internet checksum of b.
func Checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
