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

	"github.com/causeway-mesh/causeway/tests/frame"
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
// neither does what a node says of others than its own pods; all is counted. So it
// is for packets of either family, in tunnels over either.
func TestForged(t *testing.T) {
	labtest.RequireRoot(t)
	t.Parallel()
	f := newForger(t)
	for i := range f.client.IPs {
		f.tunnelsOfPods(t, i)
		f.sourcesOfPods(t, i)
		f.tunnelsOfNodes(t, i)
	}
	// Only what is true arrives: the first datagram is the last one sent.
	for i, heard := range f.heard {
		for _, below := range []bool{false, true} {
			f.fromNode(t, below, f.frame(f.client.IPs[i], f.web.IPs[i], f.identity, "true"))
			buffer := make([]byte, 2000)
			check(t, heard.SetReadDeadline(time.Now().Add(patience)))
			n, from, err := heard.ReadFrom(buffer)
			if err != nil || string(buffer[:n]) != "true" {
				t.Errorf("arrived at %s: %q from %v (%v), want the one true datagram", f.web.IPs[i], buffer[:n], from, err)
			}
		}
	}
}

// forger is a pod and a node of east who would like to be heard by a pod of west.
type forger struct {
	*peers
	client, web *lab.Pod
	identity    uint32           // of the client, as it is true
	heard       []net.PacketConn // at each of the pod's addresses
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
	for _, ip := range f.web.IPs {
		var heard net.PacketConn
		check(t, f.web.Space().Do(func() (err error) {
			heard, err = net.ListenPacket("udp", at(ip, forgedPort))
			return err
		}))
		t.Cleanup(func() { _ = heard.Close() })
		f.heard = append(f.heard, heard)
	}
	return f
}

// nobody is an address of each family that no cluster has; stranger is in the range
// of the client's node, and no pod's.
func nobody() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("fd00:77::1")}
}

func stranger() []netip.Addr {
	return []netip.Addr{netip.MustParseAddr("10.1.1.99"), netip.MustParseAddr("fd00:1:1::99")}
}

// tunnelsOfPods: a pod sends tunnel packets to nodes, and makes out to be one.
func (f *forger) tunnelsOfPods(t *testing.T, i int) {
	t.Helper()
	tunnel := f.frame(f.client.IPs[i], f.web.IPs[i], f.identity, "a pod's tunnel")
	for _, node := range []*lab.Node{f.web.On, f.client.On} {
		for _, ip := range node.IPs {
			what := fmt.Sprintf("from a pod to the mesh port of %s at %s", node, ip)
			f.counted(t, what, f.client.On, `causeway_host_refused_packets_total{reason="pod"}`, func() {
				sendUDP(t, f.client.Place, at(ip, meshPort), tunnel)
			})
		}
	}
	// The pod may make IP packets, as pods of most runtimes may.
	for _, as := range []*lab.Node{f.client.On, f.east.Nodes()[1]} {
		for _, below := range []bool{false, true} {
			what := fmt.Sprintf("from a pod to the mesh port, as %s", as.IP(below))
			f.counted(t, what, f.client.On, `causeway_host_refused_packets_total{reason="device"}`, func() {
				sendRaw(t, f.client.Place, udpPacket(as.IP(below), f.web.On.IP(below), meshPort, tunnel))
			})
		}
	}
}

// sourcesOfPods: a pod says that it is another one, or nobody that is known.
func (f *forger) sourcesOfPods(t *testing.T, i int) {
	t.Helper()
	to := f.web.IPs[i]
	for what, source := range map[string]netip.Addr{
		"a pod on another node":   sitePod(t, f.east, "web").IPs[i],
		"a pod of the far side":   sitePod(t, f.west, "client").IPs[i],
		"an address of nobody":    nobody()[i],
		"a new pod that is not":   stranger()[i],
		"the far node's own":      f.web.On.IP(to.Is6()),
		"the mesh's own, of west": f.west.MeshRanges[i].Addr().Next(),
	} {
		f.counted(t, "from a pod as "+what, f.client.On, `causeway_packet_packets_total{direction="to_mesh",reason="source"}`, func() {
			sendRaw(t, f.client.Place, udpPacket(source, to, forgedPort, []byte(what)))
		})
	}
}

// tunnelsOfNodes: a node of east that somebody has taken over says what is not so.
func (f *forger) tunnelsOfNodes(t *testing.T, i int) {
	t.Helper()
	client, web := f.client.IPs[i], f.web.IPs[i]
	elsewhere := sitePod(t, f.west, "client").IPs[i]
	for n, test := range []struct {
		what, reason string
		from, to     netip.Addr
		identity     uint32
	}{
		{"another identity", "identity", client, web, f.identity + 1},
		{"no identity", "identity", client, web, 0},
		{"a pod of west", "cluster", elsewhere, web, f.identity},
		{"an address of nobody", "source", nobody()[i], web, f.identity},
		{"a new pod with a number of west", "number", stranger()[i], web, 2<<16 | 300},
		{"to another node's pod", "destination", client, elsewhere, f.identity},
		{"to the node's own address", "destination", client, f.web.On.IP(web.Is6()), f.identity},
		{"to anywhere", "destination", client, nobody()[i], f.identity},
	} {
		metric := `causeway_packet_packets_total{direction="from_mesh",reason="` + test.reason + `"}`
		f.counted(t, fmt.Sprintf("from a node: %s, %s", test.what, web), f.web.On, metric, func() {
			f.fromNode(t, n%2 > 0, f.frame(test.from, test.to, test.identity, test.what))
		})
	}
}

// fromNode sends a tunnel packet from the client's node, over IPv6 or not.
func (f *forger) fromNode(t *testing.T, v6 bool, frame []byte) {
	t.Helper()
	sendUDP(t, f.client.On.Place, at(f.web.On.IP(v6), meshPort), frame)
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
	kind := uint16(frame.TypeIPv4)
	if from.Is6() {
		kind = frame.TypeIPv6
	}
	return frame.VXLAN(identity, frame.Ethernet(kind, udpPacket(from, to, forgedPort, []byte(text))))
}

// udpPacket is an IP packet with a datagram, whose checksum is right.
func udpPacket(from, to netip.Addr, port uint16, data []byte) []byte {
	datagram := frame.Datagram(40_000, port, data)
	pseudo := append(from.AsSlice(), to.AsSlice()...)
	pseudo = binary.BigEndian.AppendUint32(pseudo, uint32(len(datagram)))
	pseudo = append(pseudo, 0, 0, 0, frame.UDP)
	binary.BigEndian.PutUint16(datagram[6:], frame.Checksum(append(pseudo, datagram...)))
	if from.Is6() {
		return frame.IPv6(from, to, frame.UDP, datagram)
	}
	return frame.IPv4(from, to, frame.UDP, nil, datagram)
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

// sendRaw sends an IP packet as it is.
func sendRaw(t *testing.T, from *lab.Place, packet []byte) {
	t.Helper()
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if packet[0]>>4 == 6 {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte(packet[24:40])}
	} else {
		to = &unix.SockaddrInet4{Addr: [4]byte(packet[16:20])}
	}
	check(t, from.Space().Do(func() error {
		fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fd) }()
		return unix.Sendto(fd, packet, 0, to)
	}))
}
