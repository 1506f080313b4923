package admin

import (
	"context"
	"errors"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// Peers says what is believed of one peer, or of all.
func (s *Server) Peers(_ context.Context, r *adminpb.PeersRequest) (*adminpb.PeersResponse, error) {
	out := &adminpb.PeersResponse{}
	beliefs := s.cfg.Peers.Beliefs()
	for _, p := range s.cfg.Peers.Status() {
		belief, ok := beliefs[p.Name]
		if !ok || r.Peer != "" && r.Peer != p.Name {
			continue
		}
		out.Peers = append(out.Peers, protoTrust(p, belief))
	}
	if r.Peer != "" && len(out.Peers) == 0 {
		return nil, status.Errorf(codes.NotFound, "%q is not a peer of this cluster", r.Peer)
	}
	return out, nil
}

// ApprovePeer agrees to what a peer names outside of its claims.
func (s *Server) ApprovePeer(_ context.Context, r *adminpb.ApprovePeerRequest) (*adminpb.ApprovePeerResponse, error) {
	var ranges []netip.Prefix
	for _, text := range r.Ranges {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%q is not a range like 10.1.0.0/16", text)
		}
		ranges = append(ranges, p.Masked())
	}
	added, err := s.cfg.Peers.Approve(r.Peer, ranges)
	switch {
	case errors.Is(err, peer.ErrNoPeer), errors.Is(err, peer.ErrNothingWaits), errors.Is(err, peer.ErrNotWaiting):
		return nil, status.Error(codes.NotFound, err.Error())
	case err != nil:
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &adminpb.ApprovePeerResponse{Claims: protoClaims(added, nil)}, nil
}

func protoTrust(p peer.Status, b peer.Belief) *adminpb.PeerTrust {
	q := b.Rules.Quotas
	out := &adminpb.PeerTrust{
		Name: p.Name, Id: uint32(p.ID), State: string(p.State), Reason: p.Reason, Endpoints: p.Endpoints, Declared: b.Declared,
		Claims: protoClaims(b.Claims, b.Lost), Waiting: protoClaims(b.Waiting, nil), Refused: map[string]uint32{},
		Import: &adminpb.ImportRules{
			Namespaces: b.Rules.Namespaces, ServiceSelector: b.Rules.Services.String(), MaxNodes: uint64(q.Nodes),
			MaxAddresses: uint64(q.Addresses), MaxIdentities: uint64(q.Identities), MaxServices: uint64(q.Services), MaxBytes: uint64(q.Bytes),
		},
	}
	for reason, n := range p.Refused {
		out.Refused[reason] = uint32(n)
	}
	for _, o := range b.Offences {
		out.Offences = append(out.Offences, &adminpb.Offence{
			Time: timestamppb.New(o.Time), Key: valid(o.Key), Reason: string(o.Reason), Detail: valid(o.Detail),
		})
	}
	return out
}

func protoClaims(claims []trust.Claim, lost map[trust.Claim]string) []*adminpb.Claim {
	var out []*adminpb.Claim
	for _, c := range claims {
		out = append(out, &adminpb.Claim{
			Class: string(c.Class), Range: c.Range.String(), Origin: string(c.Origin), Since: protoTime(c.Since), LostTo: lost[c],
		})
	}
	return out
}
