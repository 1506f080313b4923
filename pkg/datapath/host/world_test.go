package host_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/lab/labtest"
	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 60 * time.Second
	testPort = 7777
	rootMTU  = 1600 // of the underlay
)

// side is one cluster of one node with one pod.
type side struct {
	t          *testing.T
	name       string
	node, pod  *netspace.Space
	underlay   []netip.Addr // IPv4, IPv6
	mesh, addr []netip.Addr // a family each; addr is the pod's
	ranges     []netip.Prefix
	registry   *prometheus.Registry
}

// world is two sides with an underlay between their nodes.
type world struct{ a, b *side }

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func newSpace(t *testing.T, name string) *netspace.Space {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	s, err := netspace.New(path)
	must(t, err)
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), netspace.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	return s
}

// requireTools skips the test without the programs by which it is somebody else,
// or fails it where CI=true.
func requireTools(t *testing.T) {
	t.Helper()
	for program, pkg := range map[string]string{"ip": "iproute2", "nft": "nftables", "iptables-nft": "iptables", "iptables-legacy": "iptables"} {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing: package %s", program, pkg)
		}
		t.Skipf("%s is missing: package %s", program, pkg)
	}
}

// newSide makes node and pod number n, joined by a pair of devices.
func newSide(t *testing.T, name string, n int) *side {
	t.Helper()
	labtest.RequireRoot(t)
	requireTools(t)
	at := func(format string) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, n)) }
	s := &side{
		t: t, name: name, node: newSpace(t, name), pod: newSpace(t, name+"-pod"),
		underlay: []netip.Addr{at("192.0.2.%d"), at("2001:db8::%d")},
		mesh:     []netip.Addr{at("10.200.%d.1"), at("fd00:200:%d::1")},
		addr:     []netip.Addr{at("10.%d.0.10"), at("fd00:%d::10")},
		ranges: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", n)), netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/64", n)),
		},
	}
	// Addresses that the kernel makes itself are in effect at once, nearly.
	must(t, s.node.Set("ipv6/conf/default/accept_dad", "0"), s.pod.Set("ipv6/conf/default/accept_dad", "0"))
	must(t, s.node.AddPair("pod0", s.pod, "eth0"))
	for i, prefix := range s.ranges {
		gateway := prefix.Addr().Next()
		must(t,
			s.node.AddAddress("pod0", netip.PrefixFrom(gateway, gateway.BitLen())),
			s.pod.AddAddress("eth0", netip.PrefixFrom(s.addr[i], s.addr[i].BitLen())),
			s.node.AddRoute(netspace.Route{To: netip.PrefixFrom(s.addr[i], s.addr[i].BitLen()), Device: "pod0"}),
			s.pod.AddRoute(netspace.Route{To: netip.PrefixFrom(gateway, gateway.BitLen()), Device: "eth0"}),
			s.pod.AddRoute(netspace.Route{To: everything(gateway.Is6()), Via: gateway, Device: "eth0"}),
		)
	}
	return s
}

func everything(v6 bool) netip.Prefix {
	if v6 {
		return netip.MustParsePrefix("::/0")
	}
	return netip.MustParsePrefix("0.0.0.0/0")
}

// newWorld joins two nodes by one wire; each reaches the other by it, and all
// else, too.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{newSide(t, "a", 1), newSide(t, "b", 2)}
	must(t, w.a.node.AddPair("eth0", w.b.node, "eth0"))
	for _, s := range []*side{w.a, w.b} {
		must(t,
			s.node.AddAddress("eth0", netip.PrefixFrom(s.underlay[0], 24)), s.node.AddAddress("eth0", netip.PrefixFrom(s.underlay[1], 64)),
		)
		s.setMTU("eth0", rootMTU)
		s.setMTU("pod0", 9000)
		s.run(s.pod, "ip", "link", "set", "eth0", "mtu", "9000")
		other := w.other(s)
		must(t, s.node.AddRoute(netspace.Route{To: everything(false), Via: other.underlay[0], Device: "eth0"}),
			s.node.AddRoute(netspace.Route{To: everything(true), Via: other.underlay[1], Device: "eth0"}))
	}
	return w
}

