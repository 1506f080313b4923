package join

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/retry"
)

// drainTimeout is how long a cluster that is put out is waited for to be out of
// use. It is out, whatever comes of that.
const drainTimeout = 30 * time.Second

// disconnectTimeout bounds all that is done to put a cluster out.
const disconnectTimeout = time.Minute

// The origins of a peer.
const (
	originFile     = "file"
	originJoined   = "joined"
	originResource = "ClusterPeer"
)

// membership answers the command line.
type membership struct {
	joinpb.UnimplementedMembershipServer
	*Manager
}

// Describe says what this cluster is, whom it reads and whom it invited.
func (s *membership) Describe(ctx context.Context, _ *joinpb.DescribeRequest) (*joinpb.DescribeResponse, error) {
	out := &joinpb.DescribeResponse{Facts: protoFacts(s.facts()), Fingerprint: s.fingerprint()}
	members := map[string]*joinpb.Member{}
	for name, m := range s.book.all() {
		if m.Reads == nil && m.Reader == nil && m.Out.IsZero() {
			continue // a join that broke off
		}
		members[name] = &joinpb.Member{Name: name, Reader: protoReader(m.Reader)}
		if m.Reads != nil {
			members[name].Origin, members[name].OneWay = originJoined, m.Reads.OneWay
		}
		if !m.Out.IsZero() {
			members[name].Out = timestamppb.New(m.Out)
		}
	}
	for _, p := range s.cfg.Peers() {
		if members[p.Name] == nil {
			members[p.Name] = &joinpb.Member{Name: p.Name}
		}
		one := members[p.Name]
		one.Origin, one.State, one.Reason, one.Id = s.origin(p), string(p.State), p.Reason, uint32(p.ID)
		one.OneWay = one.OneWay && one.Origin == originJoined
		one.Bounded = p.Bounds != ""
		if !p.Certificate.Ends.IsZero() {
			one.Ends = timestamppb.New(p.Certificate.Ends)
		}
	}
	invitations, err := s.invitations.list(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "list the invitations: %v", err)
	}
	for _, i := range invitations {
		out.Invitations = append(out.Invitations, protoInvitation(i))
		if i.Used != nil {
			begun(members, i.Used)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		out.Members = append(out.Members, members[name])
	}
	return out, nil
}

// begun adds who used an invitation and is neither a peer nor known to read us: it has a
// certificate, and gave none in return.
func begun(members map[string]*joinpb.Member, u *used) {
	one := members[u.Peer]
	if one == nil {
		one = &joinpb.Member{Name: u.Peer}
		members[u.Peer] = one
	}
	if one.Origin == "" && one.Reader == nil && (one.Out == nil || u.Time.After(one.Out.AsTime())) {
		one.Begun = timestamppb.New(u.Time)
	}
}

func protoReader(r *reader) *joinpb.Reader {
	if r == nil {
		return nil
	}
	return &joinpb.Reader{Since: timestamppb.New(r.Since), Ends: timestamppb.New(r.Ends), Issued: r.issued(), Id: uint32(r.ID)}
}

func protoInvitation(i issued) *joinpb.Invitation {
	out := &joinpb.Invitation{
		Id: i.ID, Peer: i.Peer, Created: timestamppb.New(i.Created), Expires: timestamppb.New(i.Expires),
		Allow: rangeTexts(i.Allow),
	}
	if i.Used != nil {
		out.UsedBy, out.Used = i.Used.Peer, timestamppb.New(i.Used.Time)
	}
	return out
}

// origin tells a peer that a file of the operator's or a resource declares from one
// that joined.
func (m *Manager) origin(p peer.Status) string {
	switch dir := filepath.Dir(p.File); {
	case p.File == "":
	case dir == filepath.Clean(m.cfg.Dir):
		return originJoined
	case m.cfg.Resources != "" && dir == filepath.Clean(m.cfg.Resources):
		return originResource
	}
	return originFile
}

// declared says what declares a peer that did not join, and what to do for it not to be
// read; ok is false for one that joined.
func (m *Manager) declared(p peer.Status) (by, remedy string, ok bool) {
	switch m.origin(p) {
	case originJoined:
		return "", "", false
	case originResource:
		return "the ClusterPeer " + p.Name, "delete that", true
	}
	return p.File, "remove that file", true
}

// Invite makes an invitation.
func (s *membership) Invite(ctx context.Context, r *joinpb.InviteRequest) (*joinpb.InviteResponse, error) {
	ttl := defaultTTL
	if r.GetTtl() != nil {
		ttl = r.GetTtl().AsDuration()
	}
	if ttl < time.Second || ttl > maxTTL {
		return nil, status.Errorf(codes.InvalidArgument, "an invitation is good for 1s to %s, not for %s", maxTTL, ttl)
	}
	if r.GetPeer() != "" {
		if err := s.checkName(r.GetPeer()); err != nil {
			return nil, err
		}
	}
	allow, err := parseAllowed(r.GetAllow())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	addresses := r.GetAddresses()
	if len(addresses) == 0 {
		addresses = s.cfg.Addresses()
	}
	if err := CheckAddresses(addresses); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "where others reach this cluster: %v; give --address", err)
	}
	if err := s.reset(ctx, r.GetPeer()); err != nil {
		return nil, status.Errorf(codes.Unavailable, "let %s come back: %v", r.GetPeer(), err)
	}
	s.book.settle(ctx)
	now := time.Now()
	inv := newInvitation(s.cfg.Cluster.Name, addresses, [sha256.Size]byte(s.fingerprint()), now.Add(ttl))
	if err := s.invitations.make(ctx, inv, r.GetPeer(), allow, now); err != nil {
		return nil, status.Errorf(codes.Unavailable, "keep the invitation: %v", err)
	}
	s.log.Info("invitation is made", "invitation", inv.Name(), "cluster", r.GetPeer(), "expires", inv.Expires)
	return &joinpb.InviteResponse{
		Invitation: inv.Text(), Expires: timestamppb.New(inv.Expires), Addresses: addresses, Allow: rangeTexts(allow),
		HeldTo: strings.TrimSuffix(s.ownClaims()+"; "+s.outside(), "; "),
	}, nil
}

