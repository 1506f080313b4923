package rotation

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/rotation/rotationpb"
)

// hold is how long a holder whose trust is right is kept waiting for a change.
const hold = 5 * time.Minute

// maxTrusted bounds what a holder may say that it trusts.
const maxTrusted = 64

// holders answers peers and agents.
type holders struct {
	rotationpb.UnimplementedHolderServer
	*Manager

	turns turns
}

// Each holder's certificate is looked at so often a second, and so often at once: as
// often as all replicas of a peer need to follow.
const (
	turnsPerSecond = 2
	turnsAtOnce    = 64
	// maxTurns bounds the memory: all are forgotten when there are more holders.
	maxTurns = 1 << 15
)

// turns spaces the questions of each holder: who does not wait for an answer, or asks
// with what is never right, waits for its turn. Safe for concurrent use.
type turns struct {
	mu  sync.Mutex
	all map[pki.Subject]*rate.Limiter
}

// take waits until it is s's turn, or ctx ends.
func (t *turns) take(ctx context.Context, s pki.Subject) error {
	t.mu.Lock()
	of := t.all[s]
	if of == nil {
		if t.all == nil || len(t.all) >= maxTurns {
			t.all = map[pki.Subject]*rate.Limiter{}
		}
		of = rate.NewLimiter(turnsPerSecond, turnsAtOnce)
		t.all[s] = of
	}
	t.mu.Unlock()
	return of.Wait(ctx)
}

