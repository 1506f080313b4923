package token

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

const (
	// maxTTL bounds how long a token is good, defaultTTL is what it is where
	// nothing is said.
	maxTTL     = 30 * 24 * time.Hour
	defaultTTL = time.Hour
	// enrolTimeout bounds one call, its wait included.
	enrolTimeout = time.Minute
)

// reason is why somebody got no certificate, as the metric's label has it.
type reason string

const (
	reasonSecret    reason = "secret"    // no such token, or not its secret
	reasonToken     reason = "token"     // ended, taken back, or used by another key
	reasonAccount   reason = "account"   // a service account's token that does not do
	reasonMalformed reason = "malformed" // not a signing request that is taken
	reasonBusy      reason = "busy"      // too many wrong tries
	reasonInternal  reason = "internal"  // our own trouble
)

// Config is what New needs. All fields are required, but for those that say otherwise.
type Config struct {
	// Cluster is our own name.
	Cluster   string
	Authority *pki.Authority
	// TTL is for how long certificates are signed.
	TTL  time.Duration
	Etcd *kvstore.Client
	// Addresses returns host:port by which agents reach the gateway.
	Addresses func() []string
	// Account is the service account of the agents' pods, as namespace/name: who
	// holds a token of one gets the certificate of its node's agent. None when empty;
	// else Reviewer is needed.
	Account  string
	Reviewer Reviewer
	// Nodes returns the names of the cluster's nodes; nil or none when they are not known.
	Nodes func() []string

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server makes tokens and takes them. Its methods are safe for concurrent use.
type Server struct {
	cfg      Config
	store    store
	limiter  *stranger.Limiter
	reviews  *stranger.Turns
	enrolled prometheus.Counter
	refusals *prometheus.CounterVec
}

// New returns a Server that serves nothing before Register.
func New(cfg Config) *Server {
	with := promauto.With(cfg.Registerer)
	s := &Server{
		cfg: cfg, store: store{cfg.Etcd}, limiter: stranger.NewLimiter(), reviews: stranger.NewTurns(),
		enrolled: with.NewCounter(prometheus.CounterOpts{
			Name: "causeway_token_enrolments_total", Help: "Certificates that agents got for a token, ours or their service account's.",
		}),
		refusals: with.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_token_refusals_total", Help: "Askings for an agent's first certificate that were refused, by reason.",
		}, []string{"reason"}),
	}
	for _, why := range []reason{reasonSecret, reasonToken, reasonAccount, reasonMalformed, reasonBusy, reasonInternal} {
		s.refusals.WithLabelValues(string(why))
	}
	return s
}

// Register adds the services to a gRPC server: one for agents without a certificate,
// one for the command line.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	strangerpb.RegisterEnrolmentServer(r, &enrolment{Server: s})
	strangerpb.RegisterTokensServer(r, &tokens{Server: s})
}

// enrolment answers those without a certificate.
type enrolment struct {
	strangerpb.UnimplementedEnrolmentServer
	*Server
}

// Authority tells anybody the authority's certificate, which is no secret.
func (s *enrolment) Authority(context.Context, *strangerpb.AuthorityRequest) (*strangerpb.AuthorityResponse, error) {
	return &strangerpb.AuthorityResponse{Authority: s.cfg.Authority.CertPEM()}, nil
}

// Enrol signs for who has a token. What it refuses is said in words to who asks,
// counted, and, when the secret was right, logged.
func (s *enrolment) Enrol(ctx context.Context, r *strangerpb.EnrolRequest) (*strangerpb.EnrolResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	if r.GetServiceAccountToken() != "" {
		return s.enrolAccount(ctx, r)
	}
	proven, text, err := s.store.prove(ctx, r.GetId(), r.GetSecret())
	if err != nil {
		return nil, s.unproven(ctx, err)
	}
	log := s.cfg.Logger.With("token", hex.EncodeToString(r.GetId()), "node", proven.Node)
	chain, err := s.admit(ctx, r, proven, text)
	if err != nil {
		log.Warn("agent got no certificate for its token", "error", err)
		return nil, err
	}
	s.enrolled.Inc()
	log.Info("agent got a certificate for its token")
	return &strangerpb.EnrolResponse{Chain: chain}, nil
}

// unproven answers who has no token.
func (s *enrolment) unproven(ctx context.Context, err error) error {
	if !errors.Is(err, errUnknown) {
		s.cfg.Logger.Warn("token can not be looked up", "error", err)
		return s.refuse(reasonInternal, codes.Unavailable, "tokens can not be looked up at present, try again")
	}
	return s.wrong(ctx, reasonSecret, "%v", err)
}

// admit signs for the key of a proven token, and takes the token for it.
func (s *enrolment) admit(ctx context.Context, r *strangerpb.EnrolRequest, proven record, text []byte) ([]byte, error) {
	key, now := stranger.KeyOf(r.GetRequest()), time.Now()
	if err := proven.open(key, now); err != nil {
		return nil, s.refuse(reasonToken, codes.FailedPrecondition, "%v", err)
	}
	chain, err := s.sign(proven.Node, r.GetRequest())
	if err != nil {
		return nil, err
	}
	err = s.store.take(ctx, r.GetId(), r.GetSecret(), proven, text, key, now)
	switch {
	case errors.Is(err, errUsed), errors.Is(err, errEnded), errors.Is(err, errRevoked), errors.Is(err, errUnknown):
		return nil, s.refuse(reasonToken, codes.FailedPrecondition, "%v", err)
	case err != nil:
		return nil, s.refuse(reasonInternal, codes.Unavailable, "the token can not be taken at present: %v", err)
	}
	return chain, nil
}

