package admin

import (
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/identity"
	"github.com/causeway-mesh/causeway/pkg/merge"
)

// addressesPerMessage keeps a message of the longest labels below 4 MiB.
const addressesPerMessage = 500

// Addresses says who is who.
func (s *Server) Addresses(r *adminpb.AddressesRequest, stream grpc.ServerStreamingServer[adminpb.AddressesResponse]) error {
	filter, err := merge.ParseFilter(merge.Filter{
		Cluster: r.Cluster, Node: r.Node, Namespace: r.Namespace, Pod: r.Pod, Identity: identity.Number(r.Identity), Labels: r.Labels,
	}, r.Within)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	var who *merge.Directory
	s.cfg.Engine.Read(func(state *merge.State) { who = state.Directory() })
	for chunk := range slices.Chunk(who.Entries(filter), addressesPerMessage) {
		out := &adminpb.AddressesResponse{}
		for _, e := range chunk {
			out.Addresses = append(out.Addresses, protoAddress(e))
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
	return nil
}

func protoAddress(e merge.Entry) *adminpb.Address {
	return &adminpb.Address{
		Address: e.Address(), Cluster: e.Cluster, Node: e.Node, Namespace: e.Namespace, Pod: e.Pod,
		Identity: uint32(e.Identity), Labels: e.LabelList(),
	}
}
