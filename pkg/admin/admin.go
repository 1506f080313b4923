// Package admin answers what the command line asks of an API server. It reads,
// but for agreeing to what peers claim: what it is given is safe for concurrent use.
package admin

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/causeway-mesh/causeway/pkg/admin/adminpb"
	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/feed"
	"github.com/causeway-mesh/causeway/pkg/kube/mirror"
	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/observe"
	"github.com/causeway-mesh/causeway/pkg/peer"
	"github.com/causeway-mesh/causeway/pkg/probe"
	"github.com/causeway-mesh/causeway/pkg/process"
	"github.com/causeway-mesh/causeway/pkg/service"
	"github.com/causeway-mesh/causeway/pkg/source"
)

// Config is where a Server reads from. All fields are required.
type Config struct {
	Cluster      cluster.Config
	Version      string
	Started      time.Time
	ManifestsDir string
	// Kubernetes is the address of the Kubernetes API where that is the source.
	Kubernetes string
	Engine     *merge.Engine
	Status     *process.Status
	Peers      *peer.Manager
	Agents     func() []feed.AgentStatus
	Observe    *observe.Server
	Probe      *probe.Server
	// RouteReason says why packets go to a cluster as they do, "" where that was
	// set by hand.
	RouteReason func(cluster string) string
	// Listed says that the source has listed everything once.
	Listed         <-chan struct{}
	SourceProblems func() []source.Problem
	// RangeNotes say where flags and the Kubernetes API differ on the cluster's ranges.
	RangeNotes      func() []string
	PublishProblems func() []string
	// ClusterPeers says why these resources are not read, "" for nothing, and whether
	// the source has any.
	ClusterPeers func() (problem string, are bool)
	// Writes says why peers are not told what is new at present.
	Writes func() error
	// Etcd are the endpoints of an external etcd; nil for the embedded one.
	// Writer says which of the replicas that share it writes.
	Etcd   []string
	Writer func() kvstore.Standing
	// Mirror says how it stands with a service's remote backends in the Kubernetes
	// API, false where they are not written there.
	Mirror func(service.Name) (mirror.Standing, bool)
	// Gateway says how other clusters reach this one.
	Gateway func() Gateway
	// Certificates are those that are renewed by themselves.
	Certificates func() []Certificate
}

// Gateway is how other clusters reach this one.
type Gateway struct {
	// Addresses are host:port.
	Addresses []string
	// Service is what was found of the Service that leads to the gateway; empty where
	// none is named.
	Service source.Reached
}

// Server implements the admin service.
type Server struct {
	adminpb.UnimplementedAdminServer
	cfg Config
}

// New returns a Server.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Register adds the service to a gRPC server.
func (s *Server) Register(r grpc.ServiceRegistrar) { adminpb.RegisterAdminServer(r, s) }

// Status says how the cluster and all that it is joined to are.
func (s *Server) Status(context.Context, *adminpb.StatusRequest) (*adminpb.StatusResponse, error) {
	var counts map[string]merge.Counts
	var nodes []string
	var reaches []merge.Reach
	s.cfg.Engine.Read(func(state *merge.State) {
		counts = state.Counts()
		nodes = state.Nodes(s.cfg.Cluster.Name)
		reaches = state.Reaches()
	})
	out := &adminpb.StatusResponse{
		Cluster: &adminpb.Cluster{
			Name: s.cfg.Cluster.Name, Id: uint32(s.cfg.Cluster.ID), MaxConnectedClusters: uint32(s.cfg.Cluster.Size),
			Version: s.cfg.Version, Started: timestamppb.New(s.cfg.Started), Counts: protoCounts(counts[s.cfg.Cluster.Name]),
		},
		Source:          s.source(),
		Peers:           s.peers(counts),
		Agents:          mergeAgents(nodes, s.cfg.Agents(), len(reaches) > 0),
		PublishProblems: s.cfg.PublishProblems(),
		Reaches:         withPaths(s.withReasons(protoReaches(reaches)), s.cfg.Probe.Reports(), time.Now()),
	}
	at := s.cfg.Gateway()
	out.Gateway = &adminpb.Gateway{Addresses: at.Addresses, Service: at.Service.Service, Note: at.Service.Note}
	if len(s.cfg.Etcd) > 0 {
		out.Writer = s.writer()
		elsewhere(out.Agents)
	}
	for _, c := range s.cfg.Status.Conditions() {
		out.Conditions = append(out.Conditions, &adminpb.Condition{Name: c.Name, Ready: c.Reason == "", Reason: c.Reason})
	}
	out.Conditions = append(out.Conditions, condition("publishing", s.cfg.Writes()), certificates(s.cfg.Certificates(), time.Now()))
	if problem, are := s.cfg.ClusterPeers(); are {
		// Without them, peers are declared in other ways: ready all the same.
		out.Conditions = append(out.Conditions, &adminpb.Condition{Name: "clusterpeers", Ready: true, Reason: problem})
	}
	for _, p := range s.cfg.Peers.Problems() {
		out.PeerProblems = append(out.PeerProblems, &adminpb.PeerProblem{File: p.File, Message: p.Message})
	}
	out.Ready = ready(out)
	return out, nil
}

