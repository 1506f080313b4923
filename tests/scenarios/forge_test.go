package scenarios

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/lab"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
)

// Where tunnels lead to, and where somebody in the far pod listens for what
// should not arrive.
const (
	meshPort   = 8473
	forgedPort = 9999
)

// TestForged: what a pod makes by hand does not get into the other cluster, and
// neither does what a node says of others than its own pods; all is counted.
func TestForged(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	f := newForger(t)
	f.tunnelsOfPods(t)
	f.sourcesOfPods(t)
	f.tunnelsOfNodes(t)
	// Only what is true arrives: the first datagram is the last one sent.
	f.fromNode(t, f.frame(f.client.IPs[0], f.web.IPs[0], f.identity, "true"))
	buffer := make([]byte, 2000)
	check(t, f.heard.SetReadDeadline(time.Now().Add(patience)))
	n, from, err := f.heard.ReadFrom(buffer)
	if err != nil || string(buffer[:n]) != "true" {
		t.Errorf("arrived: %q from %v (%v), want the one true datagram", buffer[:n], from, err)
	}
}

// forger is a pod and a node of east who would like to be heard by a pod of west.
type forger struct {
	*peers
	client, web *lab.Pod
	identity    uint32 // of the client, as it is true
	heard       net.PacketConn
}

func newForger(t *testing.T) *forger {
	t.Helper()
	p := newPeers(t, lab.Network{Kind: lab.Routed}, labtest.Dual)
	p.checkService(t)
	f := &forger{peers: p, client: sitePod(t, p.east, "client"), web: sitePod(t, p.west, "web")}
	out, err := p.west.Causeway(t.Context(), "status", "--addresses", "--within", f.client.IPs[0].String())
	check(t, err)
	found := regexp.MustCompile(`shop/client +(\d+)`).FindSubmatch(out)
	if found == nil {
		t.Fatalf("west does not know the client:\n%s", out)
	}
	number, err := strconv.ParseUint(string(found[1]), 10, 24)
	check(t, err)
	f.identity = uint32(number)
	check(t, f.web.Space().Do(func() (err error) {
		f.heard, err = net.ListenPacket("udp", at(f.web.IPs[0], forgedPort))
		return err
	}))
	t.Cleanup(func() { _ = f.heard.Close() })
	return f
}

// tunnelsOfPods: a pod sends tunnel packets to nodes, and makes out to be one.
func (f *forger) tunnelsOfPods(t *testing.T) {
	t.Helper()
	frame := f.frame(f.client.IPs[0], f.web.IPs[0], f.identity, "a pod's tunnel")
	for _, node := range []*lab.Node{f.web.On, f.client.On} {
		for _, ip := range node.IPs {
			what := fmt.Sprintf("from a pod to the mesh port of %s at %s", node, ip)
			f.counted(t, what, f.client.On, `causeway_host_refused_packets_total{reason="pod"}`, func() {
				sendUDP(t, f.client.Place, at(ip, meshPort), frame)
			})
		}
	}
	// The pod may make IP packets, as pods of most runtimes may.
	for _, as := range []*lab.Node{f.client.On, f.east.Nodes()[1]} {
		what := fmt.Sprintf("from a pod to the mesh port, as %s", as)
		f.counted(t, what, f.client.On, `causeway_host_refused_packets_total{reason="device"}`, func() {
			sendRaw(t, f.client.Place, udpPacket(as.IP(false), f.web.On.IP(false), meshPort, frame))
		})
	}
}

// sourcesOfPods: a pod says that it is another one, or nobody that is known.
func (f *forger) sourcesOfPods(t *testing.T) {
	t.Helper()
	for what, source := range map[string]netip.Addr{
		"a pod on another node":   sitePod(t, f.east, "web").IPs[0],
		"a pod of the far side":   sitePod(t, f.west, "client").IPs[0],
		"an address of nobody":    netip.MustParseAddr("10.77.0.1"),
		"a new pod that is not":   netip.MustParseAddr("10.1.1.99"),
		"the far node's own":      f.web.On.IP(false),
		"the mesh's own, of west": f.west.MeshRanges[0].Addr().Next(),
	} {
		f.counted(t, "from a pod as "+what, f.client.On, `causeway_packet_packets_total{direction="to_mesh",reason="source"}`, func() {
			sendRaw(t, f.client.Place, udpPacket(source, f.web.IPs[0], forgedPort, []byte(what)))
		})
	}
}

