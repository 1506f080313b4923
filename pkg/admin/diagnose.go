package admin

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/route"
)

// The states of a peer as a node sees it, beside those of probe.
const (
	stateOK      = "ok"
	stateUntried = "untried"
)

// Diagnose says what nodes found out about the way to other clusters.
func (s *Server) Diagnose(_ context.Context, r *adminpb.DiagnoseRequest) (*adminpb.DiagnoseResponse, error) {
	var nodes []string
	var reaches []merge.Reach
	s.cfg.Engine.Read(func(state *merge.State) {
		nodes = state.Nodes(s.cfg.Cluster.Name)
		reaches = state.Reaches()
	})
	if len(reaches) == 0 {
		return nil, status.Error(codes.FailedPrecondition,
			"this cluster carries no packets to others, so there is nothing to look at: give its API server --mesh-cidr, or leave it to the network")
	}
	if r.Node != "" && !slices.Contains(nodes, r.Node) {
		return nil, status.Errorf(codes.NotFound, "the cluster has no node %q", r.Node)
	}
	if r.Peer != "" && !slices.ContainsFunc(reaches, func(reach merge.Reach) bool { return reach.Cluster == r.Peer && reach.Mode != "" }) {
		return nil, status.Errorf(codes.NotFound, "packets are carried to no cluster %q: causeway status has those that are peers", r.Peer)
	}
	agents := map[string]feed.AgentStatus{}
	for _, a := range s.cfg.Agents() {
		agents[a.Node] = a
	}
	reports, now := s.cfg.Probe.Reports(), time.Now()
	out := &adminpb.DiagnoseResponse{Ok: true}
	for _, name := range nodes {
		if r.Node != "" && r.Node != name {
			continue
		}
		d := diagnose(name, agents[name], reports[name], now, r.Peer)
		if len(s.cfg.Etcd) > 0 && !agents[name].Connected {
			d = &adminpb.NodeDiagnosis{Node: name, Ok: true, Error: "its agent is not connected to this replica; ask the others"}
		}
		out.Nodes = append(out.Nodes, d)
		out.Ok = out.Ok && d.Ok
	}
	return out, nil
}

// diagnose says what is known of one node and one peer, or all.
func diagnose(name string, a feed.AgentStatus, r *probe.Report, now time.Time, peer string) *adminpb.NodeDiagnosis {
	d := &adminpb.NodeDiagnosis{Node: name}
	switch {
	case !a.Connected:
		d.Error = "its agent is not connected: see causeway status"
	case r == nil:
		d.Error = "its agent has not said anything yet, or is of a version that does not"
	case now.Sub(r.Time) >= probe.Stale:
		d.Error = "its agent has said nothing for " + now.Sub(r.Time).Round(time.Second).String()
	case a.Applied.Mesh != nil && a.Applied.Mesh.Error != "":
		d.Error = a.Applied.Mesh.Error
	case r.MTU == 0:
		d.Error = "it has no tunnel device: see causeway status"
	}
	if m := a.Applied.Mesh; m != nil {
		d.Problems = m.Problems
	}
	if r == nil {
		return d
	}
	d.Ok = d.Error == "" && len(d.Problems) == 0
	d.Reported, d.Mtu, d.ItemCount = timestamppb.New(r.Time), uint32(r.MTU), uint32(r.ItemCount)
	for _, i := range r.Items {
		d.Items = append(d.Items, &adminpb.Item{Kind: i.Kind, Name: i.Name})
	}
	for i := range r.Summaries {
		s := &r.Summaries[i]
		if s.Spare && s.Paths == 0 {
			continue // causeway status says why
		}
		if peer == "" || peer == s.Cluster {
			p := protoPeerDiagnosis(s)
			d.Peers = append(d.Peers, p)
			d.Ok = d.Ok && p.Ok
		}
	}
	return d
}

func protoPeerDiagnosis(s *probe.Summary) *adminpb.PeerDiagnosis {
	out := &adminpb.PeerDiagnosis{
		Cluster: s.Cluster, State: peerState(s), Mode: string(s.Mode), Nodes: uint32(s.Nodes), Paths: uint32(s.Paths),
		Reachable: uint32(s.Reachable), Degraded: uint32(s.Degraded), Unreachable: uint32(s.Unreachable),
		Loss: s.Loss, Mtu: uint32(s.MTU), Source: string(s.Source), Spare: s.Spare,
	}
	out.Ok = out.State == stateOK || out.State == stateUntried || s.Spare
	if s.RTTMax > 0 {
		out.RttMin, out.RttMedian, out.RttMax = durationpb.New(s.RTTMin), durationpb.New(s.RTTMedian), durationpb.New(s.RTTMax)
	}
	for _, t := range s.Troubles {
		reason := probe.ReasonNamed(t.Reason)
		out.Troubles = append(out.Troubles, &adminpb.Trouble{
			Reason: reason.Name, Means: reason.Means, Detail: t.Detail, Node: t.Node, Paths: uint32(t.Paths), Do: reason.Do,
		})
	}
	return out
}

// peerState is that of the worst that is known.
func peerState(s *probe.Summary) string {
	switch {
	case s.Mode == route.Native && s.Paths == 0:
		return stateUntried
	case s.Paths == s.Unreachable && len(s.Troubles) > 0:
		return string(probe.Unreachable)
	case s.Unreachable > 0 || len(s.Troubles) > 0:
		return string(probe.Degraded)
	case s.Paths == 0 || s.Reachable < s.Paths:
		return string(probe.Pending)
	}
	return stateOK
}

// withPaths adds up what all nodes found out about each peer.
func withPaths(reaches []*adminpb.Reach, reports map[string]*probe.Report, now time.Time) []*adminpb.Reach {
	byPeer := map[string]*adminpb.Reach{}
	for _, r := range reaches {
		byPeer[r.Cluster] = r
	}
	for _, report := range reports {
		if now.Sub(report.Time) >= probe.Stale {
			continue
		}
		for _, s := range report.Summaries {
			if r := byPeer[s.Cluster]; r != nil && !s.Spare {
				r.Paths += uint32(s.Paths)
				r.PathsOk += uint32(s.Reachable)
			}
		}
	}
	return reaches
}
