package packet

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/tests/frame"
)

// What programs return.
const (
	next = -1
	drop = 2
)

// datagram is what the packets of these tests carry.
func datagram() []byte { return frame.Datagram(40000, 53, []byte("what is carried")) }

func packetOf(from, to string) []byte {
	return frame.IP(addr(from), addr(to), frame.UDP, datagram())
}

// with returns the frame with a byte replaced.
func with(data []byte, at int, value byte) []byte {
	data = slices.Clone(data)
	data[at] = value
	return data
}

// judge runs one program on a frame and returns what became of it.
func judge(t *testing.T, p *Plane, d Direction, outer frame.Outer, data []byte) Reason {
	t.Helper()
	i := slices.IndexFunc(p.hooks, func(h *hook) bool { return (h.name == bpf.MeshProgToMesh) == (d == ToMesh) })
	arrival, err := frame.NewArrival(p.hooks[i].program, p.hooks[i].attach, outer, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer arrival.Close()
	before := counts(t, p)
	verdict, err := arrival.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	reason, err := moved(t, p, d, before)
	if err != nil {
		t.Errorf("verdict %d, reason %v: %v", verdict, reason, err)
	}
	want := int32(drop)
	if reason == Passed || reason == Late {
		want = next
	}
	if verdict != want {
		t.Errorf("%v: verdict %d, want %d", reason, verdict, want)
	}
	return reason
}

func fragmentHeader(next uint8, offset int) []byte {
	h := []byte{next, 0, 0, 0, 0, 0, 0, 7}
	binary.BigEndian.PutUint16(h[2:], uint16(offset)|1)
	return h
}

// routingHeader has as many stops ahead as it says.
func routingHeader(next, kind, left uint8) []byte {
	return append([]byte{next, 2, kind, left, 0, 0, 0, 0}, make([]byte, 16)...)
}

func optionsHeader(next uint8) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }

