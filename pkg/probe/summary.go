package probe

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/route"
)

// maxTroubles bounds what is said of one peer.
const maxTroubles = 8

// path is a track as it was at one moment, with where it leads.
type path struct {
	target target
	track  track
}

// summarize says how the peers are reached, by cluster.
func summarize(n *Neighbours, paths []path) []Summary {
	type way struct {
		cluster string
		native  bool
	}
	byWay := map[way][]path{}
	for _, p := range paths {
		at := way{p.target.cluster, p.target.native}
		byWay[at] = append(byWay[at], p)
	}
	var out []Summary
	for _, p := range n.Peers {
		if p.Mode != route.Native {
			out = append(out, summarizePeer(n, p, byWay[way{p.Cluster, false}]))
		}
		if p.tries() {
			out = append(out, summarizeNative(n, p, byWay[way{p.Cluster, true}]))
		}
	}
	slices.SortStableFunc(out, func(a, b Summary) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return out
}

func summarizePeer(n *Neighbours, p Peer, paths []path) Summary {
	s := Summary{Cluster: p.Cluster, Mode: p.Mode, Nodes: len(p.Nodes)}
	if t, ok := never(n, p); ok {
		s.Troubles = []Trouble{t}
		return s
	}
	s.count(paths)
	return s
}

// count takes in what is known of the paths.
func (s *Summary) count(paths []path) {
	s.Paths = len(paths)
	var rtts []time.Duration
	for i := range paths {
		t := &paths[i].track
		state, troubles := t.state()
		switch state {
		case Reachable:
			s.Reachable++
		case Degraded:
			s.Degraded++
		case Unreachable:
			s.Unreachable++
		}
		s.Loss += t.loss / float64(len(paths))
		if state == Reachable || state == Degraded {
			rtts = append(rtts, t.rtt)
			if t.last.passes > 0 && (s.MTU == 0 || t.last.passes < s.MTU) {
				s.MTU = t.last.passes
			}
		}
		if seen := t.source(); s.Source != SourceChanged && seen != "" {
			s.Source = seen
		}
		for _, trouble := range troubles {
			s.add(trouble, paths[i].target)
		}
	}
	if slices.Sort(rtts); len(rtts) > 0 {
		s.RTTMin, s.RTTMedian, s.RTTMax = rtts[0], rtts[len(rtts)/2], rtts[len(rtts)-1]
	}
}

// add counts a trouble of a path with others of its kind; the first one is the
// example.
func (s *Summary) add(t Trouble, at target) {
	for i := range s.Troubles {
		if s.Troubles[i].Reason == t.Reason {
			s.Troubles[i].Paths++
			return
		}
	}
	if len(s.Troubles) < maxTroubles {
		t.Node, t.Paths = fmt.Sprintf("%s (%s)", at.node, at.to), 1
		s.Troubles = append(s.Troubles, t)
	}
}

// never says why no node of the peer can be asked, if so.
func never(n *Neighbours, p Peer) (Trouble, bool) {
	if len(p.Nodes) == 0 {
		return Trouble{Reason: reasonNoNodes}, true
	}
	any := false
	for _, node := range p.Nodes {
		if len(pairs(n.Mesh, node.Mesh)) > 0 {
			return Trouble{}, false
		}
		any = any || len(node.Mesh) > 0
	}
	if any {
		return Trouble{Reason: reasonFamily}, true
	}
	return Trouble{Reason: reasonNoMesh}, true
}

// same reports whether two reports say the same but for what always changes.
func same(a, b *Report) bool {
	return a.MTU == b.MTU && a.ItemCount == b.ItemCount && slices.Equal(a.Items, b.Items) &&
		slices.EqualFunc(a.Summaries, b.Summaries, func(x, y Summary) bool {
			return x.Cluster == y.Cluster && x.Mode == y.Mode && x.Nodes == y.Nodes && x.Paths == y.Paths &&
				x.Reachable == y.Reachable && x.Degraded == y.Degraded && x.Unreachable == y.Unreachable &&
				x.MTU == y.MTU && x.Source == y.Source && x.Spare == y.Spare && x.Against == y.Against && slices.EqualFunc(x.Troubles, y.Troubles, func(t, u Trouble) bool {
				return t.Reason == u.Reason && t.Paths == u.Paths
			})
		})
}
