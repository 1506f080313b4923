package packet

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/tests/frame"
)

// parsed is what a frame says, read without haste.
type parsed struct {
	reason   Reason
	from, to netip.Addr
	routed   bool
}

func parse(data []byte) parsed {
	kind, ip := binary.BigEndian.Uint16(data[12:]), data[frame.EthernetLength:]
	switch kind {
	case frame.TypeIPv4:
		return parse4(ip)
	case frame.TypeIPv6:
		return parse6(ip)
	}
	return parsed{reason: Protocol}
}

func parse4(ip []byte) parsed {
	bad := parsed{reason: Malformed}
	if len(ip) < frame.IPv4Length || ip[0]>>4 != 4 {
		return bad
	}
	header, length := int(ip[0]&15)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if header < frame.IPv4Length || length < header || length > len(ip) {
		return bad
	}
	p := parsed{from: netip.AddrFrom4([4]byte(ip[12:])), to: netip.AddrFrom4([4]byte(ip[16:]))}
	for options := ip[frame.IPv4Length:header]; len(options) > 0 && options[0] != 0; {
		if options[0] == 1 {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return bad
		}
		p.routed = p.routed || options[0] == 131 || options[0] == 137
		options = options[options[1]:]
	}
	return p
}

func parse6(ip []byte) parsed {
	bad := parsed{reason: Malformed}
	if len(ip) < frame.IPv6Length || ip[0]>>4 != 6 {
		return bad
	}
	length := int(binary.BigEndian.Uint16(ip[4:]))
	if frame.IPv6Length+length > len(ip) {
		return bad
	}
	p := parsed{from: netip.AddrFrom16([16]byte(ip[8:])), to: netip.AddrFrom16([16]byte(ip[24:]))}
	next, rest := ip[6], ip[frame.IPv6Length:frame.IPv6Length+length]
	for count := 0; slices.Contains([]byte{frame.HopByHop, frame.Routing, frame.Fragment, frame.AH, frame.Destination}, next); count++ {
		if len(rest) < 8 {
			return bad
		}
		size := int(rest[1])*8 + 8
		switch next {
		case frame.Fragment:
			size = 8
		case frame.AH:
			size = int(rest[1])*4 + 8
		case frame.Routing:
			p.routed = p.routed || rest[3] > 0
		}
		if next == frame.Fragment && binary.BigEndian.Uint16(rest[2:])>>3 > 0 {
			return p.unlessMapped()
		}
		if size > len(rest) || count == 7 {
			return bad
		}
		next, rest = rest[0], rest[size:]
	}
	return p.unlessMapped()
}

func (p parsed) unlessMapped() parsed {
	if p.from.Is4In6() || p.to.Is4In6() {
		return parsed{reason: Malformed}
	}
	return p
}

// expected is what from_mesh should make of a frame in the world of these tests.
func expected(s state, outer frame.Outer, data []byte) Reason {
	p := parse(data)
	if p.reason != Passed {
		return p.reason
	}
	peer, ok := s.Nodes[outer.Source]
	if !ok {
		return NoNode
	}
	if s.Addresses[p.to].Tunnel != "here" {
		return Destination
	}
	if p.routed {
		return Routed
	}
	number := identity.Number(outer.Number)
	if from, ok := s.Addresses[p.from]; ok {
		switch {
		case from.Cluster != peer:
			return Cluster
		case from.Identity != number:
			return Identity
		}
		return Passed
	}
	best, found := cluster.ID(0), -1
	for r, c := range s.Ranges {
		if r.Contains(p.from) && r.Bits() > found {
			best, found = c, r.Bits()
		}
	}
	first, last := identity.Block(peer, cluster.Size255)
	switch {
	case best != peer:
		return Source
	case number < first || number > last:
		return Number
	}
	return Late
}

// seeds are frames to begin with: good ones, and ones with all kinds of headers.
func seeds() [][]byte {
	var all [][]byte
	for _, ends := range [][2]string{
		{"10.2.0.7", "10.1.0.5"},
		{"10.2.0.77", "10.1.0.5"},
		{"10.201.0.1", "10.200.0.1"},
		{"10.3.0.8", "10.1.0.5"},
		{"fd00:2::7", "fd00:1::5"},
		{"fd00:2::77", "fd00:200::1"},
	} {
		all = append(all, packetOf(ends[0], ends[1]))
	}
	for _, shape := range shaped(addr("10.2.0.7"), addr("10.1.0.5"), addr("fd00:2::7"), addr("fd00:1::5")) {
		all = append(all, shape.data)
	}
	for _, data := range sourceRouted(addr("10.2.0.7"), addr("10.1.0.5"), addr("fd00:2::7"), addr("fd00:1::5")) {
		all = append(all, data)
	}
	slices.SortFunc(all, slices.Compare[[]byte])
	return all
}

// mutate changes a few bytes of a frame, or its length. Most changes are small,
// and where headers have their lengths and kinds.
func mutate(r *rand.Rand, data []byte) []byte {
	data = slices.Clone(data)
	for range r.IntN(4) {
		at := r.IntN(len(data))
		if r.IntN(2) == 0 {
			at = frame.EthernetLength + r.IntN(min(48, len(data)-frame.EthernetLength))
		}
		switch r.IntN(4) {
		case 0:
			data[at] = byte(r.Uint32())
		case 1:
			data[at] ^= 1 << r.IntN(8)
		case 2:
			data[at] = []byte{0, 1, 2, 4, 6, 17, 43, 44, 51, 60, 131, 255}[r.IntN(12)]
		default:
			data[at]++
		}
	}
	if r.IntN(4) == 0 {
		data = data[:max(frame.EthernetLength+1, r.IntN(len(data)+1))]
	}
	return data
}

// TestMutated compares what from_mesh makes of many broken frames with what a
// slow reading of them says.
func TestMutated(t *testing.T) {
	p := prepared(t)
	s := readState(t, p)
	r := rand.New(rand.NewPCG(8, 472))
	var outers []frame.Outer
	var arrivals []*frame.Arrival
	for _, outer := range []frame.Outer{
		{Source: addr("192.0.2.2"), Number: uint32(westPod)},
		{Source: addr("2001:db8::2"), Number: uint32(identity.RemoteNode)},
		{Source: addr("192.0.2.3"), Number: uint32(southPod)},
		{Source: addr("192.0.2.9"), Number: uint32(westPod)},
	} {
		arrival, err := frame.NewArrival(p.hooks[0].program, p.hooks[0].attach, outer, nil)
		must(t, err)
		defer arrival.Close()
		outers, arrivals = append(outers, outer), append(arrivals, arrival)
	}
	from, seen := seeds(), map[Reason]int{}
	before := counts(t, p)
	for range 20_000 {
		data, i := mutate(r, from[r.IntN(len(from))]), r.IntN(len(outers))
		if r.IntN(2) == 0 {
			i = 0
		}
		if _, err := arrivals[i].Run(data); errors.Is(err, unix.EINVAL) {
			continue // shorter than test runs take
		} else if err != nil {
			t.Fatal(err)
		}
		got, err := moved(t, p, FromMesh, before)
		want := expected(s, outers[i], data)
		if err != nil || got != want {
			t.Fatalf("%x from %v: %v, want %v; %v", data, outers[i], got, want, err)
		}
		before[FromMesh][got]++
		seen[got]++
	}
	t.Log(seen)
	for _, reason := range []Reason{Passed, Late, Malformed, Protocol, NoNode, Source, Cluster, Identity, Number, Destination, Routed} {
		if seen[reason] == 0 {
			t.Errorf("no frame was %v", reason)
		}
	}
}
