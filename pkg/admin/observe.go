package admin

import (
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/admin/drops"
	"github.com/causeway-mesh/causeway/pkg/merge"
)

// Observe shows the packets that the cluster's nodes dropped.
func (s *Server) Observe(r *adminpb.ObserveRequest, stream grpc.ServerStreamingServer[adminpb.ObserveResponse]) error {
	return drops.Serve(s.cfg.Observe, s.nodes, r, stream)
}

func (s *Server) nodes() (names []string) {
	s.cfg.Engine.Read(func(state *merge.State) { names = state.Nodes(s.cfg.Cluster.Name) })
	return names
}
