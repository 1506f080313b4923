package gateway

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/causeway-mesh/causeway/pkg/pki"
)

// errEnded is the cause of a context that ended with the caller's certificate.
var errEnded = errors.New("certificate ended")

// allowed returns the methods, or the beginnings of methods where they end in
// a dot or a slash, that a role may call.
func allowed(role pki.Role) []string {
	switch role {
	case pki.RolePeer:
		return []string{"/etcdserverpb.KV/Range", "/etcdserverpb.Watch/Watch", "/causeway.renewal.v1.Renewal/Renew", "/causeway.rotation.v1.Holder/Trust"}
	case pki.RoleAgent:
		return []string{"/causeway.feed.", "/causeway.observe.", "/causeway.probe.", "/causeway.renewal.", "/causeway.rotation.v1.Holder/Trust"}
	case pki.RoleAdmin:
		return []string{"/causeway.admin.", "/causeway.join.v1.Membership/", "/causeway.stranger.v1.Tokens/", "/causeway.rotation.v1.Rotation/"}
	case roleNone: // who joins or begins has no certificate yet; the services ask for a secret
		return []string{
			"/causeway.join.v1.Join/Authority", "/causeway.join.v1.Join/Join",
			"/causeway.stranger.v1.Enrolment/Authority", "/causeway.stranger.v1.Enrolment/Enrol",
		}
	default:
		return nil
	}
}

func mayCall(role pki.Role, method string) bool {
	for _, m := range allowed(role) {
		whole := !strings.HasSuffix(m, ".") && !strings.HasSuffix(m, "/")
		if m == method || !whole && strings.HasPrefix(method, m) {
			return true
		}
	}
	return false
}

// access decides about each call, before any service sees it.
type access struct {
	refusals *refusals
	excluded *Exclusions
}

// admit returns the context of a call that the caller may make: it knows the
// subject, and ends with the certificate.
func (a *access) admit(ctx context.Context, method string) (context.Context, context.CancelFunc, error) {
	c, ok := connectionOf(ctx)
	if ok && !c.known && mayCall(roleNone, method) {
		ctx, cancel := context.WithCancel(ctx)
		return ctx, cancel, nil
	}
	if !ok || !c.known {
		return nil, nil, a.refuseAnonymous(ctx)
	}
	if c.left() <= 0 {
		return nil, nil, a.refusals.refuse(ctx, reasonCertificate, codes.Unauthenticated,
			"the client certificate %s ended at %s", c.subject, c.end().UTC().Format(time.RFC3339))
	}
	if since, out := a.excluded.since(c); out {
		time.AfterFunc(farewell, c.cut)
		return nil, nil, a.refusals.refuse(ctx, reasonExcluded, codes.Unauthenticated,
			"the client certificate %s was taken back at %s: cluster %s put its holder out, which needs a new invitation to come back",
			c.subject, since.UTC().Format(time.RFC3339), c.subject.Cluster)
	}
	if !mayCall(c.subject.Role, method) {
		return nil, nil, a.refusals.refuse(ctx, reasonRole, codes.PermissionDenied,
			"%s may not call %s", c.subject, method)
	}
	ctx, cancel := c.lasting(pki.ContextWithSubject(ctx, c.subject))
	return ctx, cancel, nil
}

// begin refuses the calls of who has no certificate as soon as their headers are
// read: what they carry is never waited for, nor kept. So it does with more calls
// than the holder of a certificate may have. It is called for each stream, and must
// not block.
func (a *access) begin(ctx context.Context, info *tap.Info) (context.Context, error) {
	c, ok := connectionOf(ctx)
	if ok && c.known {
		return a.beginKnown(ctx, c)
	}
	if !ok || !mayCall(roleNone, info.FullMethodName) {
		return nil, a.refuseAnonymous(ctx)
	}
	if c.streams.Add(1) > anonymousStreams {
		c.streams.Add(-1)
		return nil, a.refusals.refuse(ctx, reasonLimit, codes.ResourceExhausted,
			"a connection without a certificate may have %d calls at once", anonymousStreams)
	}
	context.AfterFunc(ctx, func() { c.streams.Add(-1) }) // gRPC ends it with the stream
	return ctx, nil
}

func (a *access) beginKnown(ctx context.Context, c *connection) (context.Context, error) {
	if c.holder.calls.Add(1) > maxHolderCalls {
		c.holder.calls.Add(-1)
		return nil, a.refusals.refuse(ctx, reasonLimit, codes.ResourceExhausted,
			"%s may have %d calls at once on all connections together", c.subject, maxHolderCalls)
	}
	context.AfterFunc(ctx, func() { c.holder.calls.Add(-1) })
	return ctx, nil
}

func (a *access) refuseAnonymous(ctx context.Context) error {
	return a.refusals.refuse(ctx, reasonAnonymous, codes.Unauthenticated,
		"this call needs a client certificate of this cluster's authority")
}

func (a *access) unary(
	ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler,
) (any, error) {
	ctx, cancel, err := a.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	defer cancel()
	return handler(ctx, request)
}

func (a *access) stream(
	server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler,
) error {
	ctx, cancel, err := a.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	defer cancel()
	err = handler(server, &admitted{ServerStream: stream, ctx: ctx})
	if errors.Is(context.Cause(ctx), errEnded) {
		return status.Error(codes.Unauthenticated, "the client certificate ended while the stream was open")
	}
	return err
}

// admitted is a stream with the context of its admission.
type admitted struct {
	grpc.ServerStream

	ctx context.Context //nolint:containedctx // it is the stream's
}

func (s *admitted) Context() context.Context { return s.ctx }

func connectionOf(ctx context.Context) (*connection, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, false
	}
	c, ok := p.AuthInfo.(*connection)
	return c, ok
}