// shaped are packets between two addresses that differ in what they look like
// alone. Test runs refuse those that end before the header of IP does.
func shaped(from4, to4, from6, to6 netip.Addr) map[string]struct {
	data []byte
	want Reason
} {
	type shape = struct {
		data []byte
		want Reason
	}
	v4, v6 := frame.IP(from4, to4, frame.UDP, datagram()), frame.IP(from6, to6, frame.UDP, datagram())
	extended := func(first uint8, headers ...[]byte) []byte {
		payload := append(slices.Concat(headers...), datagram()...)
		return frame.Ethernet(frame.TypeIPv6, frame.IPv6(from6, to6, first, payload))
	}
	bare := func(first uint8, payload []byte) []byte {
		return frame.Ethernet(frame.TypeIPv6, frame.IPv6(from6, to6, first, payload))
	}
	optioned := func(options ...byte) []byte {
		return frame.Ethernet(frame.TypeIPv4, frame.IPv4(from4, to4, frame.UDP, options, datagram()))
	}
	ip := frame.EthernetLength
	var chain [][]byte
	for range 7 {
		chain = append(chain, optionsHeader(frame.Destination))
	}
	return map[string]shape{
		"IPv4":                          {v4, Passed},
		"IPv6":                          {v6, Passed},
		"IPv4, padded as short frames":  {append(slices.Clone(v4), 0, 0, 0, 0), Passed},
		"IPv4, TCP":                     {frame.IP(from4, to4, frame.TCP, make([]byte, 20)), Passed},
		"IPv4, nothing in it":           {frame.IP(from4, to4, frame.NoNext, nil), Passed},
		"IPv6, nothing in it":           {frame.IP(from6, to6, frame.NoNext, nil), Passed},
		"IPv4, may be cut":              {with(v4, ip+6, 0), Passed},
		"IPv4, first fragment":          {with(v4, ip+6, 0x20), Passed},
		"IPv4, later fragment":          {with(v4, ip+7, 0x20), Passed},
		"IPv4, options":                 {optioned(1, 1, 148, 4, 0, 0), Passed},
		"IPv4, options end early":       {optioned(1, 0, 131, 1), Passed},
		"IPv4, only no options":         {optioned(slices.Repeat([]byte{1}, 40)...), Passed},
		"IPv6, hop by hop":              {extended(frame.HopByHop, optionsHeader(frame.UDP)), Passed},
		"IPv6, first fragment":          {extended(frame.Fragment, fragmentHeader(frame.UDP, 0)), Passed},
		"IPv6, later fragment":          {extended(frame.Fragment, fragmentHeader(frame.UDP, 8)), Passed},
		"IPv6, later fragment, far":     {extended(frame.Fragment, fragmentHeader(frame.UDP, 2048)), Passed},
		"IPv6, routing header, no stop": {extended(frame.Routing, routingHeader(frame.UDP, 4, 0)), Passed},
		"IPv6, authenticated":           {extended(frame.AH, append([]byte{frame.UDP, 4}, make([]byte, 22)...)), Passed},
		"IPv6, seven headers":           {extended(frame.Destination, append(chain[1:], optionsHeader(frame.UDP))...), Passed},
		"IPv6, eight headers":           {extended(frame.Destination, append(chain, optionsHeader(frame.UDP))...), Malformed},

		"ARP":                      {frame.Ethernet(frame.TypeARP, make([]byte, 28)), Protocol},
		"length instead of a type": {frame.Ethernet(64, make([]byte, 64)), Protocol},
		"IPv4, called IPv6":        {frame.Ethernet(frame.TypeIPv6, append(v4[ip:], make([]byte, 40)...)), Malformed},
		"IPv6, called IPv4":        {frame.Ethernet(frame.TypeIPv4, v6[ip:]), Malformed},
		"IPv4, payload cut":        {v4[:len(v4)-1], Malformed},
		"IPv4, version 5":          {with(v4, ip, 0x55), Malformed},
		"IPv4, header of 4 words":  {with(v4, ip, 0x44), Malformed},
		"IPv4, header of 15 words": {with(with(v4, ip, 0x4f), ip+3, 59), Malformed},
		"IPv4, length 19":          {with(v4, ip+3, 19), Malformed},
		"IPv4, length 0":           {with(v4, ip+3, 0), Malformed},
		"IPv4, option of length 1": {optioned(148, 1, 0, 0), Malformed},
		"IPv4, option too long":    {optioned(148, 9, 0, 0, 0, 0, 0, 0), Malformed},
		"IPv4, option cut":         {optioned(1, 1, 1, 148), Malformed},
		"IPv6, payload cut":        {v6[:len(v6)-1], Malformed},
		"IPv6, version 7":          {with(v6, ip, 0x70), Malformed},
		"IPv6, extension cut":      {bare(frame.HopByHop, []byte{frame.UDP, 0, 1}), Malformed},
		"IPv6, extension too long": {bare(frame.HopByHop, []byte{frame.UDP, 9, 1, 4, 0, 0, 0, 0}), Malformed},
		"IPv6, fragment cut":       {bare(frame.Fragment, []byte{frame.UDP, 0, 0}), Malformed},
		"IPv6, mapped source": {
			frame.Ethernet(frame.TypeIPv6, mappedSource(from4, to6)), Malformed,
		},
	}
}

// mappedSource is a packet of IPv6 from an address of IPv4.
func mappedSource(from4, to6 netip.Addr) []byte {
	mapped := from4.As16()
	return frame.IPv6(netip.AddrFrom16(mapped), to6, frame.UDP, datagram())
}

