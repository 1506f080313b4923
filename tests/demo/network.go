package main

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/causeway-mesh/causeway/tests/echo/workload"
	"github.com/causeway-mesh/causeway/tests/lab"
)

// network is what the clusters are like: as real ones are, each with pods behind
// its nodes, which masquerade what leaves the cluster, so that Causeway carries
// the packets; or, on a kernel that is too old for that, with a flat network.
func (d *demo) network(spec *lab.ClusterSpec) {
	if !d.carried {
		return
	}
	spec.Network = lab.Network{Kind: lab.Routed}
	spec.MeshRanges = []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.20%d.255.0/24", spec.ID))}
}

// carries reports whether the kernel has what carrying packets between clusters
// takes: Linux 6.0, see docs/datapath.md.
func carries() (bool, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return false, fmt.Errorf("ask for the kernel's version: %w", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return false, fmt.Errorf("read the kernel's version %q: %w", release, err)
	}
	return major >= 6, nil
}

// seen checks that the servers saw the client by its own address, whichever
// cluster they are in.
func (d *demo) seen(results []workload.Result) error {
	for _, r := range results {
		from, err := netip.ParseAddrPort(r.Remote)
		if err != nil {
			return fmt.Errorf("%s of %s names no client: %w", r.Pod, r.Cluster, err)
		}
		if own := d.client.IPs[0]; from.Addr().Unmap() != own {
			return fmt.Errorf("%s of %s was asked by %s, and should have seen the client's own address, %s", r.Pod, r.Cluster, from.Addr(), own)
		}
	}
	return nil
}