// newRouted is a world whose nodes have two routers between them, and those a
// wire that carries less than the nodes' devices.
func newRouted(t *testing.T, mtu int) *world {
	t.Helper()
	w := &world{newSide(t, "a", 1), newSide(t, "b", 2)}
	routers := []*netspace.Space{newSpace(t, "router-a"), newSpace(t, "router-b")}
	must(t, routers[0].AddPair("wire", routers[1], "wire"))
	for i, s := range []*side{w.a, w.b} {
		router := routers[i]
		w.a.run(router, "ip", "link", "set", "wire", "mtu", fmt.Sprint(mtu))
		must(t, s.node.AddPair("eth0", router, "node"))
		for j, address := range []string{"192.0.2.25%d", "2001:db8::f%d"} {
			gateway, far := netip.MustParseAddr(fmt.Sprintf(address, i)), netip.MustParseAddr(fmt.Sprintf(address, 1-i))
			must(t,
				s.node.AddAddress("eth0", netip.PrefixFrom(s.underlay[j], s.underlay[j].BitLen())),
				router.AddRoute(netspace.Route{To: netip.PrefixFrom(s.underlay[j], s.underlay[j].BitLen()), Device: "node"}),
				router.AddAddress("wire", netip.PrefixFrom(gateway, gateway.BitLen())),
				router.AddAddress("node", netip.PrefixFrom(gateway, gateway.BitLen())),
				router.AddRoute(netspace.Route{To: netip.PrefixFrom(far, far.BitLen()), Device: "wire"}),
				router.AddRoute(netspace.Route{To: everything(far.Is6()), Via: far, Device: "wire"}),
				s.node.AddRoute(netspace.Route{To: netip.PrefixFrom(gateway, gateway.BitLen()), Device: "eth0"}),
				s.node.AddRoute(netspace.Route{To: everything(gateway.Is6()), Via: gateway, Device: "eth0"}),
			)
		}
	}
	return w
}

func (w *world) other(s *side) *side {
	if s == w.a {
		return w.b
	}
	return w.a
}

// cloudRules gives the node rules of somebody else's, as cloud CNIs have them.
func (s *side) cloudRules() {
	s.t.Helper()
	s.run(s.node, "ip", "rule", "add", "pref", "2000", "from", "198.51.100.1", "lookup", "main")
	s.run(s.node, "ip", "-6", "rule", "add", "pref", "2000", "from", "2001:db8:ffff::1", "lookup", "main")
}

func (s *side) setMTU(device string, mtu int) {
	s.t.Helper()
	s.run(s.node, "ip", "link", "set", device, "mtu", fmt.Sprint(mtu))
}

