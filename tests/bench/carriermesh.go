package main

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/datapath/host"
	"github.com/causeway-mesh/causeway/pkg/datapath/packet"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// meshNode makes the node whose namespace it runs in one of a mesh, as an agent
// does, prints a line, and ends with its input; what it made stays. Its
// arguments are a folder for pins, the mode, the node's side, and how many
// addresses there are of the other one.
func meshNode(args []string, stdin io.Reader, stdout io.Writer) error {
	var (
		bpffs, mode     string
		side, addresses int
	)
	if _, err := fmt.Sscan(strings.Join(args, " "), &bpffs, &mode, &side, &addresses); err != nil {
		return fmt.Errorf("folder, mode, side and number of addresses are expected, not %q: %w", args, err)
	}
	if err := os.MkdirAll(bpffs, 0o700); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	plane, err := packet.Open(packet.Config{BPFFS: bpffs, Device: host.DefaultDevice, Logger: log})
	if err != nil {
		return err
	}
	defer func() { _ = plane.Close() }()
	if err := plane.Apply(meshState(side, addresses)); err != nil {
		return err
	}
	h, err := host.Open(host.Config{Logger: log, Attach: func(string, int) error { return plane.Attach() }})
	if err != nil {
		return err
	}
	defer func() { _ = h.Close() }()
	far := 1 - side
	err = h.Apply(host.Desired{
		Nodes: []netip.Addr{nodeAddress(far)}, Mesh: []netip.Addr{meshAddress(side)},
		MeshRanges: []netip.Prefix{single(meshAddress(far))},
		Routes:     []host.Route{{Prefix: podRange(far), Mode: route.Mode(mode)}},
		LocalPods:  []netip.Prefix{podRange(side)},
	})
	if err != nil {
		return err
	}
	for _, problem := range h.Problems() {
		log.Warn("the node's network has a problem", "what", problem.What, "where", problem.Where)
	}
	fmt.Fprintln(stdout, "ready")
	_, err = bufio.NewReader(stdin).WriteTo(io.Discard)
	return err
}

// meshState is the mesh as the node of a side sees it.
func meshState(side, addresses int) packet.Change {
	c := packet.Change{
		Self: &route.Self{
			Cluster: clusterName(side), ID: clusterID(side), Node: "node",
			Mesh: []netip.Addr{meshAddress(side)}, Pods: []netip.Prefix{podRange(side)}, Underlay: []netip.Addr{nodeAddress(side)},
		},
	}
	for s := range sides {
		first, _ := identity.Range(clusterID(s), cluster.Size255)
		c.Nodes = append(c.Nodes, packet.Node{
			Key: node.Key{Cluster: clusterName(s), Name: "node"}, Cluster: clusterID(s),
			Underlay: []netip.Addr{nodeAddress(s)}, Mesh: []netip.Addr{meshAddress(s)},
		})
		count := 1
		if s != side {
			count = addresses
			c.Ranges = append(c.Ranges, packet.Range{Prefix: podRange(s), Cluster: clusterID(s)})
		}
		a := podAddress(s)
		for i := range count {
			c.Addresses = append(c.Addresses, packet.Address{
				Addr: a, Cluster: clusterID(s), Identity: first + identity.Number(i%1000), Host: nodeAddress(s),
			})
			a = a.Next()
		}
	}
	return c
}

func clusterName(side int) string   { return fmt.Sprint("side-", side) }
func clusterID(side int) cluster.ID { return cluster.ID(1 + side) }
