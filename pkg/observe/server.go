package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/observe/observepb"
	"github.com/causeway-mesh/causeway/pkg/pki"
)

const (
	// maxListeners bounds what may be asked of agents at a time.
	maxListeners = 32
	// allRate is how many events a second all agents may send together, each of
	// them an equal part, but minRate to maxRate.
	allRate = 10000
	minRate = 5
	maxRate = 1000
	// allRecall is how many remembered events all agents may send one listener,
	// each of them an equal part.
	allRecall = 100000
)

// Errors that callers may want to tell apart.
var (
	// ErrTooMany is returned when there are as many listeners as there may be.
	ErrTooMany = errors.New("too many listen to dropped packets already")
	// ErrReplaced ends an agent's stream when its node has a newer one.
	ErrReplaced = errors.New("the node asked again on another connection")
	// ErrNotAgent is returned for a caller that is no agent.
	ErrNotAgent = errors.New("events are taken from agents: call with a certificate of role agent")
)

// BookOf returns the Read of a ServerConfig for what an API server knows.
func BookOf(e *merge.Engine) func(func(Book)) {
	return func(use func(Book)) { e.Read(func(s *merge.State) { use(s) }) }
}

// ServerConfig is what a Server needs.
type ServerConfig struct {
	// Read lends what says who is who to the function that it is given, until that
	// returns. It may be called from any goroutine.
	Read       func(func(Book))
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Server asks agents for what listeners want to see, and gives it to them. Its
// methods are safe for concurrent use and never wait for an agent or a listener,
// but for Listener.Next.
type Server struct {
	log     *slog.Logger
	metrics *serverMetrics
	names   names

	mu        sync.Mutex
	agents    map[string]*agent // by node
	listeners map[uint64]*Listener
	lastID    uint64
}

// agent is one agent's Await.
type agent struct {
	node string
	end  context.CancelCauseFunc
	// changed has one element when something else may be wanted.
	changed chan struct{}
	recalls []*Listener // to ask for
}

// NewServer returns a server without agents. It starts nothing.
func NewServer(cfg ServerConfig) *Server {
	return &Server{
		log: cfg.Logger, metrics: newServerMetrics(cfg.Registerer), names: names{read: cfg.Read},
		agents: map[string]*agent{}, listeners: map[uint64]*Listener{},
	}
}

// Register adds the agents' service to a gRPC server. Calls must carry the
// pki.Subject of who makes them.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	observepb.RegisterObserveServer(r, &rpc{server: s})
}

// rpc keeps the generated methods off Server.
type rpc struct {
	observepb.UnimplementedObserveServer
	server *Server
}

// nodeOf returns the node of the agent that calls.
func nodeOf(ctx context.Context) (string, error) {
	subject, ok := pki.SubjectFromContext(ctx)
	if !ok {
		return "", status.Errorf(codes.PermissionDenied, "no client certificate: %s", ErrNotAgent)
	}
	if subject.Role != pki.RoleAgent {
		return "", status.Errorf(codes.PermissionDenied, "certificate of %s: %s", subject, ErrNotAgent)
	}
	return subject.Name, nil
}

// Await tells one agent what is wanted of it until its stream ends.
func (r *rpc) Await(_ *observepb.AwaitRequest, stream grpc.ServerStreamingServer[observepb.Wanted]) error {
	name, err := nodeOf(stream.Context())
	if err != nil {
		return err
	}
	s := r.server
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	a := &agent{node: name, end: end, changed: make(chan struct{}, 1)}
	s.join(a)
	defer s.leave(a)
	var told *observepb.Wanted
	for {
		wanted := s.wanted(a)
		if len(wanted.GetRecalls()) > 0 || !proto.Equal(told, wanted) {
			if err := stream.Send(wanted); err != nil {
				return err
			}
			wanted.Recalls = nil
			told = wanted
		}
		select {
		case <-a.changed:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), ErrReplaced) {
				return status.Error(codes.Aborted, ErrReplaced.Error())
			}
			return ctx.Err()
		}
	}
}