// tunnelsOfNodes: a node of east that somebody has taken over says what is not so.
func (f *forger) tunnelsOfNodes(t *testing.T) {
	t.Helper()
	client, web := f.client.IPs[0], f.web.IPs[0]
	elsewhere := sitePod(t, f.west, "client").IPs[0]
	for _, test := range []struct {
		what, reason string
		from, to     netip.Addr
		identity     uint32
	}{
		{"another identity", "identity", client, web, f.identity + 1},
		{"no identity", "identity", client, web, 0},
		{"a pod of west", "cluster", elsewhere, web, f.identity},
		{"an address of nobody", "source", netip.MustParseAddr("10.77.0.1"), web, f.identity},
		{"a new pod with a number of west", "number", netip.MustParseAddr("10.1.1.99"), web, 2<<16 | 300},
		{"to another node's pod", "destination", client, elsewhere, f.identity},
		{"to the node's own address", "destination", client, f.web.On.IP(false), f.identity},
		{"to anywhere", "destination", client, netip.MustParseAddr("10.77.0.1"), f.identity},
	} {
		metric := `causeway_packet_packets_total{direction="from_mesh",reason="` + test.reason + `"}`
		f.counted(t, "from a node: "+test.what, f.web.On, metric, func() {
			f.fromNode(t, f.frame(test.from, test.to, test.identity, test.what))
		})
	}
}

// fromNode sends a tunnel packet from the client's node.
func (f *forger) fromNode(t *testing.T, frame []byte) {
	t.Helper()
	sendUDP(t, f.client.On.Place, at(f.web.On.IP(false), meshPort), frame)
}

// counted wants a counter of a node's agent to grow by what send sends.
func (f *forger) counted(t *testing.T, what string, node *lab.Node, metric string, send func()) {
	t.Helper()
	name := regexp.QuoteMeta(metric)
	before := metricOf(t.Context(), t, node.Agent(), name)
	send()
	awaitTrue(t, func(ctx context.Context) error {
		if after := metricOf(ctx, t, node.Agent(), name); after <= before {
			return fmt.Errorf("%s: %s of %s stays at %.0f", what, metric, node, after)
		}
		return nil
	})
}

// frame is what a tunnel's datagram holds: a VXLAN header with the identity, and
// an Ethernet frame with a UDP packet.
func (f *forger) frame(from, to netip.Addr, identity uint32, text string) []byte {
	frame := []byte{8, 0, 0, 0}
	frame = binary.BigEndian.AppendUint32(frame, identity<<8)
	frame = append(frame, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0)
	return append(frame, udpPacket(from, to, forgedPort, []byte(text))...)
}

// udpPacket is an IPv4 packet; its UDP has no checksum, as it may.
func udpPacket(from, to netip.Addr, port uint16, data []byte) []byte {
	packet := []byte{0x45, 0}
	packet = binary.BigEndian.AppendUint16(packet, uint16(28+len(data)))
	packet = append(packet, 0, 1, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	packet = append(append(packet, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(packet[10:], headerSum(packet))
	packet = binary.BigEndian.AppendUint16(packet, 40_000)
	packet = binary.BigEndian.AppendUint16(packet, port)
	packet = binary.BigEndian.AppendUint16(packet, uint16(8+len(data)))
	return append(append(packet, 0, 0), data...)
}

// headerSum is the checksum of an IPv4 header (RFC 1071).
func headerSum(header []byte) uint16 {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// sendUDP sends a datagram, as any process in the place may.
func sendUDP(t *testing.T, from *lab.Place, target string, data []byte) {
	t.Helper()
	conn, err := from.Dial(t.Context(), "udp", target)
	check(t, err)
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(data); err != nil && !errors.Is(err, os.ErrPermission) {
		t.Errorf("send to %s: %v", target, err)
	}
}

// sendRaw sends an IPv4 packet as it is.
func sendRaw(t *testing.T, from *lab.Place, packet []byte) {
	t.Helper()
	check(t, from.Space().Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])})
	}))
}
