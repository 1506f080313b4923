package probe

import (
	"math"
	"strings"
	"time"
	"unicode"

	"github.com/causeway-mesh/causeway/pkg/probe/probepb"
	"github.com/causeway-mesh/causeway/pkg/route"
)

const (
	// maxText is how much is taken of a text, in bytes.
	maxText = 256
	// maxPeers is how many summaries are taken: no mesh has more clusters, each with
	// two ways.
	maxPeers = 2 * 511
)

func reportToProto(r *Report) *probepb.ReportRequest {
	out := &probepb.ReportRequest{Mtu: uint32(r.MTU), ItemCount: uint32(r.ItemCount)}
	for _, i := range r.Items {
		out.Items = append(out.Items, &probepb.Item{Kind: i.Kind, Name: i.Name})
	}
	for _, s := range r.Summaries {
		m := &probepb.Summary{
			Cluster: s.Cluster, Mode: string(s.Mode), Nodes: uint32(s.Nodes), Paths: uint32(s.Paths),
			Reachable: uint32(s.Reachable), Degraded: uint32(s.Degraded), Unreachable: uint32(s.Unreachable),
			RttMin: int64(s.RTTMin), RttMedian: int64(s.RTTMedian), RttMax: int64(s.RTTMax),
			Loss: s.Loss, Mtu: uint32(s.MTU), Source: string(s.Source), Spare: s.Spare, Against: uint32(s.Against),
		}
		for _, t := range s.Troubles {
			m.Troubles = append(m.Troubles, &probepb.Trouble{Reason: t.Reason, Detail: t.Detail, Node: t.Node, Paths: uint32(t.Paths)})
		}
		out.Summaries = append(out.Summaries, m)
	}
	return out
}

// reportFromProto takes no more than an agent of ours sends, and no text that a
// terminal would take for a command. The node's clock is not believed.
func reportFromProto(m *probepb.ReportRequest, now time.Time) *Report {
	r := &Report{Time: now, MTU: int(m.GetMtu()), ItemCount: int(m.GetItemCount())}
	for _, i := range first(m.GetItems(), maxItems) {
		r.Items = append(r.Items, Item{clean(i.GetKind()), clean(i.GetName())})
	}
	for _, s := range first(m.GetSummaries(), maxPeers) {
		out := Summary{
			Cluster: clean(s.GetCluster()), Mode: route.Mode(clean(s.GetMode())), Nodes: int(s.GetNodes()),
			Paths:     int(min(s.GetPaths(), Paths)),
			Reachable: int(min(s.GetReachable(), Paths)), Degraded: int(min(s.GetDegraded(), Paths)), Unreachable: int(min(s.GetUnreachable(), Paths)),
			RTTMin: time.Duration(s.GetRttMin()), RTTMedian: time.Duration(s.GetRttMedian()), RTTMax: time.Duration(s.GetRttMax()),
			MTU: int(s.GetMtu()), Source: Source(clean(s.GetSource())), Spare: s.GetSpare(), Against: int(min(s.GetAgainst(), Paths)),
		}
		if loss := s.GetLoss(); !math.IsNaN(loss) {
			out.Loss = min(max(loss, 0), 1)
		}
		for _, t := range first(s.GetTroubles(), maxTroubles) {
			out.Troubles = append(out.Troubles, Trouble{clean(t.GetReason()), clean(t.GetDetail()), clean(t.GetNode()), int(min(t.GetPaths(), Paths))})
		}
		r.Summaries = append(r.Summaries, out)
	}
	return r
}

func first[T any](list []T, n int) []T { return list[:min(len(list), n)] }

func clean(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxText)], "")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
}
