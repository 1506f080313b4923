package feed

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/service"
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

// Server gives the state of the views to all agents that subscribe. Its
// methods may be called at any time, before it is registered too.
type Server struct {
	cfg          ServerConfig
	epoch        string
	metrics      *serverMetrics
	agents       *agents
	helloTimeout time.Duration

	mu    sync.RWMutex
	table *table
	open  bool
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

// Apply takes a change of the views; it never waits for an agent. Calls must
// not overlap, as their order is that of the state. What cannot be sent, which
// is only text that is not UTF-8, is as if it were deleted.
func (s *Server) Apply(d service.Delta) {
	changes := s.encode(d)

	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.table.apply(changes) {
		return
	}
	s.metrics.count(s.table)
	if s.open {
		s.wake()
	}
}

// Open says that the state is complete: subscribers get it from now on, until
// now they waited. Calling it again does nothing.
func (s *Server) Open() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		s.open = true
		s.wake()
	}
}

// Agents returns the agents that are connected and those that were in the last
// hour, sorted by node.
func (s *Server) Agents() []AgentStatus {
	s.mu.RLock()
	newest, open := Revision{Epoch: s.epoch, N: s.table.n}, s.open
	s.mu.RUnlock()
	list := s.agents.list(time.Now())
	for i := range list {
		list[i].Current = open && list[i].Connected && list[i].Applied.Revision == newest
	}
	return list
}

// Revision returns the newest state's.
func (s *Server) Revision() Revision {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return Revision{Epoch: s.epoch, N: s.table.n}
}

func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// encode does the work that needs no lock.
func (s *Server) encode(d service.Delta) []change {
	changes := make([]change, 0, len(d.Views)+len(d.Slices))
	for name, view := range d.Views {
		changes = append(changes, s.change(viewKey(name), view != nil, func() ([]byte, error) { return encodeView(view) }))
	}
	for k, slice := range d.Slices {
		changes = append(changes, s.change(sliceKey(k), slice != nil, func() ([]byte, error) { return encodeSlice(slice) }))
	}
	return changes
}

func (s *Server) change(k key, live bool, encode func() ([]byte, error)) change {
	if live {
		encoded, err := encode()
		if err == nil {
			return change{key: k, encoded: encoded}
		}
		s.cfg.Logger.Warn("resource cannot be sent to the nodes, they go without it",
			"service", k.slice.Service, "cluster", k.slice.Cluster, "error", err)
	}
	// A key that cannot be encoded was never sent, so nil is never sent either.
	encoded, _ := encodeDeleted(k)
	return change{key: k, encoded: encoded, deleted: true}
}

// update is what a subscriber is to be sent next.
type update struct {
	revision  Revision
	snapshot  bool
	resources [][]byte
}

// next waits until there is something newer than revision n, or anything at
// all with whole, and returns it.
func (s *Server) next(ctx context.Context, n uint64, whole bool) (update, error) {
	for {
		s.mu.RLock()
		u, changed := s.pending(n, whole), s.changed
		s.mu.RUnlock()
		if u != nil {
			return *u, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return update{}, context.Cause(ctx)
		}
	}
}

func (s *Server) pending(n uint64, whole bool) *update {
	if !s.open || (!whole && s.table.n == n) {
		return nil
	}
	u := &update{revision: Revision{Epoch: s.epoch, N: s.table.n}}
	if whole {
		u.resources, u.snapshot = s.table.all(), true
	} else {
		u.resources, u.snapshot = s.table.since(n)
	}
	return u
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
