package feed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

// helloTimeout is how long a new stream may stay silent.
const helloTimeout = 10 * time.Second

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Node returns the name of the node that a call comes from, by its
	// certificate; an error refuses the call. nil takes it from the call's
	// pki.Subject, which must be an agent's.
	Node       func(context.Context) (string, error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server gives the state to all agents that subscribe. Its methods may be
// called at any time, before it is registered too.
type Server struct {
	cfg          ServerConfig
	epoch        string
	metrics      *serverMetrics
	agents       *agents
	turns        *turns
	helloTimeout time.Duration

	mu    sync.Mutex
	table *table
	open  kindSet // the kinds of which table has all there is
	// changed is closed, and replaced, whenever there is something new to send.
	changed chan struct{}
}

// NewServer returns a server with an empty state that is not open yet. It
// starts nothing.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Node == nil {
		cfg.Node = agentNode
	}
	return &Server{
		cfg:          cfg,
		epoch:        rand.Text(),
		metrics:      newServerMetrics(cfg.Registerer),
		agents:       newAgents(),
		turns:        newTurns(maxTurns),
		helloTimeout: helloTimeout,
		table:        newTable(),
		changed:      make(chan struct{}),
	}
}

// Register adds the feed to a gRPC server, which ends the streams when it
// stops.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	feedpb.RegisterFeedServer(r, &rpc{server: s})
}

// Apply takes a change of the state; it never waits for an agent. Calls must
// not overlap, as their order is that of the state. What cannot be sent, which
// is only text that is not UTF-8, is as if it were deleted.
func (s *Server) Apply(d merge.Delta) {
	changes := s.encode(d)

	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.table.apply(changes) {
		return
	}
	s.metrics.count(s.table)
	if s.open != 0 {
		s.wake()
	}
}

// Open says that the state of these kinds, without any of all kinds, is
// complete: subscribers get it from now on, until now they waited and kept
// what they had. Calling it again does nothing.
func (s *Server) Open(kinds ...Kind) {
	open := setOf(kinds...)
	if len(kinds) == 0 {
		open = allKinds()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open|open != s.open {
		s.open |= open
		s.wake()
	}
}

// Agents returns the agents that are connected and those that were in the last
// hour, sorted by node.
func (s *Server) Agents() []AgentStatus {
	s.mu.Lock()
	n, open := s.table.n, s.open
	s.mu.Unlock()
	return s.agents.list(time.Now(), func(a Applied, known kindSet) bool {
		given, ours := s.given(a.Revision)
		return ours && open != 0 && given == open&known && a.Revision.N == n && (a.Mesh == nil || a.Mesh.Revision == a.Revision)
	})
}

// Revision returns the newest state's, as agents of this version are told it.
func (s *Server) Revision() Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision(s.open & allKinds())
}

// revision names the newest state for an agent that has been given these
// kinds. The kinds are a part of the epoch: an agent that was given fewer has
// missed what became known of the others before. The caller holds s.mu.
func (s *Server) revision(given kindSet) Revision {
	return Revision{Epoch: s.epoch + "." + strconv.FormatUint(uint64(given), 16), N: s.table.n}
}

// given returns the kinds that an agent at r has been given, and false when r
// is not of this server.
func (s *Server) given(r Revision) (kindSet, bool) {
	epoch, text, _ := strings.Cut(r.Epoch, ".")
	if epoch != s.epoch {
		return 0, false
	}
	kinds, err := strconv.ParseUint(text, 16, 64)
	return kindSet(kinds), err == nil
}

func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// errNotAgent is returned for a caller that has no business with the feed.
var errNotAgent = errors.New("the feed is for agents: call it with a certificate of role agent")

func agentNode(ctx context.Context) (string, error) {
	subject, ok := pki.SubjectFromContext(ctx)
	if !ok {
		return "", fmt.Errorf("no client certificate: %w", errNotAgent)
	}
	if subject.Role != pki.RoleAgent {
		return "", fmt.Errorf("certificate of %s: %w", subject, errNotAgent)
	}
	return subject.Name, nil
}