// Send takes what an agent sends.
func (r *rpc) Send(ctx context.Context, request *observepb.SendRequest) (*observepb.SendResponse, error) {
	name, err := nodeOf(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(request.GetEvents()); n > maxSend {
		return nil, status.Errorf(codes.InvalidArgument, "%d events in one call, %d are allowed", n, maxSend)
	}
	s := r.server
	events := make([]Event, 0, len(request.GetEvents()))
	for _, m := range request.GetEvents() {
		e, err := eventFromProto(m)
		if err != nil {
			s.metrics.refused.Inc()
			s.log.Debug("refused an event", "node", name, "error", err)
			continue
		}
		events = append(events, e)
	}
	s.metrics.received.Add(float64(len(events)))
	if s.isWanted(name, request.GetRecall()) {
		s.give(name, request.GetRecall(), s.names.resolve(name, events), request.GetLost())
	}
	return &observepb.SendResponse{}, nil
}

// join makes a stream the one of its node and ends an older one: when a
// connection was cut, the new one may be seen before the old one is missed.
func (s *Server) join(a *agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.agents[a.node]
	if old != nil {
		old.end(ErrReplaced)
	}
	s.agents[a.node] = a
	s.metrics.agents.Set(float64(len(s.agents)))
	for _, l := range s.listeners {
		if old == nil {
			l.change(a.node, Back)
		}
		if l.pending[a.node] {
			a.recalls = append(a.recalls, l)
		}
	}
}

func (s *Server) leave(a *agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.agents[a.node] != a {
		return
	}
	delete(s.agents, a.node)
	s.metrics.agents.Set(float64(len(s.agents)))
	for _, l := range s.listeners {
		l.change(a.node, Away)
	}
}

// wanted returns what is wanted of an agent, and takes what it is to be asked
// once.
func (s *Server) wanted(a *agent) *observepb.Wanted {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &observepb.Wanted{}
	for _, id := range sortedIDs(s.listeners) {
		if l := s.listeners[id]; l.follow && l.filter.allowsNode(a.node) {
			out.Filters = append(out.Filters, filterToProto(l.filter))
		}
	}
	for _, l := range a.recalls {
		if s.listeners[l.id] == l {
			out.Recalls = append(out.Recalls, &observepb.Recall{Id: l.id, Filter: filterToProto(l.filter), Last: uint32(l.share())})
		}
	}
	a.recalls = nil
	if len(out.Filters) > 0 {
		out.Rate = uint32(min(max(allRate/max(len(s.agents), 1), minRate), maxRate))
	}
	return out
}

func sortedIDs(listeners map[uint64]*Listener) []uint64 {
	ids := make([]uint64, 0, len(listeners))
	for id := range listeners {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// isWanted reports whether anybody may be interested in what a node sends.
func (s *Server) isWanted(name string, recall uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if recall != 0 {
		l := s.listeners[recall]
		return l != nil && l.pending[name]
	}
	for _, l := range s.listeners {
		if l.follow && l.filter.allowsNode(name) {
			return true
		}
	}
	return false
}

// give hands events to those who listen.
func (s *Server) give(name string, recall uint64, events []*Seen, lost uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if recall != 0 {
		if l := s.listeners[recall]; l != nil {
			l.remember(name, events)
		}
		return
	}
	for _, l := range s.listeners {
		l.happen(name, events, lost)
	}
}

// wake lets the agents that a filter is about look at what is wanted of them.
// The caller holds s.mu.
func (s *Server) wake(f Filter) {
	for name, a := range s.agents {
		if !f.allowsNode(name) {
			continue
		}
		select {
		case a.changed <- struct{}{}:
		default:
		}
	}
}

// Listen lets somebody see the events that the filter allows: of those that
// agents remember the last ones, at most so many in all, and with follow what
// happens from now on until Close.
func (s *Server) Listen(f Filter, last int, follow bool) (*Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.listeners) >= maxListeners {
		return nil, fmt.Errorf("%d listeners: %w", maxListeners, ErrTooMany)
	}
	s.lastID++
	l := newListener(s, s.lastID, f, last, follow)
	for name, a := range s.agents {
		if !f.allowsNode(name) {
			continue
		}
		l.nodes = append(l.nodes, name)
		if l.last > 0 {
			l.pending[name] = true
			a.recalls = append(a.recalls, l)
		}
	}
	slices.Sort(l.nodes)
	s.listeners[l.id] = l
	s.metrics.listeners.Set(float64(len(s.listeners)))
	l.begin()
	s.wake(f)
	return l, nil
}