// sourceRouted are packets that have stops ahead.
func sourceRouted(from4, to4, from6, to6 netip.Addr) map[string][]byte {
	return map[string][]byte{
		"IPv4, loose source route":  frame.Ethernet(frame.TypeIPv4, frame.IPv4(from4, to4, frame.UDP, []byte{1, 131, 7, 4, 10, 9, 9, 9}, datagram())),
		"IPv4, strict source route": frame.Ethernet(frame.TypeIPv4, frame.IPv4(from4, to4, frame.UDP, []byte{137, 7, 4, 10, 9, 9, 9}, datagram())),
		"IPv6, routing header": frame.Ethernet(frame.TypeIPv6, frame.IPv6(from6, to6, frame.Routing,
			append(routingHeader(frame.UDP, 0, 1), datagram()...))),
		"IPv6, routing header behind others": frame.Ethernet(frame.TypeIPv6, frame.IPv6(from6, to6, frame.Destination,
			slices.Concat(optionsHeader(frame.Routing), routingHeader(frame.UDP, 4, 2), datagram()))),
	}
}

func TestShapesFromMesh(t *testing.T) {
	p := prepared(t)
	outer := frame.Outer{Source: addr("192.0.2.2"), Number: uint32(westPod)}
	ends := []netip.Addr{addr("10.2.0.7"), addr("10.1.0.5"), addr("fd00:2::7"), addr("fd00:1::5")}
	for name, shape := range shaped(ends[0], ends[1], ends[2], ends[3]) {
		t.Run(name, func(t *testing.T) {
			if got := judge(t, p, FromMesh, outer, shape.data); got != shape.want {
				t.Errorf("%v, want %v", got, shape.want)
			}
		})
	}
	for name, data := range sourceRouted(ends[0], ends[1], ends[2], ends[3]) {
		t.Run(name, func(t *testing.T) {
			if got := judge(t, p, FromMesh, outer, data); got != Routed {
				t.Errorf("%v, want %v", got, Routed)
			}
		})
	}
}

func TestShapesToMesh(t *testing.T) {
	p := prepared(t)
	ends := []netip.Addr{addr("10.1.0.5"), addr("10.2.0.7"), addr("fd00:1::5"), addr("fd00:2::7")}
	for name, shape := range shaped(ends[0], ends[1], ends[2], ends[3]) {
		t.Run(name, func(t *testing.T) {
			if got := judge(t, p, ToMesh, frame.Outer{}, shape.data); got != shape.want {
				t.Errorf("%v, want %v", got, shape.want)
			}
		})
	}
}

