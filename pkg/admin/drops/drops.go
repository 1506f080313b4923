// Package drops answers who asks for dropped packets, at an API server or at an
// agent.
package drops

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/observe"
)

// Serve shows dropped packets until there are no more, or the caller leaves. A caller
// that reads slowly loses events and holds up nobody. nodes returns, sorted, all that
// one might expect to see.
func Serve(server *observe.Server, nodes func() []string, r *adminpb.ObserveRequest, stream grpc.ServerStreamingServer[adminpb.ObserveResponse]) error {
	filter, err := observe.ParseFilter(observe.FilterText{
		Node: r.Node, Direction: r.Direction, Reasons: r.Reasons, From: r.From, To: r.To,
	})
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	listener, err := server.Listen(filter, int(min(r.Last, observe.MaxLast)), r.Follow)
	if err != nil {
		return status.Error(codes.ResourceExhausted, err.Error())
	}
	defer listener.Close()
	if err := stream.Send(observed(listener, nodes(), r.Node)); err != nil {
		return err
	}
	for {
		items, err := listener.Next(stream.Context())
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return status.FromContextError(context.Cause(stream.Context())).Err()
		}
		for _, i := range items {
			if err := stream.Send(protoItem(i)); err != nil {
				return err
			}
		}
	}
}

// observed says which nodes a listener sees.
func observed(l *observe.Listener, nodes []string, only string) *adminpb.ObserveResponse {
	out := &adminpb.Observed{Nodes: l.Nodes()}
	for _, n := range nodes {
		if _, seen := slices.BinarySearch(out.Nodes, n); !seen && (only == "" || only == n) {
			out.Others = append(out.Others, n)
		}
	}
	return &adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Observed{Observed: out}}
}

func protoItem(i observe.Item) *adminpb.ObserveResponse {
	switch {
	case i.Lost != nil:
		return &adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Lost{Lost: &adminpb.Lost{Node: i.Lost.Node, Events: i.Lost.Events}}}
	case i.Change != nil:
		return &adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Change{
			Change: &adminpb.NodeChange{Node: i.Change.Node, State: string(i.Change.State)},
		}}
	default:
		return &adminpb.ObserveResponse{Item: &adminpb.ObserveResponse_Drop{Drop: protoDrop(i.Seen)}}
	}
}

func protoDrop(s *observe.Seen) *adminpb.Drop {
	out := &adminpb.Drop{
		Time: timestamppb.New(s.Time), Node: s.Node, Direction: string(s.Direction), Reason: s.Reason,
		Source: protoParty(s.Source, s.From), Destination: protoParty(s.Destination, s.To), Protocol: uint32(s.Protocol),
		TunnelNode: s.TunnelNode, ClusterId: uint32(s.ClusterID), Cluster: s.Cluster,
		Identity: uint32(s.Identity), IdentityLabels: s.IdentityLabels, KnownIdentity: uint32(s.Known), KnownLabels: s.KnownLabels,
		Length: uint32(s.Length),
	}
	if s.Tunnel.IsValid() {
		out.Tunnel = s.Tunnel.String()
	}
	return out
}

func protoParty(at netip.AddrPort, p observe.Party) *adminpb.Party {
	if !at.IsValid() {
		return nil
	}
	return &adminpb.Party{
		Address: at.Addr().String(), Port: uint32(at.Port()),
		Cluster: p.Cluster, Node: p.Node, Namespace: p.Namespace, Pod: p.Pod,
	}
}
