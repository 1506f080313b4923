package token

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// maxSlow is by how much Kubernetes' clock may be behind ours.
const maxSlow = 5 * time.Minute

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
	if err := s.looksRight(token, time.Now()); err != nil {
		return kube.Holder{}, s.wrong(ctx, reasonAccount, "%v", err)
	}
	holder, err := s.ask(ctx, token)
	switch {
	case errors.Is(err, errTurn):
		return kube.Holder{}, s.refuse(reasonBusy, codes.ResourceExhausted, "%v", err)
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

// errTurn is for a token that Kubernetes was not asked about in time.
var errTurn = errors.New("too many ask for a certificate by a service account's token, try again")

// ask asks Kubernetes about a token: about few at once, and one after the other for
// an address that has shown wrong ones.
func (s *enrolment) ask(ctx context.Context, token string) (kube.Holder, error) {
	from := stranger.CallerAddress(ctx)
	done, err := s.reviews.Take(ctx, from, s.limiter.Over(from, time.Now()))
	if err != nil {
		return kube.Holder{}, errTurn
	}
	defer done()
	return s.cfg.Reviewer.Review(ctx, token, stranger.Audience)
}

// audiences are a token's: one text, or a list (RFC 7519, 4.1.3).
type audiences []string

func (a *audiences) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// looksRight refuses what can not be a token of the agents' service account by what
// it says of itself, which is not believed: so Kubernetes is not asked about anything
// that anybody sends.
func (s *enrolment) looksRight(token string, now time.Time) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return fmt.Errorf("%w: it is no JSON Web Token", kube.ErrToken)
	}
	var says struct {
		Audiences audiences `json:"aud"`
		Subject   string    `json:"sub"`
		Expires   float64   `json:"exp"`
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(text, &says) != nil {
		return fmt.Errorf("%w: it is no JSON Web Token", kube.ErrToken)
	}
	account, ok := strings.CutPrefix(says.Subject, "system:serviceaccount:")
	account = strings.Replace(account, ":", "/", 1)
	switch {
	case !ok:
		return fmt.Errorf("%w: it is of no service account", kube.ErrToken)
	case !slices.Contains(says.Audiences, stranger.Audience):
		return fmt.Errorf("%w: not for the audience %q", kube.ErrToken, stranger.Audience)
	case says.Expires < float64(now.Add(-maxSlow).Unix()):
		return fmt.Errorf("%w: it has ended", kube.ErrToken)
	case account != s.cfg.Account:
		return fmt.Errorf("the token is of the service account %.300s, those of agents are of %s (--agent-service-account)", account, s.cfg.Account)
	}
	return nil
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