// run runs a program inside a namespace and returns what it says.
func (s *side) run(space *netspace.Space, name string, args ...string) string {
	s.t.Helper()
	out, err := s.try(space, name, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *side) try(space *netspace.Space, name string, args ...string) (string, error) {
	var out []byte
	err := space.Do(func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		return err
	})
	if err != nil {
		return string(out), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// nft adds rules as nft reads them.
func (s *side) nft(text string) {
	s.t.Helper()
	must(s.t, s.node.Do(func() error {
		command := exec.Command("nft", "-f", "-")
		command.Stdin = strings.NewReader(text)
		out, err := command.CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %w: %s", err, out)
		}
		return nil
	}))
}

// desired is what s shall be like to reach the other side, by tunnels of the
// family of v6.
func (w *world) desired(s *side, v6 bool) host.Desired {
	other := w.other(s)
	d := host.Desired{Mesh: s.mesh, LocalPods: s.ranges}
	for i, p := range other.ranges {
		d.Routes = append(d.Routes, host.Route{Prefix: p, Mode: route.VXLAN},
			host.Route{Prefix: netip.PrefixFrom(other.mesh[i], other.mesh[i].BitLen()), Mode: route.VXLAN})
	}
	d.Nodes = []netip.Addr{other.underlay[0]}
	if v6 {
		d.Nodes = []netip.Addr{other.underlay[1]}
	}
	return d
}

// open opens the host of a side, whose programs lead all to one other node.
func (s *side) open(remote netip.Addr) *host.Host {
	s.t.Helper()
	s.registry = prometheus.NewRegistry()
	var h *host.Host
	must(s.t, s.node.Do(func() (err error) {
		h, err = host.Open(host.Config{
			Logger:     slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", s.name),
			Registerer: s.registry,
			Attach:     func(_ string, index int) error { return s.attach(index, remote) },
		})
		return err
	}))
	s.t.Cleanup(func() { must(s.t, h.Close()) })
	return h
}

// join makes both sides' hosts and applies what is desired.
func (w *world) join(v6 bool) (a, b *host.Host) {
	at := 0
	if v6 {
		at = 1
	}
	a, b = w.a.open(w.b.underlay[at]), w.b.open(w.a.underlay[at])
	must(w.a.t, a.Apply(w.desired(w.a, v6)), b.Apply(w.desired(w.b, v6)))
	return a, b
}

// Of enum bpf_func_id's callers in linux/bpf.h.
const (
	tunnelIPv6      = 1 << 0
	tunnelNoSum     = 1 << 1
	tunnelNoFrag    = 1 << 2
	tunnelKeySize   = 44
	attachToNext    = -1 // TCX_NEXT
	tunnelKeyRemote = 4
)

// attach puts the least onto the tunnel device that carries packets: out to one
// node, and in as packets for this one.
func (s *side) attach(index int, remote netip.Addr) error {
	out := asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1)}
	for offset := 0; offset < tunnelKeySize; offset += 4 {
		out = append(out, asm.StoreImm(asm.RFP, int16(offset-tunnelKeySize), 0, asm.Word))
	}
	out = append(out, asm.StoreImm(asm.RFP, -tunnelKeySize, 77, asm.Word), asm.StoreImm(asm.RFP, 21-tunnelKeySize, 64, asm.Byte))
	flags := int32(tunnelNoSum | tunnelNoFrag)
	for i, b := range remote.AsSlice() {
		at := i
		if remote.Is4() { // in the host's order
			at = 3 - i
		} else {
			flags = tunnelIPv6
		}
		out = append(out, asm.StoreImm(asm.RFP, int16(tunnelKeyRemote+at-tunnelKeySize), int64(b), asm.Byte))
	}
	out = append(out,
		asm.Mov.Reg(asm.R1, asm.R6), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -tunnelKeySize),
		asm.Mov.Imm(asm.R3, tunnelKeySize), asm.Mov.Imm(asm.R4, flags), asm.FnSkbSetTunnelKey.Call(),
		asm.Mov.Imm(asm.R0, attachToNext), asm.Return(),
	)
	in := asm.Instructions{
		asm.Mov.Imm(asm.R2, 0), asm.FnSkbChangeType.Call(), // PACKET_HOST
		asm.Mov.Imm(asm.R0, attachToNext), asm.Return(),
	}
	return s.node.Do(func() error {
		for at, instructions := range map[ebpf.AttachType]asm.Instructions{ebpf.AttachTCXEgress: out, ebpf.AttachTCXIngress: in} {
			program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, AttachType: at, Instructions: instructions, License: "GPL"})
			if err != nil {
				return fmt.Errorf("load a program: %w", err)
			}
			l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: program, Attach: at})
			if err != nil {
				return fmt.Errorf("attach a program: %w", err)
			}
			s.t.Cleanup(func() { l.Close(); program.Close() })
		}
		return nil
	})
}

// ask sends a line from one namespace to a server in another, over TCP, and
// returns the client's address as the server saw it.
func ask(from, to *netspace.Space, server netip.Addr, client netip.Addr) (netip.Addr, error) {
	var listener net.Listener
	err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(server, testPort).String())
		return err
	})
	if err != nil {
		return netip.Addr{}, err
	}
	defer listener.Close()
	seen := make(chan netip.Addr, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		seen <- conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		_, _ = io.Copy(conn, conn) // until the client ends
	}()
	err = from.Do(func() error {
		dialer := net.Dialer{Timeout: 10 * time.Second}
		if client.IsValid() {
			dialer.LocalAddr = &net.TCPAddr{IP: client.AsSlice()}
		}
		conn, err := dialer.Dial("tcp", netip.AddrPortFrom(server, testPort).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		return echo(conn, 256<<10)
	})
	if err != nil {
		return netip.Addr{}, err
	}
	return <-seen, nil
}

