package feed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/feed/feedpb"
)

const (
	// batchBytes is about how large a message becomes.
	batchBytes = 256 << 10
	// maxText cuts what an agent may make the server keep for people.
	maxText = 1024
)

// rpc keeps the generated methods off Server.
type rpc struct {
	feedpb.UnimplementedFeedServer
	server *Server
}

// subscription is one stream while it lasts.
type subscription struct {
	server *Server
	stream grpc.BidiStreamingServer[feedpb.Report, feedpb.Message]
	node   string
	// hello gets the first report, joined the agent that it makes; joined is
	// closed when the subscription ends.
	hello  chan *feedpb.Report
	joined chan *agent
	// buckets gets what the agent answers to Ask.
	buckets chan *feedpb.Buckets
	// late ends the stream of an agent that reads too slowly.
	late func()

	// The sender's own: what the agent knows of, what of it is complete up to
	// revision n, the digests that it began with, and whether it was sent
	// anything: an agent that has the newest state is told so.
	known, given kindSet
	n            uint64
	roots        map[Kind]digest
	begun        bool
}

// Subscribe serves one agent until its stream ends.
func (r *rpc) Subscribe(stream grpc.BidiStreamingServer[feedpb.Report, feedpb.Message]) error {
	s := r.server
	node, err := s.cfg.Node(stream.Context())
	if err != nil {
		s.metrics.refused.WithLabelValues("certificate").Inc()
		return status.Error(codes.PermissionDenied, err.Error())
	}
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	sub := &subscription{
		server: s, stream: stream, node: node,
		hello: make(chan *feedpb.Report, 1), joined: make(chan *agent, 1), buckets: make(chan *feedpb.Buckets),
		late: func() { end(errTooSlow) },
	}
	defer close(sub.joined)
	// It ends with the stream, which ends when this method returns.
	go func() { end(sub.receive(ctx)) }()

	hello, err := sub.awaitHello(ctx)
	if err != nil {
		s.metrics.refused.WithLabelValues("hello").Inc()
		return err
	}
	return sub.serve(ctx, end, hello)
}

func (sub *subscription) serve(ctx context.Context, end context.CancelCauseFunc, hello *feedpb.Hello) error {
	s := sub.server
	sub.greet(hello)
	g, replaced := s.agents.join(sub.node, clip(hello.GetVersion()), sub.known, end, time.Now())
	log := s.cfg.Logger.With("node", sub.node)
	log.Info("agent connected", "version", clip(hello.GetVersion()), "replaced", replaced)
	s.metrics.subscribers.Inc()
	sub.joined <- g

	// A Send waits for an agent that does not read, whatever ctx says, until
	// this method returns. So the sender may outlive it, but not by much.
	done := make(chan error, 1)
	go func() { done <- sub.send(ctx) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	s.metrics.subscribers.Dec()
	s.agents.leave(g, time.Now())
	log.Info("agent disconnected", "reason", err)
	switch {
	case errors.Is(err, errReplaced):
		return status.Error(codes.Aborted, err.Error())
	case errors.Is(err, errTooSlow):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, io.EOF):
		return nil // the agent has nothing more to say: it stops
	}
	return err
}

// receive takes what the agent says until the stream ends, and returns why.
func (sub *subscription) receive(ctx context.Context) error {
	first, err := sub.stream.Recv()
	if err != nil {
		return err
	}
	sub.hello <- first
	g := <-sub.joined
	if g == nil {
		return nil
	}
	for {
		report, err := sub.stream.Recv()
		if err != nil {
			return err
		}
		switch r := report.GetReport().(type) {
		case *feedpb.Report_Applied:
			sub.server.agents.applied(g, appliedFromProto(r.Applied))
		case *feedpb.Report_Buckets:
			select {
			case sub.buckets <- r.Buckets:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
}

// awaitHello returns the agent's first words, or the error to end with.
func (sub *subscription) awaitHello(ctx context.Context) (*feedpb.Hello, error) {
	timeout := time.NewTimer(sub.server.helloTimeout)
	defer timeout.Stop()
	select {
	case first := <-sub.hello:
		hello := first.GetHello()
		if hello == nil {
			return nil, status.Error(codes.InvalidArgument, "the first message of a stream must be Hello")
		}
		if hello.GetNode() != sub.node {
			return nil, status.Error(codes.PermissionDenied, fmt.Sprintf(
				"the agent calls itself node %q but its certificate is that of node %q: start it with --node-name=%s or give it the other's certificate",
				clip(hello.GetNode()), sub.node, sub.node))
		}
		return hello, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-timeout.C:
		return nil, status.Error(codes.DeadlineExceeded, fmt.Sprintf("no Hello within %s", sub.server.helloTimeout))
	}
}

// split takes from resources as many as a message should carry.
func split(resources [][]byte) (first, rest [][]byte, size int) {
	for i, r := range resources {
		if i > 0 && size+len(r) > batchBytes {
			return resources[:i], resources[i:], size
		}
		size += len(r)
	}
	return resources, nil, size
}

func revisionToProto(r Revision) *feedpb.Revision {
	return &feedpb.Revision{Epoch: r.Epoch, N: r.N}
}

func revisionFromProto(m *feedpb.Revision) Revision {
	return Revision{Epoch: m.GetEpoch(), N: m.GetN()}
}

func appliedToProto(a Applied) *feedpb.Applied {
	return &feedpb.Applied{
		Revision: revisionToProto(a.Revision),
		Counts: &feedpb.Counts{
			Services:  uint64(a.Counts.Services),
			Frontends: uint64(a.Counts.Frontends),
			Backends:  uint64(a.Counts.Backends),

			Nodes:      uint64(a.Counts.Nodes),
			Identities: uint64(a.Counts.Identities),
			Addresses:  uint64(a.Counts.Addresses),
		},
		Error: clip(a.Error),
		Mesh:  meshToProto(a.Mesh),
	}
}

func appliedFromProto(m *feedpb.Applied) Applied {
	revision := revisionFromProto(m.GetRevision())
	revision.Epoch = clip(revision.Epoch)
	return Applied{
		Revision: revision,
		Counts: Counts{
			Services:  int(m.GetCounts().GetServices()),
			Frontends: int(m.GetCounts().GetFrontends()),
			Backends:  int(m.GetCounts().GetBackends()),

			Nodes:      int(m.GetCounts().GetNodes()),
			Identities: int(m.GetCounts().GetIdentities()),
			Addresses:  int(m.GetCounts().GetAddresses()),
		},
		Error: clip(m.GetError()),
		Mesh:  meshFromProto(m.GetMesh()),
	}
}

// clip cuts text for people to maxText bytes, without half characters.
func clip(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "")
}
