package join

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

const (
	// logEvery is how often at most strangers make us log.
	logEvery = 10 * time.Second
	// offerTimeout is from the call to the offer, exchangeTimeout to the end.
	offerTimeout    = 10 * time.Second
	exchangeTimeout = time.Minute
	// maxPEM bounds what the other side sends to be kept, an authority or a chain,
	// in bytes each.
	maxPEM = 16 << 10
)

// inviter is the side that made the invitation. Whoever calls has no certificate.
type inviter struct {
	joinpb.UnimplementedJoinServer
	*Manager

	limiter *stranger.Limiter
	places  stranger.Places
	// rare bounds what strangers can write into our log while etcd is away.
	rare rate.Sometimes
}

func newInviter(m *Manager) *inviter {
	return &inviter{Manager: m, limiter: stranger.NewLimiter(), rare: rate.Sometimes{Interval: logEvery}}
}

// Authority tells anybody the authority's certificate, which is no secret.
func (s *inviter) Authority(context.Context, *joinpb.AuthorityRequest) (*joinpb.AuthorityResponse, error) {
	return &joinpb.AuthorityResponse{Authority: s.cfg.Authority.CertPEM()}, nil
}

// stream is the inviter's end of an exchange.
type stream = grpc.BidiStreamingServer[joinpb.JoinRequest, joinpb.JoinResponse]

// Join is the exchange. What it refuses is said in words to who asks, counted,
// and, when the secret was right, logged.
func (s *inviter) Join(stream stream) error {
	ctx, cancel := context.WithTimeout(stream.Context(), exchangeTimeout)
	defer cancel()
	g, err := s.meet(ctx, stream)
	if err != nil {
		return err
	}
	if err := s.admit(ctx, stream, g); err != nil {
		s.log.Warn("cluster was not let join", "invitation", hex.EncodeToString(g.offer.GetId()), "cluster", g.facts.Name, "error", err)
		return err
	}
	s.metrics.joins.Inc()
	s.log.Info("cluster joined", "invitation", hex.EncodeToString(g.offer.GetId()), "cluster", g.facts.Name, "read", len(g.offer.GetAuthority()) > 0, "claims", claimsText(g.facts.Claims))
	return nil
}

// guest is a cluster whose secret was right.
type guest struct {
	offer *joinpb.Offer
	facts Facts
	inv   offered
	// known is what was known of it before the invitation was looked up. Who puts
	// a cluster out takes its invitations back first, then changes the record: so
	// whoever slips in between holds a certificate that is older than Out.
	known member
}

// meet waits for an offer with the secret of an invitation.
func (s *inviter) meet(ctx context.Context, stream stream) (g guest, err error) {
	first, cancel := context.WithTimeout(ctx, offerTimeout)
	defer cancel()
	mine := s.places.Enter(cancel)
	defer s.places.Leave(mine)
	request, err := receive(first, stream)
	if !s.places.Heard(mine) {
		return g, s.refuse(reasonBusy, codes.Unavailable, "too many ask to join at this moment, try again")
	}
	if err != nil {
		return g, s.refuse(reasonMalformed, codes.InvalidArgument, "no offer came: %v", err)
	}
	g.offer = request.GetOffer()
	if g.offer == nil {
		return g, s.refuse(reasonMalformed, codes.InvalidArgument, "an exchange begins with an offer")
	}
	if g.facts, err = ParseFacts(g.offer.GetFacts()); err != nil {
		return g, s.refuse(reasonMalformed, codes.InvalidArgument, "what the joining cluster says of itself: %v", err)
	}
	if len(g.offer.GetAuthority()) > maxPEM {
		return g, s.refuse(reasonMalformed, codes.InvalidArgument, "the authority has more than %d bytes", maxPEM)
	}
	if g.known, _, _, err = s.book.current(ctx, g.facts.Name); err == nil {
		g.inv, err = s.invitations.prove(ctx, g.offer.GetId(), g.offer.GetSecret())
	}
	switch {
	case err == nil:
		s.cfg.Proven(ctx)
		return g, nil
	case errors.Is(err, errUnknown):
		wait, ok := s.limiter.Fail(stranger.CallerAddress(ctx), time.Now())
		if !ok {
			return g, s.refuse(reasonBusy, codes.ResourceExhausted, "too many wrong tries from this address")
		}
		s.places.Leave(mine)
		retry.Sleep(ctx, wait)
		return guest{}, s.refuse(reasonSecret, codes.Unauthenticated, "%v", err)
	}
	return g, s.unavailable(err)
}

