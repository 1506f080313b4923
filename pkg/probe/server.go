package probe

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/probe/probepb"
)

const (
	// Stale is how old a report is when its agent is no longer heard.
	Stale = 4 * reportTime
	// keptFor is how long a report is kept.
	keptFor = time.Hour
)

// ErrNotAgent is returned for a caller that is no agent.
var ErrNotAgent = errors.New("reports are taken from agents: call with a certificate of role agent")

// ServerConfig is what NewServer needs.
type ServerConfig struct {
	Registerer prometheus.Registerer
}

// Server keeps the newest report of each node. Its methods are safe for
// concurrent use. Node names come from certificates, which bounds it.
type Server struct {
	received prometheus.Counter

	mu      sync.Mutex
	reports map[string]*Report
}

// NewServer returns a Server without reports.
func NewServer(cfg ServerConfig) *Server {
	s := &Server{reports: map[string]*Report{}}
	s.received = promauto.With(cfg.Registerer).NewCounter(prometheus.CounterOpts{
		Name: "causeway_probe_reports_total", Help: "Reports of agents on the way to other clusters.",
	})
	promauto.With(cfg.Registerer).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "causeway_probe_reporting_agents", Help: "Agents whose report on the way to other clusters is not old.",
	}, s.fresh)
	return s
}

// Register adds the agents' service to a gRPC server. Calls must carry the
// pki.Subject of who makes them.
func (s *Server) Register(r grpc.ServiceRegistrar) { probepb.RegisterProbeServer(r, &rpc{server: s}) }

// rpc keeps the generated methods off Server.
type rpc struct {
	probepb.UnimplementedProbeServer
	server *Server
}

// Report implements the agents' service.
func (r *rpc) Report(ctx context.Context, m *probepb.ReportRequest) (*probepb.ReportResponse, error) {
	subject, ok := pki.SubjectFromContext(ctx)
	if !ok || subject.Role != pki.RoleAgent {
		return nil, status.Error(codes.PermissionDenied, ErrNotAgent.Error())
	}
	r.server.take(subject.Name, reportFromProto(m, time.Now()))
	return &probepb.ReportResponse{}, nil
}

func (s *Server) take(node string, r *Report) {
	s.received.Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports[node] = r
}

// Reports returns the newest of each node; callers do not change them.
func (s *Server) Reports() map[string]*Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.reports, func(_ string, r *Report) bool { return time.Since(r.Time) > keptFor })
	return maps.Clone(s.reports)
}

func (s *Server) fresh() float64 {
	n := 0
	for _, r := range s.Reports() {
		if time.Since(r.Time) < Stale {
			n++
		}
	}
	return float64(n)
}