// echo sends size bytes and wants them back.
func echo(conn net.Conn, size int) error {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, size))
		sent <- err
	}()
	_, err := io.ReadFull(conn, make([]byte, size))
	return errors.Join(err, <-sent)
}

// await calls look until it returns "", and fails with what it said last.
func await(t *testing.T, look func() string) {
	t.Helper()
	deadline, tick := time.After(patience), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		said := look()
		if said == "" {
			return
		}
		select {
		case <-deadline:
			t.Fatal(said)
		case <-tick.C:
		}
	}
}

// stream asks a UDP server in to again and again, one question at a time, until
// stop is called, which returns how many answers came; a missing one fails the
// test.
func stream(t *testing.T, from, to *netspace.Space, server netip.Addr) (stop func() int) {
	t.Helper()
	var listener net.PacketConn
	var conn net.Conn
	at := netip.AddrPortFrom(server, testPort).String()
	must(t, to.Do(func() (err error) { listener, err = net.ListenPacket("udp", at); return err }))
	must(t, from.Do(func() (err error) { conn, err = net.Dial("udp", at); return err }))
	go func() {
		buffer := make([]byte, 64)
		for {
			n, client, err := listener.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = listener.WriteTo(buffer[:n], client) // gone when the test ends
		}
	}()
	end, done := make(chan struct{}), make(chan error, 1)
	answers := 0
	go func() {
		done <- func() error {
			pause := time.NewTicker(time.Millisecond)
			defer pause.Stop()
			for {
				select {
				case <-end:
					return nil
				case <-pause.C:
				}
				question, answer := fmt.Sprint(answers), make([]byte, 64)
				if _, err := conn.Write([]byte(question)); err != nil {
					return fmt.Errorf("question %s: %w", question, err)
				}
				_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
				n, err := conn.Read(answer)
				if err != nil || string(answer[:n]) != question {
					return fmt.Errorf("answer %q to question %s: %w", answer[:n], question, err)
				}
				answers++
			}
		}()
	}()
	return func() int {
		close(end)
		err := <-done
		_, _ = conn.Close(), listener.Close()
		if err != nil {
			t.Error(err)
		}
		return answers
	}
}

// state is all that the namespace's network is made of, as tools show it.
func (s *side) state() string {
	var all strings.Builder
	for _, command := range []string{
		"ip -o link", "ip -o addr", "ip rule", "ip -6 rule", "ip route show table all", "ip -6 route show table all", "nft list ruleset",
	} {
		args := strings.Fields(command)
		fmt.Fprintf(&all, "# %s\n%s\n", command, s.run(s.node, args[0], args[1:]...))
	}
	return all.String()
}

// rested returns the state when all addresses are in effect: the kernel does that
// by and by.
func (s *side) rested() string {
	s.t.Helper()
	await(s.t, func() string {
		addresses := s.run(s.node, "ip", "-o", "-6", "addr")
		routes := s.run(s.node, "ip", "-6", "route", "show", "table", "local", "type", "local")
		if strings.Contains(addresses, "tentative") || strings.Count(addresses, "\n") != strings.Count(routes, "\n") {
			return addresses + routes
		}
		return ""
	})
	return s.state()
}

// tunnel returns the tunnel device.
func (s *side) tunnel() *net.Interface {
	s.t.Helper()
	var device *net.Interface
	must(s.t, s.node.Do(func() (err error) {
		device, err = net.InterfaceByName(host.DefaultDevice)
		return err
	}))
	return device
}

// metric returns the sum of a metric's values with that label value, "" for any.
func (s *side) metric(name, label string) float64 {
	s.t.Helper()
	families, err := s.registry.Gather()
	must(s.t, err)
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// watch runs h until the test ends.
func watch(t *testing.T, h *host.Host) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