func condition(name string, err error) *adminpb.Condition {
	c := &adminpb.Condition{Name: name, Ready: err == nil}
	if err != nil {
		c.Reason = strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return c
}

// ready holds when nothing waits for a person or for time. A Service with a
// wrong annotation works with the default and does not count.
func ready(r *adminpb.StatusResponse) bool {
	for _, c := range r.Conditions {
		if !c.Ready {
			return false
		}
	}
	for _, p := range r.Peers {
		if !p.Ready {
			return false
		}
	}
	for _, a := range r.Agents {
		if !a.Ready {
			return false
		}
	}
	if w := r.Writer; w != nil && (w.Replica == "" || w.Error != "") {
		return false
	}
	return r.Source.Listed && len(r.Source.Problems) == 0 && len(r.PeerProblems) == 0
}

// elsewhere marks the agents that this replica does not see. They may be with
// another one, so they are no reason not to be ready.
func elsewhere(agents []*adminpb.Agent) {
	for _, a := range agents {
		if !a.Connected {
			a.Ready, a.Error = true, "not connected to this replica; ask the others"
		}
	}
}

func (s *Server) writer() *adminpb.Writer {
	now := s.cfg.Writer()
	out := &adminpb.Writer{Etcd: s.cfg.Etcd, Replica: now.Writer, Self: now.Self, Since: protoTime(now.Since)}
	if now.Err != nil {
		out.Error = now.Err.Error()
	}
	return out
}

func (s *Server) source() *adminpb.Source {
	out := &adminpb.Source{ManifestsDir: s.cfg.ManifestsDir, Kubernetes: s.cfg.Kubernetes, RangeNotes: s.cfg.RangeNotes()}
	select {
	case <-s.cfg.Listed:
		out.Listed = true
	default:
	}
	for _, p := range s.cfg.SourceProblems() {
		out.Problems = append(out.Problems, &adminpb.SourceProblem{
			File: p.File, Line: uint32(p.Line), Message: p.Message, Since: timestamppb.New(p.Since),
		})
	}
	return out
}

func (s *Server) peers(counts map[string]merge.Counts) []*adminpb.Peer {
	var out []*adminpb.Peer
	for _, p := range s.cfg.Peers.Status() {
		refused := make(map[string]uint32, len(p.Refused))
		for reason, n := range p.Refused {
			refused[reason] = uint32(n)
		}
		out = append(out, &adminpb.Peer{
			Name: p.Name, Id: uint32(p.ID), State: string(p.State), Reason: p.Reason, Since: timestamppb.New(p.Since),
			LastChange: protoTime(p.LastChange), Heartbeat: protoTime(p.Heartbeat), Endpoints: p.Endpoints,
			Counts: protoCounts(counts[p.Name]), Refused: refused, LastRefused: p.LastRefused,
			Ready: p.State == peer.Synced, WaitingRanges: uint32(p.Waiting),
		})
	}
	return out
}

// mergeAgents returns the agents that are known, and a line for each node of
// the cluster that has none. meshed says that they are to carry packets between
// clusters.
func mergeAgents(nodes []string, known []feed.AgentStatus, meshed bool) []*adminpb.Agent {
	isNode := make(map[string]bool, len(nodes))
	for _, n := range nodes {
		isNode[n] = true
	}
	var out []*adminpb.Agent
	seen := make(map[string]bool, len(known))
	for _, a := range known {
		if !a.Connected && !isNode[a.Node] {
			continue // an agent that left with its node
		}
		seen[a.Node] = true
		agent := &adminpb.Agent{
			Node: a.Node, Connected: a.Connected, Current: a.Current, Since: timestamppb.New(a.Since), Version: a.Version,
			Services: uint32(a.Applied.Counts.Services), Frontends: uint32(a.Applied.Counts.Frontends),
			Backends: uint32(a.Applied.Counts.Backends), Addresses: uint32(a.Applied.Counts.Addresses), Error: a.Applied.Error,
			Mesh:  protoMesh(a.Applied.Mesh),
			Ready: a.Connected && a.Current && a.Applied.Error == "" && (a.Applied.Mesh == nil || a.Applied.Mesh.Error == ""),
		}
		if meshed && a.Connected && agent.Mesh == nil {
			agent.Ready, agent.Mesh = false, &adminpb.AgentMesh{Error: "not carried yet, or the agent is of a version that does not"}
		}
		out = append(out, agent)
	}
	for _, n := range nodes {
		if !seen[n] {
			out = append(out, &adminpb.Agent{Node: n, Error: "no agent of this node has connected"})
		}
	}
	sortAgents(out)
	return out
}

// Services explains one service, or all that are global anywhere.
func (s *Server) Services(_ context.Context, r *adminpb.ServicesRequest) (*adminpb.ServicesResponse, error) {
	if (r.Namespace == "") != (r.Name == "") {
		return nil, status.Error(codes.InvalidArgument, "give both a namespace and a name, or neither")
	}
	out := &adminpb.ServicesResponse{}
	found := true
	s.cfg.Engine.Read(func(state *merge.State) {
		names := state.Services()
		if r.Name != "" {
			names = []service.Name{{Namespace: r.Namespace, Name: r.Name}}
		}
		for _, name := range names {
			e, ok := state.Explain(name)
			found = found && ok
			out.Services = append(out.Services, protoService(e))
		}
	})
	// Not above: it reads the engine's state itself.
	for _, e := range out.Services {
		if m, ok := s.cfg.Mirror(service.Name{Namespace: e.Namespace, Name: e.Name}); ok {
			e.Mirror = &adminpb.Mirror{Endpoints: uint32(m.Endpoints), Objects: uint32(m.Objects), Wanted: uint32(m.Wanted), Reason: m.Reason}
		}
	}
	if r.Name != "" && !found {
		return nil, status.Errorf(codes.NotFound, "no cluster of the mesh has a service %s/%s that is global", r.Namespace, r.Name)
	}
	return out, nil
}
