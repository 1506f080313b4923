package probe

import (
	"encoding/binary"
	"net/netip"
)

// The kinds of messages.
const (
	kindAsk    = 1 // answer this
	kindAnswer = 2
	kindMark   = 3 // remember from where this came; it is not answered
)

// messageSize is that of a message without padding, in bytes:
//
//	0  "CWPB"
//	4  version, 1
//	5  kind
//	6  number of the question in its round
//	8  token of the round
//	16 source of the question, as the other side saw it; an answer's
//	32 source of the mark with that token, likewise; all 0 when none came
//
// Numbers are big endian, an IPv4 address is mapped. What follows is padding.
const messageSize = 48

const (
	magic   = "CWPB"
	version = 1
)

// message is what agents say to each other.
type message struct {
	kind         byte
	number       uint16
	token        uint64
	seen, marked netip.Addr
}

// encode returns the message in so many bytes, at least messageSize.
func (m message) encode(size int) []byte {
	b := make([]byte, max(size, messageSize))
	copy(b, magic)
	b[4], b[5] = version, m.kind
	binary.BigEndian.PutUint16(b[6:], m.number)
	binary.BigEndian.PutUint64(b[8:], m.token)
	putAddr(b[16:32], m.seen)
	putAddr(b[32:48], m.marked)
	return b
}

// decode returns false for what is no message.
func decode(b []byte) (message, bool) {
	if len(b) < messageSize || string(b[:4]) != magic || b[4] != version || b[5] < kindAsk || b[5] > kindMark {
		return message{}, false
	}
	return message{
		kind: b[5], number: binary.BigEndian.Uint16(b[6:]), token: binary.BigEndian.Uint64(b[8:]),
		seen: getAddr(b[16:32]), marked: getAddr(b[32:48]),
	}, true
}

func putAddr(b []byte, a netip.Addr) {
	if a.IsValid() {
		sixteen := a.As16()
		copy(b, sixteen[:])
	}
}

func getAddr(b []byte) netip.Addr {
	a := netip.AddrFrom16([16]byte(b)).Unmap()
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}
