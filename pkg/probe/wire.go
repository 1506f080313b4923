package probe

import (
	"encoding/binary"
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// The kinds of messages. From kindHello on they are between an agent and the probe
// pod of its node.
const (
	kindAsk    = 1 // answer this
	kindAnswer = 2
	kindMark   = 3 // remember from where this came; it is not answered
	kindHello  = 4 // say the cookie
	kindCookie = 5
	kindRelay  = 6 // ask that pod in my place
	kindClosed = 7 // where that pod is, nobody answers
)

// messageSize is that of a message without padding, in bytes, podSize that of one
// from or to a probe pod:
//
//	0  "CWPB"
//	4  version, 1
//	5  kind
//	6  number of the question in its round; of a cookie the MTU
//	8  token of the round
//	16 source of the question, as the other side saw it; an answer's. The pod to
//	   ask; a relay's
//	32 source of the mark with that token, likewise; all 0 when none came
//	48 cookie
//	56 number of the cluster that asks
//	58 number of the cluster that is asked
//	60 what the one that says it thinks of the way
//	61 0
//
// Numbers are big endian, an IPv4 address is mapped. What follows is padding.
const (
	messageSize = 48
	podSize     = 64
	// relaySize is the least size of what is asked of and by probe pods: with IPv4
	// and IPv6 alike, the answer and the mark that come back are less.
	relaySize = 3 * podSize
)

const (
	magic   = "CWPB"
	version = 1
)

// opinion is what one side thinks of leaving packets to the network.
type opinion byte

// The opinions; 0 is none.
const (
	against opinion = 1
	willing opinion = 2
)

// message is what agents and probe pods say to each other.
type message struct {
	kind         byte
	number       uint16
	token        uint64
	seen, marked netip.Addr
	// The rest is of probe pods.
	cookie       uint64
	asker, asked cluster.ID
	says         opinion
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
	if len(b) >= podSize {
		binary.BigEndian.PutUint64(b[48:], m.cookie)
		binary.BigEndian.PutUint16(b[56:], uint16(m.asker))
		binary.BigEndian.PutUint16(b[58:], uint16(m.asked))
		b[60] = byte(m.says)
	}
	return b
}

// decode returns false for what is no message.
func decode(b []byte) (message, bool) {
	if len(b) < messageSize || string(b[:4]) != magic || b[4] != version || b[5] < kindAsk || b[5] > kindClosed {
		return message{}, false
	}
	m := message{
		kind: b[5], number: binary.BigEndian.Uint16(b[6:]), token: binary.BigEndian.Uint64(b[8:]),
		seen: getAddr(b[16:32]), marked: getAddr(b[32:48]),
	}
	if len(b) >= podSize {
		m.cookie = binary.BigEndian.Uint64(b[48:])
		m.asker, m.asked = cluster.ID(binary.BigEndian.Uint16(b[56:])), cluster.ID(binary.BigEndian.Uint16(b[58:]))
		m.says = opinion(b[60])
	}
	return m, true
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
