package token

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/causeway-mesh/causeway/pkg/kube"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/stranger"
	"github.com/causeway-mesh/causeway/pkg/stranger/strangerpb"
)

// maxReviewed bounds the length of a service account's token that Kubernetes is
// asked about. Those that it gives have 1 to 2 KiB.
const maxReviewed = 16 << 10

// Reviewer asks Kubernetes who holds a token; see [kube.Client.Review].
type Reviewer interface {
	Review(ctx context.Context, token, audience string) (kube.Holder, error)
}

// enrolAccount signs for the agent of the node that Kubernetes gave a token to.
func (s *enrolment) enrolAccount(ctx context.Context, r *strangerpb.EnrolRequest) (*strangerpb.EnrolResponse, error) {
	if s.cfg.Account == "" {
		return nil, s.refuse(reasonAccount, codes.FailedPrecondition,
			"this cluster takes no tokens of service accounts: its API server runs without --agent-service-account")
	}
	holder, err := s.review(ctx, r)
	if err != nil {
		return nil, err
	}
	log := s.cfg.Logger.With("node", holder.Node, "pod", holder.Pod)
	chain, err := s.sign(holder.Node, r.GetRequest())
	if err != nil {
		log.Warn("agent got no certificate for its pod's token", "error", err)
		return nil, err
	}
	s.enrolled.Inc()
	log.Info("agent got a certificate for its pod's token")
	return &strangerpb.EnrolResponse{Chain: chain}, nil
}

// review returns who holds the request's token, who may have what is asked for.
func (s *enrolment) review(ctx context.Context, r *strangerpb.EnrolRequest) (kube.Holder, error) {
	token := r.GetServiceAccountToken()
	if len(token) > maxReviewed {
		return kube.Holder{}, s.wrong(ctx, reasonAccount, "a service account's token has no %d bytes", len(token))
	}
	holder, err := s.cfg.Reviewer.Review(ctx, token, stranger.Audience)
	switch {
	case errors.Is(err, kube.ErrToken):
		return kube.Holder{}, s.wrong(ctx, reasonAccount, "%v", err)
	case err != nil:
		s.cfg.Logger.Warn("service account's token can not be looked up", "error", err)
		return kube.Holder{}, s.refuse(reasonInternal, codes.Unavailable, "Kubernetes can not be asked about the token at present, try again")
	case holder.Account != s.cfg.Account:
		return kube.Holder{}, s.wrong(ctx, reasonAccount, "the token is of the service account %s, those of agents are of %s (--agent-service-account)", holder.Account, s.cfg.Account)
	case holder.Pod == "" || holder.Node == "":
		return kube.Holder{}, s.wrong(ctx, reasonAccount, "the token is not that of a pod on a node: it must be one that is projected into the agent's pod, by Kubernetes 1.32 or later")
	case holder.Node != r.GetNode():
		return kube.Holder{}, s.wrong(ctx, reasonAccount, "the token is of a pod on node %q, the certificate would be for node %q: is --node-name the name of the Node object?", holder.Node, r.GetNode())
	}
	return holder, nil
}

// wrong refuses who has not what is needed. Only such answers wait: behind a NodePort
// all callers may have one address.
func (s *enrolment) wrong(ctx context.Context, why reason, format string, args ...any) error {
	wait, ok := s.limiter.Fail(stranger.CallerAddress(ctx), time.Now())
	if !ok {
		return s.refuse(reasonBusy, codes.ResourceExhausted, "too many wrong tries from this address")
	}
	retry.Sleep(ctx, wait)
	return s.refuse(why, codes.Unauthenticated, format, args...)
}
