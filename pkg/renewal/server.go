// Package renewal gives holders of a cluster's certificates the next one over the
// connection that they have: peers and agents ask at two thirds of a
// certificate's life, and nothing is restarted or watched anew for it.
//
// Who still has a valid certificate gets another one for the same subject. Who
// has none any more is a stranger, and needs what strangers need.
package renewal

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/renewal/renewalpb"
)

// maxProblem is how much is kept of what an agent reports, or a gateway answers,
// in bytes.
const maxProblem = 512

// One subject may renew this often in the long run, and so many times at once: the
// replicas of a cluster share one.
const (
	renewEvery = time.Second
	renewBurst = 5
)

// ErrRole is returned for a caller whose certificate is not renewed so.
var ErrRole = errors.New("certificates of peers and agents are renewed here, no others")

var errReplaced = errors.New("the authority of the certificate was replaced: connect again with one of the new one")

// ServerConfig is what NewServer needs. All fields are required.
type ServerConfig struct {
	Authority *pki.Authority
	// AgentTTL and PeerTTL are for how long certificates are signed. One that is
	// good for longer is renewed for as long as it is, but by another authority.
	AgentTTL, PeerTTL time.Duration
	// Certificate returns that of who makes a call, Top the authority's that it was
	// verified by. Root is the authority of the newest one that the caller has shown
	// since. Extend lets the connection of a call go on until a time.
	Certificate func(context.Context) (*x509.Certificate, bool)
	Top         func(context.Context) (*x509.Certificate, bool)
	Root        func(context.Context) ([sha256.Size]byte, bool)
	Extend      func(context.Context, time.Time)
	Logger      *slog.Logger
	Registerer  prometheus.Registerer
}

// Standing is how a certificate stands.
type Standing struct {
	// Ends is zero when it is not known.
	Ends time.Time
	// Problem is why it is not renewed though it should be, "" for nothing.
	Problem string
}

// Server signs. Its methods are safe for concurrent use.
type Server struct {
	cfg    ServerConfig
	signed *prometheus.CounterVec

	mu     sync.Mutex
	agents map[string]Standing // by node, whose names come from certificates
	limits map[pki.Subject]*rate.Limiter
}

// NewServer returns a Server that knows of no agent.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{cfg: cfg, agents: map[string]Standing{}, limits: map[pki.Subject]*rate.Limiter{}}
	s.signed = promauto.With(cfg.Registerer).NewCounterVec(prometheus.CounterOpts{
		Name: "causeway_renewal_signed_total", Help: "Certificates that were signed for who had one, by role.",
	}, []string{"role"})
	for _, role := range []pki.Role{pki.RolePeer, pki.RoleAgent} {
		s.signed.WithLabelValues(string(role))
	}
	return s
}

// Register adds the service to a gRPC server. Calls must carry the pki.Subject of
// who makes them.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	renewalpb.RegisterRenewalServer(r, &rpc{server: s})
}

// Agent returns how the certificate of a node's agent stands by its last report.
func (s *Server) Agent(node string) Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.agents[node]
}

// rpc keeps the generated methods off Server.
type rpc struct {
	renewalpb.UnimplementedRenewalServer
	server *Server
}

