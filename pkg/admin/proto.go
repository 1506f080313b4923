package admin

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/service"
)

func protoCounts(c merge.Counts) *adminpb.Counts {
	return &adminpb.Counts{
		Nodes: uint32(c.Nodes), Addresses: uint32(c.Addresses), Identities: uint32(c.Identities),
		Services: uint32(c.Services), EndpointSlices: uint32(c.Slices),
	}
}

// protoTime leaves out a time that has not come.
func protoTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func protoReaches(reaches []merge.Reach) []*adminpb.Reach {
	var out []*adminpb.Reach
	for _, r := range reaches {
		p := &adminpb.Reach{
			Cluster: r.Cluster, Mode: string(r.Mode), RangeCount: uint32(r.Counts.Ranges), RefusedCount: uint32(r.Counts.Refused),
			MeshNodes: uint32(r.Mesh), Nodes: uint32(r.Nodes),
		}
		for _, prefix := range r.Ranges {
			p.Ranges = append(p.Ranges, prefix.String())
		}
		for _, refused := range r.Refused {
			p.Refused = append(p.Refused, &adminpb.Refusal{Range: refused.Prefix.String(), Reason: refused.Reason})
		}
		out = append(out, p)
	}
	return out
}

// withReasons says of each peer why packets go there as they do.
func (s *Server) withReasons(reaches []*adminpb.Reach) []*adminpb.Reach {
	for _, r := range reaches {
		if r.Mode != "" {
			r.ModeReason = s.cfg.RouteReason(r.Cluster)
		}
	}
	return reaches
}

func protoMesh(m *feed.Mesh) *adminpb.AgentMesh {
	if m == nil {
		return nil
	}
	out := &adminpb.AgentMesh{Peers: uint32(m.Peers), Ranges: uint32(m.Ranges), Problems: m.Problems, Error: m.Error}
	for _, a := range m.Addresses {
		out.Addresses = append(out.Addresses, a.String())
	}
	return out
}

func protoService(e merge.Explanation) *adminpb.Service {
	out := &adminpb.Service{
		Namespace: e.Name.Namespace, Name: e.Name.Name, Here: e.Here, Global: e.Global, Affinity: string(e.Affinity),
		Frontends: protoFrontends(e.Frontends), External: protoFrontends(e.Rules.External),
		SessionSeconds: uint32(e.Rules.Session / time.Second), NodeLocal: e.Rules.NodeLocal,
	}
	for _, c := range e.Clusters {
		side := &adminpb.ServiceCluster{Cluster: c.Cluster, Used: c.Used, Terminating: c.Terminating, Tier: uint32(c.Tier), Reason: c.Reason}
		for _, b := range c.Backends {
			side.Backends = append(side.Backends, &adminpb.Backend{
				Ip: b.IP.String(), Ports: protoPorts(b.Ports), Node: b.Node, Pod: b.Pod, State: b.State,
			})
		}
		out.Clusters = append(out.Clusters, side)
	}
	return out
}

func protoFrontends(frontends []service.Frontend) []*adminpb.Frontend {
	var out []*adminpb.Frontend
	for _, f := range frontends {
		out = append(out, &adminpb.Frontend{Ip: f.IP.String(), Ports: protoPorts(f.Ports)})
	}
	return out
}

func protoPorts(ports []service.Port) []*adminpb.Port {
	out := make([]*adminpb.Port, 0, len(ports))
	for _, p := range ports {
		out = append(out, &adminpb.Port{Name: p.Name, Protocol: string(p.Protocol), Port: uint32(p.Port)})
	}
	return out
}

func sortAgents(agents []*adminpb.Agent) {
	slices.SortFunc(agents, func(a, b *adminpb.Agent) int { return cmp.Compare(a.Node, b.Node) })
}

// valid makes text that another cluster wrote fit to be sent.
func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