// unavailable is for our own trouble, which anybody can see who asks: all hear of it,
// and the log now and then.
func (s *inviter) unavailable(err error) error {
	s.rare.Do(func() {
		s.log.Warn("invitation can not be looked up, further ones are not said for a while", "error", err)
	})
	return s.refuse(reasonInternal, codes.Unavailable, "invitations can not be looked up at present, try again")
}

// admit does what the offer asks for, if it may be.
func (s *inviter) admit(ctx context.Context, stream stream, g guest) error {
	key := stranger.KeyOf(g.offer.GetRequest())
	if err := s.invitations.open(ctx, g.offer.GetId(), g.inv, g.facts.Name, key, time.Now()); err != nil {
		return s.refuse(reasonInvitation, codes.FailedPrecondition, "%v", err)
	}
	if err := s.check(ctx, g); err != nil {
		return err
	}
	chain, err := s.sign(ctx, g.facts.Name, g.known.Out, g.offer.GetRequest())
	if err != nil {
		return s.refuse(reasonMalformed, codes.InvalidArgument, "%v", err)
	}
	if err := s.invitations.use(ctx, g.offer.GetId(), g.inv, g.facts.Name, key, time.Now()); err != nil {
		return s.refuse(reasonInvitation, codes.FailedPrecondition, "%v", err)
	}
	answer := &joinpb.Answer{Facts: protoFacts(s.facts()), Chain: chain}
	if len(g.offer.GetAuthority()) == 0 {
		if err := s.admitReader(ctx, g, chain); err != nil {
			return err
		}
		return send(stream, answer)
	}
	return s.readBack(ctx, stream, g, answer)
}

// admitReader keeps the name of a cluster that is not read: no other one gets it.
func (s *inviter) admitReader(ctx context.Context, g guest, chain []byte) error {
	ends, err := endOf(chain)
	if err == nil {
		err = s.keepReader(ctx, g.facts.Name, g.known, reader{Ends: ends, Invitation: hex.EncodeToString(g.offer.GetId())})
	}
	if errors.Is(err, errPutOut) || errors.Is(err, errOvertaken) {
		return s.refuse(reasonInvitation, codes.FailedPrecondition, "%s may not read this cluster: %v", g.facts.Name, err)
	}
	if err != nil {
		return s.refuse(reasonInternal, codes.Unavailable, "that %s reads this cluster can not be kept: %v", g.facts.Name, err)
	}
	return nil
}

