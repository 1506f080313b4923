package kubelab

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/causeway-mesh/causeway/tests/lab/netspace"
)

// Nodes with the same number have the same addresses, those of one network need
// their own.

func nodeAddressOf(number int) string {
	return netip.AddrFrom4([4]byte{10, 77, 0, byte(2 + number)}).String()
}

func podRangeOf(number int) string {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(number), 0}), 24).String()
}

// Address returns the node's own.
func (n *Node) Address() string { return n.address }

// PodRange returns where the node's pods have their addresses.
func (n *Node) PodRange() string { return n.podRange }

// JoinNodes puts nodes of one or several control planes into one network for the rest
// of the test: the nodes reach each other; pods of one do not reach those of another.
// The switch is in a namespace of its own, as a node's own rules would see what
// passes.
func JoinNodes(t testing.TB, nodes ...*Node) {
	t.Helper()
	const bridge, wire = "middle", "wire"
	path := filepath.Join(t.TempDir(), bridge)
	middle, err := netspace.New(path)
	if err != nil {
		t.Fatalf("join nodes: %v", err)
	}
	t.Cleanup(func() {
		if err := errors.Join(middle.Close(), netspace.Remove(path)); err != nil {
			t.Error(err)
		}
	})
	err = middle.AddBridge(bridge)
	for i, n := range nodes {
		port := fmt.Sprintf("%s%d", wire, i)
		if err == nil {
			err = n.space.Give(wire, middle, port)
		}
		if err == nil {
			err = errors.Join(middle.Enslave(port, bridge), middle.SetUp(port))
		}
	}
	if err != nil {
		t.Fatalf("join nodes: %v", err)
	}
}

// Link joins a node with a network namespace by a wire that ends with either: its ends
// are called alike, and have these addresses. The other side's default route goes there.
func (n *Node) Link(name string, here netip.Prefix, far *netspace.Space, there netip.Prefix) error {
	if err := n.space.AddPair(name, far, name); err != nil {
		return err
	}
	return errors.Join(
		n.space.AddAddress(name, here), far.AddAddress(name, there), n.space.SetUp(name), far.SetUp(name),
		far.AddRoute(netspace.Route{To: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: here.Addr(), Device: name}),
	)
}
