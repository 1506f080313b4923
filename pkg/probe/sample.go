package probe

import (
	"cmp"
	"hash/fnv"
	"io"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// target is one path: from an address of ours to one of a peer's node. A native one
// is from the probe pod of this node to one of a peer's.
type target struct {
	cluster, node string
	from, to      netip.Addr
	native        bool
}

// sample chooses whom a node asks by tunnels and, apart from that, natively: of each
// peer the nodes with the least hashes
// together with ours (rendezvous hashing: when nodes come and go, few others are
// chosen anew, and each node of ours asks others), one of each peer in turn
// until there are enough.
func sample(n *Neighbours) []target {
	var tunnels, natives [][]target
	for _, p := range n.Peers {
		if p.Mode == route.VXLAN {
			tunnels = append(tunnels, chosen(n, p))
		}
		if p.tries() {
			natives = append(natives, chosenPods(n, p))
		}
	}
	return append(inTurn(tunnels), inTurn(natives)...)
}

// inTurn returns some of each list, at most Paths.
func inTurn(each [][]target) (out []target) {
	for i := 0; len(out) < Paths; i++ {
		before := len(out)
		for _, some := range each {
			if i < len(some) && len(out) < Paths {
				out = append(out, some[i])
			}
		}
		if len(out) == before {
			break
		}
	}
	return out
}

// chosen returns the paths to a peer, at most PerPeer nodes'.
func chosen(n *Neighbours, p Peer) []target {
	type ranked struct {
		hash uint64
		node Node
	}
	var order []ranked
	for _, node := range p.Nodes {
		if len(pairs(n.Mesh, node.Mesh)) > 0 {
			order = append(order, ranked{rank(n.Cluster, n.Node, p.Cluster, node.Name), node})
		}
	}
	slices.SortFunc(order, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.node.Name, b.node.Name))
	})
	var out []target
	for _, r := range order[:min(len(order), PerPeer)] {
		for _, pair := range pairs(n.Mesh, r.node.Mesh) {
			out = append(out, target{cluster: p.Cluster, node: r.node.Name, from: pair[0], to: pair[1]})
		}
	}
	return out
}

// chosenPods returns the paths between probe pods to a peer, at most PerPeer a
// family.
func chosenPods(n *Neighbours, p Peer) (out []target) {
	for _, from := range n.Probes {
		var to []target
		for _, pod := range p.Probes {
			if pod.Addr.Is6() == from.Is6() {
				to = append(to, target{cluster: p.Cluster, node: pod.Node, from: from, to: pod.Addr, native: true})
			}
		}
		slices.SortFunc(to, func(a, b target) int {
			return cmp.Or(cmp.Compare(rank(n.Cluster, n.Node, p.Cluster, a.to.String()), rank(n.Cluster, n.Node, p.Cluster, b.to.String())), a.to.Compare(b.to))
		})
		out = append(out, to[:min(len(to), PerPeer)]...)
	}
	return out
}

// pairs returns the addresses of each family that both have.
func pairs(ours, theirs []netip.Addr) (out [][2]netip.Addr) {
	for _, from := range ours {
		if to := ofFamily(theirs, from); to.IsValid() {
			out = append(out, [2]netip.Addr{from, to})
		}
	}
	return out
}

// ofFamily returns the address of the same family as like; the zero Addr for none.
func ofFamily(all []netip.Addr, like netip.Addr) netip.Addr {
	for _, a := range all {
		if a.Is6() == like.Is6() {
			return a
		}
	}
	return netip.Addr{}
}

func rank(names ...string) uint64 {
	h := fnv.New64a()
	for _, name := range names {
		_, _ = io.WriteString(h, name)
		_, _ = h.Write([]byte{0})
	}
	return mix(h.Sum64())
}

// mix is the finalizer of MurmurHash3 (public domain, Austin Appleby): FNV-1a alone
// leaves the high bits of names that differ at their end much the same.
func mix(x uint64) uint64 {
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// order has false before true.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// compare orders targets.
func (t target) compare(o target) int {
	return cmp.Or(cmp.Compare(t.cluster, o.cluster), cmp.Compare(t.node, o.node), t.to.Compare(o.to), t.from.Compare(o.from), order(t.native, o.native))
}