// check looks for all that speaks against a cluster before anything changes.
func (s *inviter) check(ctx context.Context, g guest) error {
	theirs, offer, inv := g.facts, g.offer, g.inv
	if inv.Created.Before(g.known.Out) { // whoever it was made for
		return s.refuse(reasonInvitation, codes.FailedPrecondition,
			"%s was put out after the invitation was made, and comes back by a newer one only: `causeway invite --peer %s`", theirs.Name, theirs.Name)
	}
	wrong := s.unfit(theirs)
	add := func(format string, args ...any) { wrong = append(wrong, problem{text: fmt.Sprintf(format, args...)}) }
	known := g.known.Reads
	_, isPeer := s.peer(theirs.Name)
	again := known != nil && known.Invitation == hex.EncodeToString(offer.GetId())
	if reads := g.known.Reader; reads != nil && known == nil && inv.Peer == "" && reads.Invitation != hex.EncodeToString(offer.GetId()) {
		add("a cluster %s reads %s already, since %s; if it is to join anew, make an invitation for it: `causeway invite --peer %s`",
			theirs.Name, s.cfg.Cluster.Name, reads.Since.Format(time.RFC3339), theirs.Name)
	}
	if (isPeer || known != nil) && inv.Peer == "" && !again {
		add("%s has a peer %s already; if it is to join anew, make an invitation for it: `causeway invite --peer %s`",
			s.cfg.Cluster.Name, theirs.Name, theirs.Name)
	}
	if len(offer.GetAuthority()) > 0 {
		for _, text := range inv.exceeds(theirs) {
			add("%s", text)
		}
		for _, text := range s.unreadable(ctx, theirs, offer) {
			add("%s", text)
		}
	}
	if len(wrong) > 0 {
		s.logTaken(theirs.Name, wrong)
		return s.refuse(reasonUnfit, codes.FailedPrecondition, "%s", told(wrong))
	}
	return nil
}

// logTaken says at home what a guest is not told: which other cluster has what it wants.
func (s *inviter) logTaken(name string, wrong []problem) {
	if slices.ContainsFunc(wrong, func(p problem) bool { return p.guest != "" }) {
		s.log.Warn("joining cluster wants what another one has", "cluster", name, "problems", said(wrong))
	}
}

// unreadable returns why we could not read the joining cluster. Of the authority in
// the offer it leaves the one certificate that it has looked at.
func (s *inviter) unreadable(ctx context.Context, theirs Facts, offer *joinpb.Offer) []string {
	authority, sum, err := stranger.CheckAuthority(theirs.Name, offer.GetAuthority())
	if err != nil {
		return []string{"the authority that was sent: " + err.Error()}
	}
	offer.Authority = authority
	if err := CheckAddresses(theirs.Addresses); err != nil {
		return []string{fmt.Sprintf("the addresses of %s: %v", theirs.Name, err)}
	}
	reached, problems := reach(ctx, theirs.Name, sum, theirs.Addresses)
	if len(reached) > 0 {
		return nil
	}
	return []string{fmt.Sprintf("%s can not reach %s: %s; give the addresses by which it can with --address, or join with --one-way",
		s.cfg.Cluster.Name, theirs.Name, strings.Join(problems, ", "))}
}

// readBack asks the joining cluster for a certificate in return, and keeps it as a
// peer.
func (s *inviter) readBack(ctx context.Context, stream stream, g guest, answer *joinpb.Answer) error {
	offer, theirs := g.offer, g.facts
	key, request, err := pki.NewSigningRequest()
	if err != nil {
		return s.refuse(reasonInternal, codes.Internal, "%v", err)
	}
	answer.Request = request
	if err := send(stream, answer); err != nil {
		return err
	}
	back, err := receive(ctx, stream)
	if err != nil || back.GetCertificate() == nil {
		return s.refuse(reasonMalformed, codes.InvalidArgument, "the exchange broke off before the certificate came back")
	}
	chain := back.GetCertificate().GetChain()
	if len(chain) > maxPEM {
		return s.refuse(reasonMalformed, codes.InvalidArgument, "the chain has more than %d bytes", maxPEM)
	}
	if _, err := s.checkChain(theirs.Name, offer.GetAuthority(), chain, key); err != nil {
		return s.refuse(reasonMalformed, codes.InvalidArgument, "%v", err)
	}
	_, sum, _ := stranger.CheckAuthority(theirs.Name, offer.GetAuthority()) // check has seen it
	reached, _ := reach(ctx, theirs.Name, sum, theirs.Addresses)
	if len(reached) == 0 {
		reached = theirs.Addresses // it was reached a moment ago
	}
	err = s.keep(ctx, theirs.Name, g.known, reading{
		Endpoints: endpoints(reached), CA: string(offer.GetAuthority()), Cert: string(chain), Key: string(key),
		Invitation: hex.EncodeToString(offer.GetId()), ID: theirs.ID, Claims: theirs.Claims,
	})
	if errors.Is(err, errPutOut) || errors.Is(err, errOvertaken) {
		return s.refuse(reasonInvitation, codes.FailedPrecondition, "%s is not kept as a peer: %v", theirs.Name, err)
	}
	if taken, ok := errors.AsType[takenError](err); ok {
		s.logTaken(theirs.Name, taken.problems)
		return s.refuse(reasonUnfit, codes.FailedPrecondition, "%s is not kept as a peer: %v: %s", theirs.Name, errTaken, told(taken.problems))
	}
	if err != nil {
		return s.refuse(reasonInternal, codes.Unavailable, "%s can not be kept as a peer: %v", theirs.Name, err)
	}
	return stream.Send(&joinpb.JoinResponse{Step: &joinpb.JoinResponse_Done{Done: &joinpb.Done{}}})
}