// Renew implements the service.
func (r *rpc) Renew(ctx context.Context, m *renewalpb.RenewRequest) (*renewalpb.RenewResponse, error) {
	s := r.server
	subject, _ := pki.SubjectFromContext(ctx)
	old, ok := s.cfg.Certificate(ctx)
	ttl := s.ttl(subject.Role)
	if !ok || ttl == 0 {
		return nil, status.Error(codes.PermissionDenied, ErrRole.Error())
	}
	if !s.allow(subject) {
		return nil, status.Errorf(codes.ResourceExhausted, "%s renews too often: once in %s is enough", subject, renewEvery)
	}
	// It begins when the old one does: what takes certificates back from before a
	// time takes it back, too, also where that is heard of only later.
	request := pki.Request{Role: subject.Role, Name: subject.Name, TTL: ttl, Begins: old.NotBefore}
	trusted := prints(m.GetTrusted())
	of, verified := s.root(ctx)
	if !verified && !s.followed(ctx) {
		return nil, status.Error(codes.FailedPrecondition, errReplaced.Error())
	}
	// How long one of another authority is good for is for who has that one's key to say.
	if verified && of == s.signer(trusted) {
		request.TTL = max(ttl, time.Until(old.NotAfter))
	}
	chain, err := s.cfg.Authority.SignFor(trusted, request, m.GetRequest())
	if errors.Is(err, pki.ErrRequest) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var until time.Time
	if err == nil {
		until, err = endOf(chain)
	}
	if err != nil {
		s.cfg.Logger.Error("certificate is not renewed", "subject", subject.String(), "error", err)
		return nil, status.Error(codes.Internal, "the certificate could not be signed; the API server's log says why")
	}
	s.cfg.Extend(ctx, until)
	s.signed.WithLabelValues(string(subject.Role)).Inc()
	s.cfg.Logger.Info("certificate renewed", "subject", subject.String(), "ends", until)
	return &renewalpb.RenewResponse{Chain: chain}, nil
}

// root returns the authority that the caller's certificate is of, if that is trusted.
func (s *Server) root(ctx context.Context) (of [sha256.Size]byte, ok bool) {
	top, ok := s.cfg.Top(ctx)
	if !ok {
		return of, false
	}
	return s.cfg.Authority.RootOf(top)
}

// followed says that the caller, whose connection is from before the authority was
// replaced, has shown a certificate of one that is trusted since.
func (s *Server) followed(ctx context.Context) bool {
	root, ok := s.cfg.Root(ctx)
	return ok && slices.ContainsFunc(s.cfg.Authority.Roots(), func(r pki.Root) bool { return r.Fingerprint == root })
}

// signer returns the authority that signs for who trusts these.
func (s *Server) signer(trusted [][sha256.Size]byte) [sha256.Size]byte {
	roots := s.cfg.Authority.Roots()
	for _, r := range roots {
		if r.Signs && slices.Contains(trusted, r.Fingerprint) {
			return r.Fingerprint
		}
	}
	return roots[0].Fingerprint
}

// allow counts a renewal, and says whether it may be.
func (s *Server) allow(subject pki.Subject) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := s.limits[subject]
	if limit == nil {
		limit = rate.NewLimiter(rate.Every(renewEvery), renewBurst)
		s.limits[subject] = limit
	}
	return limit.Allow()
}

// ttl is 0 for roles that get none here.
func (s *Server) ttl(role pki.Role) time.Duration {
	switch role {
	case pki.RoleAgent:
		return s.cfg.AgentTTL
	case pki.RolePeer:
		return s.cfg.PeerTTL
	default:
		return 0
	}
}

// prints passes over what is no SHA-256.
func prints(texts [][]byte) (out [][sha256.Size]byte) {
	for _, text := range texts {
		if len(text) == sha256.Size {
			out = append(out, [sha256.Size]byte(text))
		}
	}
	return out
}

func endOf(chain []byte) (time.Time, error) {
	block, _ := pem.Decode(chain)
	if block == nil {
		return time.Time{}, fmt.Errorf("read the signed certificate: %w", pki.ErrCertificate)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the signed certificate: %w", err)
	}
	return cert.NotAfter, nil
}

// Report implements the service.
func (r *rpc) Report(ctx context.Context, m *renewalpb.ReportRequest) (*renewalpb.ReportResponse, error) {
	subject, ok := pki.SubjectFromContext(ctx)
	if !ok || subject.Role != pki.RoleAgent {
		return nil, status.Error(codes.PermissionDenied, "reports are taken from agents")
	}
	s := r.server
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agents[subject.Name] = Standing{Ends: time.Unix(m.GetEnds(), 0), Problem: clean(m.GetProblem())}
	return &renewalpb.ReportResponse{}, nil
}

// clean takes no text that a terminal would take for a command.
func clean(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxProblem)], "")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, text)
}
