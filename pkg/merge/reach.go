package merge

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// Routing says how the own cluster's nodes reach the others.
type Routing struct {
	// Way returns how packets go to a cluster. Reroute is called when it says
	// something else than before.
	Way func(cluster string) (route.Mode, route.Search)
	// Size is the mesh's.
	Size cluster.Size
	// Reserved are ranges of the own cluster that hold no pods; no other cluster
	// may have pods there.
	Reserved []netip.Prefix
}

// routing computes Peers and Ranges. The cost of a change is that of what changed,
// but for a node's range that comes or goes: the addresses of its cluster are
// looked at then.
type routing struct {
	way    func(string) (route.Mode, route.Search)
	size   cluster.Size
	ranges *ranges
	sides  map[string]*side
	peers  map[string]route.Peer
}

// side is what one cluster says about where its pods are.
type side struct {
	// wide counts the nodes that have a range, bits how many ranges there are of
	// a length, by family.
	wide map[netip.Prefix]int
	bits [2][129]int
	// extra are the nodes' mesh addresses, outside the addresses that are claimed
	// one by one: of pods and nodes that are in none of the ranges.
	extra   map[netip.Prefix]int
	outside map[netip.Prefix]struct{}
	id      cluster.ID
}

func newRouting(local string, r Routing) *routing {
	out := &routing{way: r.Way, size: r.Size, ranges: newRanges(local), sides: map[string]*side{}, peers: map[string]route.Peer{}}
	for _, p := range r.Reserved {
		out.ranges.claim(p.Masked(), reserved)
	}
	return out
}

func (r *routing) side(cluster string) *side {
	if r.sides[cluster] == nil {
		r.sides[cluster] = &side{wide: map[netip.Prefix]int{}, extra: map[netip.Prefix]int{}, outside: map[netip.Prefix]struct{}{}}
	}
	return r.sides[cluster]
}

// before keeps what a pass needs of the nodes that it changes.
func before(m *member, changes map[string]*node.Node) []*node.Node {
	var out []*node.Node
	for name := range changes {
		if n := m.nodes[name]; n != nil {
			out = append(out, n)
		}
	}
	return out
}

// apply takes in what an Update changed; old are the nodes as they were, and m is
// as it is now.
func (r *routing) apply(cluster string, m *member, old []*node.Node, u Update, delta *Delta) {
	s := r.side(cluster)
	look := map[netip.Prefix]struct{}{} // addresses that may be in or out of the ranges otherwise
	var came, went []netip.Prefix
	// What comes is claimed before what goes is released, so that what only moves
	// stays.
	for name := range u.Nodes {
		if n := m.nodes[name]; n != nil {
			s.id = n.ClusterID
			came = append(came, r.addNode(cluster, s, n, look)...)
		}
	}
	for _, n := range old {
		went = append(went, r.dropNode(cluster, s, n, look)...)
	}
	for p := range u.Addresses {
		if p.IsSingleIP() {
			look[p] = struct{}{}
		}
	}
	s.affected(m, came, went, look)
	went = append(went, r.settle(cluster, s, m, look)...)
	for _, p := range went {
		r.ranges.release(p, cluster)
	}
	delta.Ranges = r.ranges.changes()
	r.peer(cluster, s, m, delta)
	if m.empty() {
		delete(r.sides, cluster)
	}
}

// addNode takes a node in and returns the ranges that are new to its cluster.
func (r *routing) addNode(cluster string, s *side, n *node.Node, look map[netip.Prefix]struct{}) (came []netip.Prefix) {
	for _, p := range podRanges(n) {
		if s.wide[p]++; s.wide[p] == 1 {
			s.bits[family(p)][p.Bits()]++
			r.ranges.claim(p, cluster)
			came = append(came, p)
		}
	}
	for _, p := range r.apart(cluster, n) {
		if cluster == r.ranges.local {
			r.ranges.claim(p, reserved)
			continue
		}
		s.extra[p]++
		look[p] = struct{}{}
	}
	return came
}

// dropNode takes a node out and returns the ranges that its cluster has no more.
func (r *routing) dropNode(cluster string, s *side, n *node.Node, look map[netip.Prefix]struct{}) (went []netip.Prefix) {
	for _, p := range podRanges(n) {
		if s.wide[p]--; s.wide[p] == 0 {
			delete(s.wide, p)
			s.bits[family(p)][p.Bits()]--
			went = append(went, p)
		}
	}
	for _, p := range r.apart(cluster, n) {
		if cluster == r.ranges.local {
			r.ranges.release(p, reserved)
			continue
		}
		if s.extra[p]--; s.extra[p] == 0 {
			delete(s.extra, p)
		}
		look[p] = struct{}{}
	}
	return went
}