// errPutOut is for a cluster that was put out while it joined.
var errPutOut = errors.New("it was put out meanwhile, and needs a new invitation to come back")

// errOvertaken is for a cluster whose name another one got while it joined.
var errOvertaken = errors.New("another cluster of that name joined meanwhile, and nobody takes a name over that way")

// overtaken refuses to put a cluster in the place of one that has the name since known was
// read. The other side decides how long that is: it may hold the exchange open. The same
// cluster, by another exchange at the same time, is no other one.
func (m *Manager) overtaken(name string, known, now member, ca string) error {
	has, had := now.Reads, known.Reads
	if has == nil || had != nil && had.origin() == has.origin() {
		return nil
	}
	if sum, _, err := stranger.Fingerprint([]byte(ca)); err == nil && m.book.knows(name, has, sum) {
		return nil
	}
	return errOvertaken
}

// keep makes another cluster a peer, unless since known was read it was put out, another
// one got its name, or its id or what it claims has become another one's: that is a
// takenError.
func (m *Manager) keep(ctx context.Context, name string, known member, r reading) error {
	r.Since = time.Now().UTC().Truncate(time.Second)
	return m.book.admit(ctx, name, m.judge(Facts{Name: name, ID: r.ID, Claims: r.Claims}), func(old member) (member, error) {
		if !old.Out.Equal(known.Out) {
			return old, errPutOut
		}
		if err := m.overtaken(name, known, old, r.CA); err != nil {
			return old, err
		}
		if r.OneWay { // it may have joined since it was looked at
			if err := old.declarable(name); err != nil {
				return old, err
			}
		}
		next := member{Reads: &r, Out: old.Out, Resets: old.Resets}
		if r.OneWay || old.Reader.issued() { // a join for both directions takes the place of one for one
			next.Reader = old.Reader
		}
		return next, nil
	})
}

func endpoints(addresses []string) []string {
	out := slices.Clone(addresses)
	for i, a := range out {
		out[i] = "https://" + a
	}
	return out
}

// refuse counts a refusal and returns what the caller is told.
func (s *inviter) refuse(why reason, code codes.Code, format string, args ...any) error {
	s.metrics.refusals.WithLabelValues(string(why)).Inc()
	return status.Errorf(code, format, args...)
}

func send(stream stream, answer *joinpb.Answer) error {
	return stream.Send(&joinpb.JoinResponse{Step: &joinpb.JoinResponse_Answer{Answer: answer}})
}

// receive is stream's Recv with a deadline. The caller's return from the handler
// ends what still waits.
func receive(ctx context.Context, stream stream) (*joinpb.JoinRequest, error) {
	type result struct {
		request *joinpb.JoinRequest
		err     error
	}
	done := make(chan result, 1)
	go func() {
		request, err := stream.Recv()
		done <- result{request, err}
	}()
	select {
	case r := <-done:
		return r.request, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