// Trust implements the service.
func (s *holders) Trust(ctx context.Context, r *rotationpb.TrustRequest) (*rotationpb.TrustResponse, error) {
	subject, ok := pki.SubjectFromContext(ctx)
	if !ok {
		return nil, status.Error(codes.InvalidArgument, "nobody asks")
	}
	if n := len(r.GetTrusted()); n > maxTrusted {
		return nil, status.Errorf(codes.InvalidArgument,
			"%s trusts %d certificates, more than %d, and is told of no new authority: leave those of this cluster alone in its trust file", subject, n, maxTrusted)
	}
	if err := s.turns.take(ctx, subject); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	changed := s.cfg.Authority.Changed() // before it is looked at
	trusted := make([]sum, 0, len(r.GetTrusted()))
	for _, text := range r.GetTrusted() {
		if len(text) == sha256.Size {
			trusted = append(trusted, sum(text))
		}
	}
	if s.heard(ctx, subject, trusted, r.GetChain()) {
		wait := time.NewTimer(hold)
		defer wait.Stop()
		select {
		case <-changed:
		case <-wait.C:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	return &rotationpb.TrustResponse{Authorities: s.cfg.Authority.Bundle(), Renew: s.late(trusted, r.GetChain())}, nil
}

// heard takes in what a holder says of itself, and says whether that is as it should
// be.
func (m *Manager) heard(ctx context.Context, subject pki.Subject, trusted []sum, chain []byte) bool {
	shown, known := m.cfg.Certificate(ctx)
	leaf, root, ok := m.cfg.Authority.SignerOf(chain)
	if !known || !ok {
		return false
	}
	if s, err := pki.SubjectOf(leaf); err != nil || s != subject {
		return false
	}
	h := holdingOf(subject, leaf, root, time.Now())
	h.Trusts = trusted
	m.ledger.put(leaf, h)
	if !leaf.Equal(shown) {
		m.ledger.drop(shown)
	}
	m.cfg.Moved(ctx, root)
	return m.right(trusted) && !m.late(trusted, chain)
}

// right says that who trusts these need not change that.
func (m *Manager) right(trusted []sum) bool {
	replaced := m.cfg.Authority.Replaced()
	for _, r := range m.cfg.Authority.Roots() {
		if !slices.Contains(trusted, r.Fingerprint) {
			return false
		}
	}
	return !slices.ContainsFunc(trusted, func(p sum) bool { return hex.EncodeToString(p[:]) == replaced })
}

// late says that a certificate is to be renewed: another authority signs than the one
// that it is of, and its holder trusts that.
func (m *Manager) late(trusted []sum, chain []byte) bool {
	_, root, ok := m.cfg.Authority.SignerOf(chain)
	for _, r := range m.cfg.Authority.Roots() {
		if r.Signs {
			return ok && root != r.Fingerprint && slices.Contains(trusted, r.Fingerprint)
		}
	}
	return false
}

// operator answers the command line.
type operator struct {
	rotationpb.UnimplementedRotationServer
	*Manager
}

// Status says which authorities there are and who is behind.
func (s *operator) Status(context.Context, *rotationpb.StatusRequest) (*rotationpb.StatusResponse, error) {
	return s.status(), nil
}

// Start begins.
func (s *operator) Start(_ context.Context, r *rotationpb.StartRequest) (*rotationpb.StatusResponse, error) {
	if s.cfg.Shared && !r.GetOnlyReplica() {
		return nil, status.Error(codes.FailedPrecondition, "API servers that share an etcd sign with copies of one authority: stop all but this one until the end, then copy its pki directory to them;"+
			" when they are stopped, say so: causeway ca rotate --only-replica")
	}
	err := s.cfg.Authority.Begin()
	if errors.Is(err, pki.ErrStage) {
		return nil, status.Error(codes.FailedPrecondition, s.underWay())
	}
	if err != nil {
		s.log.Error("authority is not replaced", "error", err)
		return nil, status.Errorf(codes.Internal, "make the new authority: %v", err)
	}
	s.log.Info("the authority is being replaced: a new one is made and trusted besides")
	return s.status(), nil
}

// underWay says how far a replacement is, and what to do.
func (m *Manager) underWay() string {
	stage, started := m.cfg.Authority.Stage()
	text := fmt.Sprintf("the authority is being replaced already, since %s (%s), and one replacement has to end before the next: ", started.UTC().Format(time.RFC3339), stage)
	behind, byHand := m.behind(), m.byHand()
	switch {
	case len(behind) > 0:
		return text + fmt.Sprintf("%s still need the old authority; wait for them, or cut them off: causeway ca rotate --finish --force; causeway ca status says what each lacks", names(behind))
	case byHand != "":
		return text + fmt.Sprintf("it does not end by itself (%s), but by: causeway ca rotate --finish", byHand)
	}
	return text + fmt.Sprintf("nobody needs the old authority; it ends by itself %s after the start, or now: causeway ca rotate --finish", settle)
}

// Finish ends the old authority.
func (s *operator) Finish(ctx context.Context, r *rotationpb.FinishRequest) (*rotationpb.FinishResponse, error) {
	stage, _ := s.cfg.Authority.Stage()
	behind := s.behind()
	switch {
	case stage == pki.Single:
		return nil, status.Error(codes.FailedPrecondition, "there is one authority, and it is not being replaced")
	case len(behind) > 0 && !r.GetForce():
		return nil, status.Errorf(codes.FailedPrecondition, "%s: they would be cut off; wait for them, or cut them off with --force", names(behind))
	case stage == pki.Spreading && !r.GetForce():
		return nil, status.Error(codes.Unavailable, "the new authority does not sign yet; try again in a moment")
	}
	var lacking []Behind
	if stage == pki.Spreading {
		lacking = slices.DeleteFunc(slices.Clone(behind), func(b Behind) bool { return b.follows })
	}
	if len(behind) > 0 {
		s.log.Warn("the replacement of the authority goes on though some need the old one", "behind", names(behind))
	}
	// Who asked may hang up; half of it is worse than none.
	ctx = context.WithoutCancel(ctx)
	if stage == pki.Spreading {
		if err := s.replace(); err != nil {
			return nil, status.Errorf(codes.Internal, "let the new authority sign: %v", err)
		}
		// It waited for those that lack the new one: those that have it are to have the
		// time for a certificate of it.
		if !s.cfg.Authority.Smooth() {
			return &rotationpb.FinishResponse{Status: s.status(), Cut: protoBehind(lacking)}, nil
		}
	}
	if err := s.finish(ctx); err != nil {
		s.log.Error("the old authority is not ended", "error", err)
		return nil, status.Errorf(codes.Internal, "end the old authority: %v", err)
	}
	return &rotationpb.FinishResponse{Status: s.status(), Cut: protoBehind(behind)}, nil
}

// shownNames is how many holders a line names.
const shownNames = 20

// names says who is behind.
func names(all []Behind) string {
	var out []string
	for _, b := range all[:min(len(all), shownNames)] {
		out = append(out, fmt.Sprintf("%s %s", b.Role, b.Name))
	}
	if more := len(all) - shownNames; more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}

func (m *Manager) status() *rotationpb.StatusResponse {
	stage, started := m.cfg.Authority.Stage()
	out := &rotationpb.StatusResponse{Stage: string(stage), Holders: uint32(m.ledger.holders()), Behind: protoBehind(m.behind())}
	if stage != pki.Single {
		open, _ := m.open()
		settled := time.Now().Add(max(0, settle-open))
		if at := started.Add(settle); at.After(settled) {
			settled = at
		}
		out.Started, out.EndsAfter, out.ByHand = timestamppb.New(started), timestamppb.New(settled), m.byHand()
	}
	for _, r := range m.cfg.Authority.Roots() {
		out.Authorities = append(out.Authorities, &rotationpb.Authority{
			Fingerprint: hex.EncodeToString(r.Fingerprint[:]), Begins: timestamppb.New(r.Begins), Ends: timestamppb.New(r.Ends), Signs: r.Signs,
		})
	}
	return out
}

func protoBehind(all []Behind) (out []*rotationpb.Behind) {
	for _, b := range all {
		one := &rotationpb.Behind{Role: string(b.Role), Name: b.Name, Reason: b.Reason}
		if !b.Seen.IsZero() {
			one.Seen, one.Ends = timestamppb.New(b.Seen), timestamppb.New(b.Ends)
		}
		out = append(out, one)
	}
	return out
}