// sign signs for the agent of a node.
func (s *Server) sign(node string, request []byte) ([]byte, error) {
	chain, err := s.cfg.Authority.Sign(pki.Request{Role: pki.RoleAgent, Name: node, TTL: s.cfg.TTL}, request)
	if errors.Is(err, pki.ErrRequest) {
		return nil, s.refuse(reasonMalformed, codes.InvalidArgument, "%v", err)
	}
	if err != nil {
		return nil, s.refuse(reasonInternal, codes.Internal, "the certificate could not be signed: %v", err)
	}
	return chain, nil
}

// refuse counts a refusal and returns what the caller is told.
func (s *Server) refuse(why reason, code codes.Code, format string, args ...any) error {
	s.refusals.WithLabelValues(string(why)).Inc()
	return status.Errorf(code, format, args...)
}

// tokens answers the command line.
type tokens struct {
	strangerpb.UnimplementedTokensServer
	*Server
}

// Make makes a token for a node.
func (s *tokens) Make(ctx context.Context, r *strangerpb.MakeRequest) (*strangerpb.MakeResponse, error) {
	ttl := defaultTTL
	if r.GetTtl() != nil {
		ttl = r.GetTtl().AsDuration()
	}
	if ttl < time.Second || ttl > maxTTL {
		return nil, status.Errorf(codes.InvalidArgument, "a token is good for 1s to %s, not for %s", maxTTL, ttl)
	}
	subject := pki.Subject{Cluster: s.cfg.Cluster, Role: pki.RoleAgent, Name: r.GetNode()}
	if err := subject.Validate(); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	addresses := r.GetAddresses()
	if len(addresses) == 0 {
		addresses = s.cfg.Addresses()
	}
	if err := stranger.CheckAddresses(addresses); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "where agents reach this cluster: %v; give --address", err)
	}
	fingerprint, _, err := stranger.Fingerprint(s.cfg.Authority.CertPEM())
	if err != nil {
		return nil, status.Errorf(codes.Internal, "own authority: %v", err)
	}
	now := time.Now()
	pass := stranger.NewPass(s.cfg.Cluster, addresses, fingerprint, now.Add(ttl))
	pass.Node = r.GetNode()
	if err := s.store.keep(ctx, pass, now); err != nil {
		return nil, status.Errorf(codes.Unavailable, "keep the token: %v", err)
	}
	s.cfg.Logger.Info("agent's token is made", "token", pass.Name(), "node", pass.Node, "expires", pass.Expires)
	return &strangerpb.MakeResponse{
		Token: stranger.TokenText(pass), Expires: timestamppb.New(pass.Expires), Addresses: addresses, Warning: s.unknownNode(pass.Node),
	}, nil
}

// unknownNode says that a node is none of those that the cluster knows. Its agent may
// come first, so it has its token.
func (s *Server) unknownNode(node string) string {
	if s.cfg.Nodes == nil {
		return ""
	}
	known := s.cfg.Nodes()
	if len(known) == 0 || slices.Contains(known, node) {
		return ""
	}
	return fmt.Sprintf("%s knows no node %s: look whether that is the agent's --node-name; `causeway agent token --revoke %s` takes the token back", s.cfg.Cluster, node, node)
}

// List shows the tokens, without the secrets, which nobody has.
func (s *tokens) List(ctx context.Context, _ *strangerpb.ListRequest) (*strangerpb.ListResponse, error) {
	all, err := s.store.list(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "list the tokens: %v", err)
	}
	return &strangerpb.ListResponse{Tokens: protoTokens(all)}, nil
}

// Revoke takes back what is still good of a node's tokens.
func (s *tokens) Revoke(ctx context.Context, r *strangerpb.RevokeRequest) (*strangerpb.RevokeResponse, error) {
	taken, err := s.store.revoke(ctx, r.GetNode(), time.Now())
	for _, t := range taken {
		s.cfg.Logger.Info("agent's token is taken back", "token", t.ID, "node", t.Node)
	}
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "take the tokens of %q back, do it again: %v", r.GetNode(), err)
	}
	if len(taken) == 0 {
		return nil, status.Errorf(codes.NotFound, "no token of a node %q is good; `causeway agent token --list` shows all", r.GetNode())
	}
	return &strangerpb.RevokeResponse{Tokens: protoTokens(taken)}, nil
}

func protoTokens(all []listed) (out []*strangerpb.Token) {
	for _, t := range all {
		one := &strangerpb.Token{Id: t.ID, Node: t.Node, Created: timestamppb.New(t.Created), Expires: timestamppb.New(t.Expires)}
		if t.Used != nil {
			one.Used = timestamppb.New(t.Used.Time)
		}
		if !t.Revoked.IsZero() {
			one.Revoked = timestamppb.New(t.Revoked)
		}
		out = append(out, one)
	}
	return out
}