func TestToMesh(t *testing.T) {
	p := prepared(t)
	for _, test := range []struct {
		name, from, to string
		want           Reason
	}{
		{"pod to pod", "10.1.0.5", "10.2.0.7", Passed},
		{"pod to pod, IPv6", "fd00:1::5", "fd00:2::7", Passed},
		{"pod to pod of a node with IPv6 alone", "10.1.0.5", "10.2.2.7", Passed},
		{"pod to mesh address", "10.1.0.5", "10.201.0.1", Passed},
		{"host to pod", "10.200.0.1", "10.2.0.7", Passed},
		{"host to pod, IPv6", "fd00:200::1", "fd00:2::7", Passed},
		{"host to host", "10.200.0.1", "10.201.0.2", Passed},

		{"from another node's pod", "10.1.1.5", "10.2.0.7", Source},
		{"from another node", "10.200.0.2", "10.2.0.7", Source},
		{"from a pod of unknown place", "10.1.9.9", "10.2.0.7", Source},
		{"from an unknown address", "10.1.0.77", "10.2.0.7", Source},
		{"from an unknown address, IPv6", "fd00:1::77", "fd00:2::7", Source},
		{"from a peer's pod", "10.3.0.8", "10.2.0.7", Source},
		{"from a peer's address that is said to be here", "10.2.9.6", "10.2.0.7", Source},
		{"from this node's underlay address", "192.0.2.1", "10.2.0.7", Source},
		{"from loopback", "127.0.0.1", "10.2.0.7", Source},

		{"to an unknown address", "10.1.0.5", "10.2.0.77", Destination},
		{"to an unknown address, IPv6", "fd00:1::5", "fd00:2::77", Destination},
		{"to a peer's node", "10.1.0.5", "192.0.2.2", Destination},
		{"to a pod of unknown place", "10.1.0.5", "10.2.9.9", NoNode},
		{"to a pod on a node of another cluster", "10.1.0.5", "10.2.9.8", NoNode},
		{"to a pod on an unknown node", "10.1.0.5", "10.2.9.7", NoNode},
		{"to our own pod", "10.1.0.5", "10.1.1.5", NoNode},
		{"to our own node", "10.1.0.5", "10.200.0.2", NoNode},

		{"multicast", "10.1.0.5", "224.0.0.251", LinkScope},
		{"broadcast", "10.1.0.5", "255.255.255.255", LinkScope},
		{"link-local", "10.1.0.5", "169.254.169.254", LinkScope},
		{"multicast, IPv6", "fd00:1::5", "ff02::16", LinkScope},
		{"link-local, IPv6", "fd00:1::5", "fe80::1", LinkScope},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := judge(t, p, ToMesh, frame.Outer{}, packetOf(test.from, test.to)); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

func TestFromMesh(t *testing.T) {
	p := prepared(t)
	const west, west6, south = "192.0.2.2", "2001:db8::2", "192.0.2.3"
	for _, test := range []struct {
		name     string
		node     string // "" for no tunnel
		identity identity.Number
		from, to string
		want     Reason
	}{
		{"pod to pod", west, westPod, "10.2.0.7", "10.1.0.5", Passed},
		{"pod to pod, IPv6", west, westPod, "fd00:2::7", "fd00:1::5", Passed},
		{"pod to pod over IPv6", west6, westPod, "10.2.0.7", "10.1.0.5", Passed},
		{"pod to pod, IPv6 over IPv6", west6, westPod, "fd00:2::7", "fd00:1::5", Passed},
		{"by another node of the cluster", "2001:db8::22", westPod, "10.2.0.7", "10.1.0.5", Passed},
		{"pod to host", west, westPod, "10.2.0.7", "10.200.0.1", Passed},
		{"host to pod", west, identity.RemoteNode, "10.201.0.1", "10.1.0.5", Passed},
		{"host to host, IPv6", west6, identity.RemoteNode, "fd00:201::1", "fd00:200::1", Passed},
		{"late", west, westPod + 1, "10.2.0.77", "10.1.0.5", Late},
		{"late, IPv6", west6, westPod, "fd00:2::77", "fd00:1::5", Late},
		{"late, the first number", west, 2 << 16, "10.2.0.77", "10.1.0.5", Late},
		{"late, a number that only others give out", west, 2<<16 | 255, "10.2.0.77", "10.1.0.5", Late},
		{"late, the last number", west, 2<<16 | 0xffff, "10.2.0.77", "10.1.0.5", Late},

		{"without a tunnel", "", westPod, "10.2.0.7", "10.1.0.5", Tunnel},
		{"from a node that is none", "192.0.2.77", westPod, "10.2.0.7", "10.1.0.5", NoNode},
		{"from a node that is none, IPv6", "2001:db8::77", westPod, "10.2.0.7", "10.1.0.5", NoNode},
		{"from where pods are said to be", "192.0.2.99", westPod, "10.2.9.7", "10.1.0.5", NoNode},
		{"from a node of our own", "192.0.2.4", eastPod, "10.1.1.5", "10.1.0.5", NoNode},
		{"from ourselves", "192.0.2.1", eastPod, "10.1.0.5", "10.1.0.5", NoNode},
		{"from a pod as a node", "10.2.0.7", westPod, "10.2.0.7", "10.1.0.5", NoNode},

		{"to the host's underlay address", west, westPod, "10.2.0.7", "192.0.2.1", Destination},
		{"to the host's underlay address, IPv6", west, westPod, "fd00:2::7", "2001:db8::1", Destination},
		{"to loopback", west, westPod, "10.2.0.7", "127.0.0.1", Destination},
		{"to multicast", west, westPod, "10.2.0.7", "224.0.0.1", Destination},
		{"to broadcast", west, westPod, "10.2.0.7", "255.255.255.255", Destination},
		{"to our pod on another node", west, westPod, "10.2.0.7", "10.1.1.5", Destination},
		{"to another node's mesh address", west, westPod, "10.2.0.7", "10.200.0.2", Destination},
		{"to a pod of unknown place", west, westPod, "10.2.0.7", "10.1.9.9", Destination},
		{"to an unknown address of ours", west, westPod, "10.2.0.7", "10.1.0.77", Destination},
		{"transit to a peer", west, westPod, "10.2.0.7", "10.3.0.8", Destination},
		{"transit back", west, westPod, "10.2.0.7", "10.2.2.7", Destination},
		{"transit to what a peer says is here", west, westPod, "10.2.0.7", "10.2.9.6", Destination},
		{"transit to the world", west, westPod, "10.2.0.7", "198.51.100.1", Destination},

		{"another cluster's address", west, southPod, "10.3.0.8", "10.1.0.5", Cluster},
		{"another cluster's address, own number", west, westPod, "10.3.0.8", "10.1.0.5", Cluster},
		{"another cluster's mesh address", south, identity.RemoteNode, "10.201.0.1", "10.1.0.5", Cluster},
		{"our own pod's address", west, eastPod, "10.1.1.5", "10.1.0.5", Cluster},
		{"our own mesh address", west, identity.RemoteNode, "10.200.0.1", "10.1.0.5", Cluster},

		{"another identity", west, westPod + 1, "10.2.0.7", "10.1.0.5", Identity},
		{"another identity, IPv6", west6, southPod, "fd00:2::7", "fd00:1::5", Identity},
		{"a pod as a host", west, identity.RemoteNode, "10.2.0.7", "10.1.0.5", Identity},
		{"a host as a pod", west, westPod, "10.201.0.1", "10.1.0.5", Identity},
		{"no identity", west, 0, "10.2.0.7", "10.1.0.5", Identity},

		{"late, of nobody's range", west, westPod, "10.9.0.1", "10.1.0.5", Source},
		{"late, of another's range", west, southPod, "10.3.0.77", "10.1.0.5", Source},
		{"late, of another's range in its own", west, westPod, "10.2.128.1", "10.1.0.5", Source},
		{"late, of our range", west, westPod, "10.1.0.77", "10.1.0.5", Source},
		{"late, no range, IPv6", west6, westPod, "fd00:9::1", "fd00:1::5", Source},
		{"a peer's node itself", west, identity.RemoteNode, "192.0.2.2", "10.1.0.5", Source},
		{"from loopback", west, westPod, "127.0.0.1", "10.1.0.5", Source},

		{"late, another's number", west, southPod, "10.2.0.77", "10.1.0.5", Number},
		{"late, our number", west, eastPod, "10.2.0.77", "10.1.0.5", Number},
		{"late, a reserved number", west, identity.RemoteNode, "10.2.0.77", "10.1.0.5", Number},
		{"late, below the first number", west, 2<<16 - 1, "10.2.0.77", "10.1.0.5", Number},
		{"late, beyond the last number", west, 3 << 16, "10.2.0.77", "10.1.0.5", Number},
		{"late, no number", west, 0, "10.2.0.77", "10.1.0.5", Number},
	} {
		t.Run(test.name, func(t *testing.T) {
			outer := frame.Outer{Number: uint32(test.identity)}
			if test.node != "" {
				outer.Source = addr(test.node)
			}
			if got := judge(t, p, FromMesh, outer, packetOf(test.from, test.to)); got != test.want {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}

// In a mesh of 511 clusters, the numbers are divided in another place.
func TestSize511(t *testing.T) {
	p := prepared(t)
	apply(t, p, Change{Self: self(), Size: 511})
	for number, want := range map[uint32]Reason{2 << 15: Late, 2<<15 | 0x7fff: Late, 2<<15 - 1: Number, 2<<16 | 256: Number, 3 << 15: Number} {
		if got := judge(t, p, FromMesh, frame.Outer{Source: addr("192.0.2.2"), Number: number}, packetOf("10.2.0.77", "10.1.0.5")); got != want {
			t.Errorf("number %#x: %v, want %v", number, got, want)
		}
	}
}

// Before the node knows itself, nothing passes.
func TestUnknownSelf(t *testing.T) {
	p := open(t, config(t))
	c := world()
	c.Self = nil
	apply(t, p, c)
	if got := judge(t, p, ToMesh, frame.Outer{}, packetOf("10.1.0.5", "10.2.0.7")); got != Source {
		t.Errorf("to the mesh: %v", got)
	}
	if got := judge(t, p, FromMesh, frame.Outer{Source: addr("192.0.2.2"), Number: uint32(westPod)}, packetOf("10.2.0.7", "10.1.0.5")); got != NoNode {
		t.Errorf("from the mesh: %v", got)
	}
}

// A value that does not belong to its key, or is half written, is never used.
func TestTornValues(t *testing.T) {
	p := prepared(t)
	outer := frame.Outer{Source: addr("192.0.2.2"), Number: uint32(westPod)}
	in, out := packetOf("10.2.0.7", "10.1.0.5"), packetOf("10.1.0.5", "10.2.0.7")
	spoil := func(m *ebpf.Map, key, value any) func() {
		return func() {
			t.Helper()
			if err := m.Put(key, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	source, destination := ipOf(addr("10.2.0.7")), ipOf(addr("10.1.0.5"))
	host := p.hosts.byIP[ipOf(addr("192.0.2.2"))]
	other := encodeAddress(ipOf(addr("10.2.0.8")), p.addresses[source])
	badHost := host.inHost
	badHost.Cluster = 3
	badNode := host.inNode
	badNode.Tunnel[15]++
	badSettings := p.settings
	badSettings.LocalV4++
	for name, test := range map[string]struct {
		spoil, mend func()
		directions  []Direction
	}{
		"address":  {spoil(p.maps.v4, source.v4(), &other), spoil(p.maps.v4, source.v4(), encodeAddress(source, p.addresses[source])), []Direction{ToMesh, FromMesh}},
		"own":      {spoil(p.maps.v4, destination.v4(), &other), spoil(p.maps.v4, destination.v4(), encodeAddress(destination, p.addresses[destination])), []Direction{ToMesh, FromMesh}},
		"host":     {spoil(p.maps.host, bpf.MeshAddressKey{Address: host.ip}, &badHost), spoil(p.maps.host, bpf.MeshAddressKey{Address: host.ip}, &host.inHost), []Direction{FromMesh}},
		"node":     {spoil(p.maps.node, host.index, &badNode), spoil(p.maps.node, host.index, &host.inNode), []Direction{ToMesh}},
		"settings": {spoil(p.maps.settings, uint32(0), &badSettings), spoil(p.maps.settings, uint32(0), &p.settings), []Direction{ToMesh, FromMesh}},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[Direction]Reason{ToMesh: Passed, FromMesh: Passed}
			check := func() {
				t.Helper()
				if got := judge(t, p, FromMesh, outer, in); got != want[FromMesh] {
					t.Errorf("from the mesh: %v, want %v", got, want[FromMesh])
				}
				if got := judge(t, p, ToMesh, frame.Outer{}, out); got != want[ToMesh] {
					t.Errorf("to the mesh: %v, want %v", got, want[ToMesh])
				}
			}
			check()
			test.spoil()
			for _, d := range test.directions {
				want[d] = Unstable
			}
			check()
			test.mend()
			want = map[Direction]Reason{ToMesh: Passed, FromMesh: Passed}
			check()
		})
	}
}
