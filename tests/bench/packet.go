package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/bpf"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
	"github.com/causeway-mesh/causeway/tests/frame"
)

// The budgets of one packet, in ns over an empty program.
const (
	budgetRandom = 1100
	budgetHot    = 230
)

// What the maps of the benchmark hold: the pods of a peer, on at most so many
// nodes, and one pod here. All have one identity, which costs nothing less to look at.
const (
	packetNodes    = 4096
	packetIdentity = 2<<16 | 256
	packetDevice   = "mesh0"
)

// packetConfig says how much is measured.
type packetConfig struct {
	Rounds, Packets, Addresses int
	Dir                        string
}

func defaultPacket() packetConfig {
	return packetConfig{Rounds: 40, Packets: 100_000, Addresses: 1 << 20, Dir: filepath.Join("out", "bench")}
}

// packetRow is the time of one packet, in ns over an empty program, with its
// 95 % interval.
type packetRow struct {
	Case   string  `json:"case"`
	Value  float64 `json:"ns"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	Budget float64 `json:"budget"`
}

type packetResult struct {
	machine
	Addresses int         `json:"addresses"`
	Rows      []packetRow `json:"rows"`
}

// packetCase is one program and one kind of packet, and the same with an empty
// program, which has the same tunnel noted and the same address drawn.
type packetCase struct {
	name        string
	budget      float64
	frame       []byte
	ours, empty *frame.Arrival
	times       []float64
}

// benchPacket measures what the programs of packets cost. They run by test runs
// on the calling process's maps, without a device, so a figure is the program's
// alone. It changes the thread's namespace and is called once.
func benchPacket(ctx context.Context, config packetConfig, out io.Writer) error {
	return onThread(func() error { return measurePackets(ctx, config, out) })
}

func measurePackets(ctx context.Context, config packetConfig, out io.Writer) (err error) {
	where, err := thisMachine("packet")
	if err != nil {
		return err
	}
	plane, err := packetPlane(config, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plane.Remove(), plane.Close()) }()
	cases, err := packetCases(uint32(config.Addresses))
	defer func() {
		for _, c := range cases {
			_ = errors.Join(c.ours.Close(), c.empty.Close()) // programs that have been run
		}
	}()
	if err != nil {
		return err
	}
	step(out, "%d rounds of %d packets in each of %d cases", config.Rounds, config.Packets, len(cases))
	if err := packetRounds(ctx, cases, config); err != nil {
		return err
	}
	if err := allPassed(plane); err != nil {
		return err
	}
	result := packetResult{machine: where, Addresses: config.Addresses}
	random := rand.New(rand.NewPCG(1, 2))
	for _, c := range cases {
		i := bootstrap(c.times, random)
		result.Rows = append(result.Rows, packetRow{c.name, i.Value, i.Low, i.High, c.budget})
	}
	if err := result.print(out); err != nil {
		return err
	}
	name, err := writeResult(config.Dir, result.Name, result)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "written to %s\n", name)
	return nil
}

func (r *packetResult) print(out io.Writer) error {
	fmt.Fprintf(out, "\n%s, %d addresses of each family\n\n", r.title(), r.Addresses)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "case\tns over an empty program\t95 % interval\tbudget")
	for _, row := range r.Rows {
		fmt.Fprintf(table, "%s\t%.0f\t%.0f - %.0f\t%s of %.0f\n", row.Case, row.Value, row.Low, row.High, verdict(row.Value <= row.Budget), row.Budget)
	}
	return table.Flush()
}

// packetPlane fills the maps and attaches the programs to a device on which
// nothing ever passes: it makes them reachable by their pins.
func packetPlane(config packetConfig, out io.Writer) (*packet.Plane, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare network namespace: %w", err)
	}
	if err := mountBPFFS(); err != nil {
		return nil, err
	}
	attributes := netlink.NewLinkAttrs()
	attributes.Name = packetDevice
	if err := netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attributes, FlowBased: true, Port: 8473}); err != nil {
		return nil, fmt.Errorf("make device %s: %w", packetDevice, err)
	}
	plane, err := packet.Open(packet.Config{
		BPFFS: bpffs, Device: packetDevice, MapCapacity: uint32(2 * config.Addresses), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	if err := errors.Join(plane.Apply(packetWorld(config.Addresses)), plane.Attach()); err != nil {
		return nil, errors.Join(err, plane.Close())
	}
	step(out, "%d addresses in the maps after %.1f s", 2*config.Addresses, time.Since(begin).Seconds())
	return plane, nil
}

// Pods of the peer, by their number, and our own.
func packetPod4(i uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

func packetPod6(i uint32) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfd, 0, 0, 2, 12: byte(i >> 24), 13: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
}

func packetNode(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})
}

func packetOwn() (v4, v6, underlay netip.Addr) {
	return netip.MustParseAddr("10.250.0.5"), netip.MustParseAddr("fd00:1::5"), netip.MustParseAddr("172.20.0.1")
}

func packetWorld(addresses int) packet.Change {
	v4, v6, underlay := packetOwn()
	c := packet.Change{
		Self: &route.Self{Cluster: "east", ID: 1, Node: "n1", Underlay: []netip.Addr{underlay}}, Size: 255,
		Addresses: []packet.Address{
			{Addr: v4, Cluster: 1, Identity: 1<<16 | 256, Host: underlay},
			{Addr: v6, Cluster: 1, Identity: 1<<16 | 256, Host: underlay},
		},
	}
	nodes := min(packetNodes, addresses/2)
	for i := range nodes {
		c.Nodes = append(c.Nodes, packet.Node{
			Key: node.Key{Cluster: "west", Name: fmt.Sprint(i)}, Cluster: 2, Underlay: []netip.Addr{packetNode(i)},
		})
	}
	for i := range addresses {
		host := packetNode(i % nodes)
		for _, a := range []netip.Addr{packetPod4(uint32(i)), packetPod6(uint32(i))} {
			c.Addresses = append(c.Addresses, packet.Address{Addr: a, Cluster: 2, Identity: packetIdentity, Host: host})
		}
	}
	return c
}

// packetKind is a program, and a packet for it whose other end is one pod.
type packetKind struct {
	name, program string
	attach        ebpf.AttachType
	outer         frame.Outer
	frame         []byte
	offset, base  uint32 // of the last four bytes of the other end's address
}

func packetKinds() []packetKind {
	own4, own6, _ := packetOwn()
	load := frame.Datagram(40000, 53, make([]byte, 64))
	outer := frame.Outer{Source: packetNode(7), Number: packetIdentity}
	return []packetKind{
		{
			"to_mesh, IPv4", bpf.MeshProgToMesh, ebpf.AttachTCXEgress,
			frame.Outer{},
			frame.IP(own4, packetPod4(7), frame.UDP, load), frame.EthernetLength + 16, 10 << 24,
		},
		{
			"to_mesh, IPv6", bpf.MeshProgToMesh, ebpf.AttachTCXEgress,
			frame.Outer{},
			frame.IP(own6, packetPod6(7), frame.UDP, load), frame.EthernetLength + 36, 0,
		},
		{
			"from_mesh, IPv4", bpf.MeshProgFromMesh, ebpf.AttachTCXIngress,
			outer,
			frame.IP(packetPod4(7), own4, frame.UDP, load), frame.EthernetLength + 12, 10 << 24,
		},
		{
			"from_mesh, IPv6", bpf.MeshProgFromMesh, ebpf.AttachTCXIngress,
			outer,
			frame.IP(packetPod6(7), own6, frame.UDP, load), frame.EthernetLength + 20, 0,
		},
	}
}

// packetCases returns each program with packets of each family, whose other end
// is always the same pod, or another one each time.
func packetCases(addresses uint32) (cases []*packetCase, err error) {
	for _, kind := range packetKinds() {
		for _, random := range []*frame.Random{nil, {Offset: kind.offset, Base: kind.base, Mask: addresses - 1}} {
			c := &packetCase{name: kind.name + ", hot", budget: budgetHot, frame: kind.frame}
			if random != nil {
				c.name, c.budget = kind.name+", random", budgetRandom
			}
			ours, err := pinnedProgram(kind.program)
			if err != nil {
				return cases, err
			}
			c.ours, err = frame.NewArrival(ours, kind.attach, kind.outer, random)
			if err = errors.Join(err, ours.Close()); err != nil {
				return cases, err
			}
			if c.empty, err = emptyArrival(kind.attach, kind.outer, random); err != nil {
				return cases, errors.Join(err, c.ours.Close())
			}
			cases = append(cases, c)
		}
	}
	return cases, nil
}

// pinnedProgram returns what runs on the device.
func pinnedProgram(name string) (*ebpf.Program, error) {
	l, err := link.LoadPinnedLink(filepath.Join(bpffs, "packet", name), nil)
	if err != nil {
		return nil, fmt.Errorf("open link %s: %w", name, err)
	}
	defer l.Close() // read only
	info, err := l.Info()
	if err != nil {
		return nil, fmt.Errorf("read link %s: %w", name, err)
	}
	return ebpf.NewProgramFromID(info.Program)
}

func emptyArrival(attach ebpf.AttachType, outer frame.Outer, random *frame.Random) (*frame.Arrival, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.SchedCLS, AttachType: attach, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load the empty program: %w", err)
	}
	defer program.Close() // the arrival holds it
	return frame.NewArrival(program, attach, outer, random)
}

// packetRounds measures all cases in turn, each next to its empty program.
func packetRounds(ctx context.Context, cases []*packetCase, config packetConfig) error {
	for range config.Rounds {
		for _, c := range cases {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			ours, err := c.ours.Bench(c.frame, config.Packets)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			empty, err := c.empty.Bench(c.frame, config.Packets)
			if err != nil {
				return fmt.Errorf("%s, empty: %w", c.name, err)
			}
			c.times = append(c.times, ours-empty)
		}
	}
	return nil
}

// allPassed returns an error when a packet was dropped: what was measured is then
// not what it says.
func allPassed(plane *packet.Plane) error {
	counts, err := plane.Counts()
	if err != nil {
		return err
	}
	passed := uint64(0)
	for _, c := range counts {
		switch {
		case c.Reason == packet.Passed:
			passed += c.Packets
		case c.Packets > 0:
			return fmt.Errorf("%d packets were %v in %v", c.Packets, c.Reason, c.Direction)
		}
	}
	if passed == 0 {
		return errors.New("no packet passed")
	}
	return nil
}