// podRanges returns a node's ranges, each once.
func podRanges(n *node.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range n.PodCIDRs {
		if p = p.Masked(); p.IsValid() && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// apart returns the addresses of a node that are no pod's, each once: of a peer's
// the mesh addresses, which packets for it go to, of our own all.
func (r *routing) apart(cluster string, n *node.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, a := range n.Addresses {
		p := netip.PrefixFrom(a.IP, a.IP.BitLen())
		if (a.Type == node.CiliumInternalIP || cluster == r.ranges.local) && p.IsValid() && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// affected adds to look the addresses that ranges which came or went may cover.
func (s *side) affected(m *member, came, went []netip.Prefix, look map[netip.Prefix]struct{}) {
	within := func(p netip.Prefix, ranges []netip.Prefix) bool {
		return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Overlaps(p) })
	}
	if len(came) > 0 {
		for p := range s.outside {
			if within(p, came) {
				look[p] = struct{}{}
			}
		}
	}
	if len(went) == 0 {
		return
	}
	for p := range m.addresses {
		if p.IsSingleIP() && within(p, went) {
			look[p] = struct{}{}
		}
	}
	for p := range s.extra {
		if within(p, went) {
			look[p] = struct{}{}
		}
	}
}

// settle claims the addresses that are in none of their cluster's ranges, and
// returns those to release, which are in one by now or are gone.
func (r *routing) settle(cluster string, s *side, m *member, look map[netip.Prefix]struct{}) (went []netip.Prefix) {
	for p := range look {
		_, is := m.addresses[p]
		if _, mesh := s.extra[p]; mesh {
			is = true
		}
		_, was := s.outside[p]
		switch is = is && !s.covers(p); {
		case is && !was:
			s.outside[p] = struct{}{}
			r.ranges.claim(p, cluster)
		case was && !is:
			delete(s.outside, p)
			went = append(went, p)
		}
	}
	return went
}

// covers reports whether an address is in one of the cluster's ranges.
func (s *side) covers(address netip.Prefix) bool {
	for bits, n := range s.bits[family(address)][:address.Bits()+1] {
		if n == 0 {
			continue
		}
		if _, ok := s.wide[netip.PrefixFrom(address.Addr(), bits).Masked()]; ok {
			return true
		}
	}
	return false
}

func family(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 0
	}
	return 1
}

// peer notes what the nodes know of a cluster besides its ranges.
func (r *routing) peer(cluster string, s *side, m *member, delta *Delta) {
	if cluster == r.ranges.local {
		return
	}
	was, had := r.peers[cluster]
	var now *route.Peer
	if len(m.nodes) > 0 {
		now = &route.Peer{Cluster: cluster, ID: s.id, Size: r.size}
		now.Mode, now.Search = r.way(cluster)
	}
	if now == nil && !had || now != nil && had && *now == was {
		return
	}
	delta.Peers = map[string]*route.Peer{cluster: now}
	if now == nil {
		delete(r.peers, cluster)
	} else {
		r.peers[cluster] = *now
	}
}

// Reroute looks anew at how packets go to a cluster, and returns what that changes
// for the nodes.
func (s *State) Reroute(cluster string) (delta Delta) {
	s.rulings, s.touched = nil, nil
	if m := s.clusters[cluster]; m != nil && s.routing != nil {
		s.routing.peer(cluster, s.routing.side(cluster), m, &delta)
	}
	return delta
}

// Reach is how the own cluster's nodes reach another one.
type Reach struct {
	route.Peer
	// Ranges are in use, Refused are not; both sorted, the first of them, of so
	// many in all.
	Ranges  []netip.Prefix
	Refused []Refusal
	Counts  struct{ Ranges, Refused int }
	// Mesh is how many nodes have a mesh address, of so many.
	Mesh, Nodes int
}

// Refusal is a claim that is not in effect.
type Refusal struct {
	Prefix netip.Prefix
	Reason string
}

// maxListed is how many ranges of a cluster are listed for people.
const maxListed = 16

// Reaches returns how each other cluster is reached, sorted, and the own cluster's
// ranges as the first; nil when nobody asked for it. It takes a look at all ranges.
func (s *State) Reaches() []Reach {
	if s.routing == nil {
		return nil
	}
	held := map[string][]netip.Prefix{}
	for p, r := range s.routing.ranges.shown {
		held[r.Cluster] = append(held[r.Cluster], p)
	}
	names := slices.Sorted(maps.Keys(s.routing.peers))
	out := make([]Reach, 0, len(names)+1)
	for _, name := range append([]string{s.local}, names...) {
		out = append(out, s.reach(name, held[name]))
	}
	return out
}

func (s *State) reach(cluster string, held []netip.Prefix) Reach {
	r := s.routing
	out := Reach{Peer: r.peers[cluster], Ranges: held}
	out.Cluster = cluster
	refused := slices.SortedFunc(maps.Keys(r.ranges.refused[cluster]), route.Compare)
	slices.SortFunc(out.Ranges, route.Compare)
	out.Counts.Ranges, out.Counts.Refused = len(held), len(refused)
	out.Ranges = out.Ranges[:min(len(held), maxListed)]
	for _, p := range refused[:min(len(refused), maxListed)] {
		out.Refused = append(out.Refused, Refusal{Prefix: p, Reason: r.ranges.reason(p, cluster)})
	}
	if m := s.clusters[cluster]; m != nil {
		for _, n := range m.nodes {
			out.Nodes++
			if n.IP(node.CiliumInternalIP, false).IsValid() || n.IP(node.CiliumInternalIP, true).IsValid() {
				out.Mesh++
			}
		}
	}
	return out
}