// reset sets the time back since when a cluster is out, if that is far ahead of the clock:
// who put it out had a clock that was, and no certificate could be used for as long. What
// was signed until now stays refused.
func (m *Manager) reset(ctx context.Context, name string) error {
	if name == "" {
		return nil
	}
	known, _, _, err := m.book.current(ctx, name)
	if err != nil || time.Until(known.Out) <= maxAhead {
		return err
	}
	err = m.book.update(ctx, name, func(old member) (member, error) {
		if time.Until(old.Out) > maxAhead {
			old.Out, old.Resets = time.Now().UTC().Truncate(time.Second).Add(time.Second), old.Resets+1
		}
		return old, nil
	})
	if err == nil {
		m.log.Warn("cluster was put out by a clock that was ahead, which is set right now", "cluster", name, "was_out_until", known.Out)
	}
	return err
}

// checkName refuses what can not be another cluster's name.
func (m *Manager) checkName(name string) error {
	if err := cluster.ValidateName(name); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	if name == m.cfg.Cluster.Name {
		return status.Errorf(codes.InvalidArgument, "%s is this cluster itself", name)
	}
	return nil
}

// steps sends what was done as it is.
func steps(stream grpc.ServerStreamingServer[joinpb.Step]) func(text string, warning bool) {
	return func(text string, warning bool) {
		_ = stream.Send(&joinpb.Step{Text: text, Warning: warning}) // who asked may have gone; the work goes on
	}
}

// Accept takes an invitation of another cluster.
func (s *membership) Accept(r *joinpb.AcceptRequest, stream grpc.ServerStreamingServer[joinpb.Step]) error {
	if len(r.GetAddresses()) > 0 {
		if err := CheckAddresses(r.GetAddresses()); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
	if err := s.accept(stream.Context(), r.GetInvitation(), r.GetAddresses(), r.GetOneWay(), steps(stream)); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return nil
}

// Disconnect puts a cluster out, and reads it no more.
func (s *membership) Disconnect(r *joinpb.DisconnectRequest, stream grpc.ServerStreamingServer[joinpb.Step]) error {
	if err := s.checkName(r.GetPeer()); err != nil {
		return err
	}
	// Who asked may hang up; half of it is worse than none.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(stream.Context()), disconnectTimeout)
	defer cancel()
	if err := s.disconnect(ctx, r.GetPeer(), steps(stream)); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	return nil
}

func (m *Manager) disconnect(ctx context.Context, name string, step func(string, bool)) error {
	p, ok := m.peer(name)
	before := m.book.member(name)
	// Certificates are to the second; what was valid before the next one is out.
	out := time.Now().UTC().Truncate(time.Second).Add(time.Second)
	m.cfg.Exclude(m.peerSubject(name), out)        // here at once, whatever etcd does
	used, err := m.invitations.takeBack(ctx, name) // before the record: see guest
	if err == nil {
		err = m.book.update(ctx, name, func(old member) (member, error) {
			if out.Before(old.Out) {
				out = old.Out
			}
			return member{Out: out, Resets: old.Resets}, nil
		})
	}
	if err != nil {
		return fmt.Errorf("%s is cut off at this replica until it restarts, and not put out yet, do it again: %w", name, err)
	}
	step(fmt.Sprintf("certificates of %s from before now are refused, its connections are cut", name), false)
	if !ok {
		if before.Reads == nil && before.Reader == nil && before.Out.IsZero() && !used {
			return fmt.Errorf("there is no peer %s here by a join or a file: look whether that is its name (`causeway peers`); certificates of that name are refused from now on all the same", name)
		}
		step(fmt.Sprintf("%s is not read", name), false)
		return nil
	}
	if by, remedy, ok := m.declared(p); ok {
		step(fmt.Sprintf("%s is declared by %s: %s, until then it is read", name, by, remedy), true)
		return nil
	}
	deadline, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for {
		if p, ok = m.peer(name); !ok {
			break
		}
		if by, remedy, ok := m.declared(p); ok {
			step(fmt.Sprintf("%s is declared by %s, too: %s, until then it is read", name, by, remedy), true)
			return nil
		}
		if !retry.Sleep(deadline, 50*time.Millisecond) {
			return fmt.Errorf("%s is put out, and what it said is still being taken out of use; `causeway status` shows it", name)
		}
	}
	step(fmt.Sprintf("%s is read no more, what it said is out of use", name), false)
	return nil
}

// Reach tries the addresses of another cluster from here.
func (s *membership) Reach(ctx context.Context, r *joinpb.ReachRequest) (*joinpb.ReachResponse, error) {
	if err := s.checkName(r.GetName()); err != nil {
		return nil, err
	}
	if err := CheckAddresses(r.GetAddresses()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if len(r.GetFingerprint()) != sha256.Size {
		return nil, status.Errorf(codes.InvalidArgument, "a fingerprint has %d bytes", sha256.Size)
	}
	reached, problems := reach(ctx, r.GetName(), [sha256.Size]byte(r.GetFingerprint()), r.GetAddresses())
	return &joinpb.ReachResponse{Reached: reached, Problems: problems}, nil
}
