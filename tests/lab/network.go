package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
)

// Kind is how far the pods of a cluster are reached.
type Kind int

const (
	// Flat clusters route each other's pods: any pod reaches any other.
	Flat Kind = iota
	// Routed clusters route their own pods alone. What leaves a cluster's pod
	// ranges gets the node's address, as CNIs do it; other clusters' pods are
	// reached by nothing that the lab makes, and what goes to or comes from pod
	// addresses is dropped between the clusters and counted, see Leaks.
	Routed
)

// Network says how a cluster's pods are wired. What is below Plugin makes a
// Routed cluster's nodes as awkward as real ones may be.
type Network struct {
	Kind Kind
	// MTU is the nodes' on their wire, 1500 when 0; PodMTU is the pods', that of
	// the nodes when 0. In bytes.
	MTU    int
	PodMTU int
	// Plugin is a real CNI plugin that wires, and masquerades, the pods: ptp or
	// bridge. The lab itself does when empty.
	Plugin string
	// StrictReturnPath makes nodes drop what comes by another way than the answer
	// would take, as rp_filter=1 and firewalld do.
	StrictReturnPath bool
	// SourceTables gives what pods send a table of its own, as clouds do whose
	// nodes have several uplinks: the main table is not asked.
	SourceTables bool
	// DropForward makes nodes forward only what the CNI asks for, as on a host
	// with Docker.
	DropForward bool
}

// defaultMTU is what the kernel gives a pair of devices.
const defaultMTU = 1500

// uplinkMTU is what fits between clusters: any node's MTU.
const uplinkMTU = 9216

// ErrNetwork is returned for a Network that cannot be.
var ErrNetwork = errors.New("no such network")

// Validate says what is wrong with a Network.
func (w Network) Validate() error {
	for _, mtu := range []int{w.mtu(), w.podMTU()} {
		if mtu < 1280 || mtu > uplinkMTU {
			return fmt.Errorf("%w: an MTU of %d, want 1280 to %d", ErrNetwork, mtu, uplinkMTU)
		}
	}
	switch {
	case w.Plugin != "" && w.Plugin != pluginPTP && w.Plugin != pluginBridge:
		return fmt.Errorf("%w: the plugin %q is neither %s nor %s", ErrNetwork, w.Plugin, pluginPTP, pluginBridge)
	case w.Kind != Routed && (w.Plugin != "" || w.StrictReturnPath || w.SourceTables || w.DropForward):
		return fmt.Errorf("%w: only nodes of a routed cluster have faces", ErrNetwork)
	}
	return nil
}

func (w Network) mtu() int    { return cmp.Or(w.MTU, defaultMTU) }
func (w Network) podMTU() int { return cmp.Or(w.PodMTU, w.mtu()) }

// coreGateway4 and coreGateway6 are where nodes of routed clusters send what they have no other
// route for; nothing is behind them.
func coreGateway4() netip.Prefix { return netip.MustParsePrefix("169.254.63.1/32") }
func coreGateway6() netip.Prefix { return netip.MustParsePrefix("fe80::63:1/64") }

func all4() netip.Prefix { return netip.MustParsePrefix("0.0.0.0/0") }
func all6() netip.Prefix { return netip.MustParsePrefix("::/0") }

// single is the prefix of one address.
func single(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }
