package join

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/causeway-mesh/causeway/pkg/join/joinpb"
	"github.com/causeway-mesh/causeway/pkg/pki"
	"github.com/causeway-mesh/causeway/pkg/retry"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

const (
	// reachTimeout bounds a look at one address.
	reachTimeout = 10 * time.Second
	// syncTimeout is how long a join waits to be able to say that the peer is
	// read. It is made before that.
	syncTimeout = 20 * time.Second
	// busyTries is how often a gateway that has no place now is asked.
	busyTries = 5
)

// accept takes an invitation and says each step that was done. It can be repeated.
func (m *Manager) accept(ctx context.Context, text string, addresses []string, oneWay bool, step func(text string, warning bool)) error {
	inv, err := ParseInvitation(text)
	if err != nil {
		return err
	}
	if inv.Cluster == m.cfg.Cluster.Name {
		return fmt.Errorf("the invitation is from cluster %s, as this cluster is called itself: take it to the cluster that is to join", inv.Cluster)
	}
	if known := m.book.member(inv.Cluster).Reads; known != nil && known.Invitation == inv.Name() {
		step(fmt.Sprintf("%s joined by this invitation already, at %s", inv.Cluster, known.Since.Format(time.RFC3339)), false)
		return m.awaitSession(ctx, inv.Cluster, step)
	}
	known, _, _, err := m.book.current(ctx, inv.Cluster)
	if err != nil {
		return err
	}
	if err := m.replaceable(known, inv); err != nil {
		return err
	}
	reached, problems := reach(ctx, inv.Cluster, inv.Fingerprint, inv.Addresses)
	if len(reached) == 0 {
		return fmt.Errorf("%s is not reached: %s", inv.Cluster, strings.Join(problems, "; "))
	}
	step(fmt.Sprintf("%s answers at %s with the authority that the invitation names", inv.Cluster, strings.Join(reached, ", ")), false)
	if len(problems) > 0 {
		step("left out as it does not answer: "+strings.Join(problems, "; "), true)
	}
	got, err := m.exchange(ctx, inv, known.Out, reached[0], addresses, oneWay, step)
	if err != nil {
		return err
	}
	got.Endpoints, got.Invitation = endpoints(reached), inv.Name()
	if err := m.keep(ctx, inv.Cluster, known, got); err != nil {
		return err
	}
	step(fmt.Sprintf("%s is a peer of %s", inv.Cluster, m.cfg.Cluster.Name), false)
	return m.awaitSession(ctx, inv.Cluster, step)
}

// replaceable refuses an invitation in whose place another cluster of that name is
// read already: nobody takes a name over by handing out an invitation.
func (m *Manager) replaceable(known member, inv Invitation) error {
	if known.Reads == nil || m.book.knows(inv.Cluster, known.Reads, inv.Fingerprint) {
		return nil
	}
	sum, _, _ := stranger.Fingerprint([]byte(known.Reads.CA))
	return fmt.Errorf("there is a peer %s with another authority (fingerprint %s, in the invitation %s); if it is to be replaced, `causeway disconnect %s` first",
		inv.Cluster, hex.EncodeToString(sum[:8]), hex.EncodeToString(inv.Fingerprint[:8]), inv.Cluster)
}

// exchange makes the call and returns what it brought. out is since when the other
// cluster is out here, for sign.
func (m *Manager) exchange(
	ctx context.Context, inv Invitation, out time.Time, address string, addresses []string, oneWay bool, step func(string, bool),
) (reading, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	authority, err := fetchAuthority(ctx, address, inv.Cluster, inv.Fingerprint)
	if err != nil {
		return reading{}, err
	}
	mine, err := m.pendingKey(ctx, inv)
	if err != nil {
		return reading{}, err
	}
	step("a private key was made, which stays here", false)
	facts := m.facts()
	if len(addresses) > 0 {
		facts.Addresses = addresses
	}
	offer := &joinpb.Offer{Id: inv.ID[:], Secret: inv.Secret[:], Facts: protoFacts(facts), Request: []byte(mine.Request)}
	if !oneWay {
		offer.Authority = m.cfg.Authority.CertPEM()
	}
	conn, err := stranger.Dial(address, inv.Cluster, authority)
	if err != nil {
		return reading{}, err
	}
	defer func() { _ = conn.Close() }()
	chain, theirs, err := m.converse(ctx, inv.Cluster, out, conn, offer, []byte(mine.Key), authority, step)
	if err != nil {
		return reading{}, explain(inv.Cluster, err)
	}
	return reading{CA: string(authority), Cert: string(chain), Key: mine.Key, ID: theirs.ID, Claims: theirs.Claims}, nil
}

// converse is the joining side of the exchange. It returns what the other side signed
// and says of itself.
func (m *Manager) converse(
	ctx context.Context, inviter string, out time.Time, conn *grpc.ClientConn, offer *joinpb.Offer, key, authority []byte, step func(string, bool),
) (chain []byte, theirs Facts, err error) {
	stream, answer, err := open(ctx, conn, offer)
	if err != nil {
		return nil, theirs, err
	}
	if theirs, err = m.vet(inviter, answer); err != nil {
		return nil, theirs, err
	}
	step(heldTo(inviter, theirs.Claims), false)
	until, err := m.checkChain(inviter, authority, answer.GetChain(), key)
	if err != nil {
		return nil, theirs, err
	}
	step(fmt.Sprintf("%s signed a certificate to read it with, valid until %s", inviter, until.UTC().Format(time.RFC3339)), false)
	if len(offer.Authority) == 0 {
		return answer.GetChain(), theirs, nil
	}
	step(m.ownClaims(), false)
	if text := m.outside(); text != "" {
		step(text, true)
	}
	back, err := m.sign(ctx, inviter, out, answer.GetRequest())
	if err != nil {
		return nil, theirs, err
	}
	certificate := &joinpb.JoinRequest_Certificate{Certificate: &joinpb.Certificate{Chain: back}}
	if err := stream.Send(&joinpb.JoinRequest{Step: certificate}); err != nil {
		_, err = stream.Recv() // has the reason
		return nil, theirs, err
	}
	done, err := stream.Recv()
	if err != nil {
		return nil, theirs, err
	}
	if done.GetDone() == nil {
		return nil, theirs, errors.New("the exchange did not come to its end")
	}
	step(fmt.Sprintf("%s has a certificate to read this cluster with, and does", inviter), false)
	return answer.GetChain(), theirs, nil
}

// vet returns what the inviting cluster says of itself, unless that speaks against
// joining it.
func (m *Manager) vet(inviter string, answer *joinpb.Answer) (Facts, error) {
	theirs, err := ParseFacts(answer.GetFacts())
	if err != nil {
		return Facts{}, fmt.Errorf("what %s says of itself: %w", inviter, err)
	}
	if theirs.Name != inviter {
		return Facts{}, fmt.Errorf("%s calls itself %s", inviter, theirs.Name)
	}
	if wrong := m.unfit(theirs); len(wrong) > 0 {
		return Facts{}, errors.New(said(wrong))
	}
	if len(answer.GetChain()) > maxPEM {
		return Facts{}, fmt.Errorf("the chain that %s signed has more than %d bytes", inviter, maxPEM)
	}
	return theirs, nil
}

// open sends the offer and returns its answer. A gateway that has no place for
// strangers at this moment is asked again.
func open(ctx context.Context, conn *grpc.ClientConn, offer *joinpb.Offer) (joinpb.Join_JoinClient, *joinpb.Answer, error) {
	again := retry.Backoff{First: 200 * time.Millisecond, Limit: 2 * time.Second}
	for {
		stream, err := joinpb.NewJoinClient(conn).Join(ctx)
		if err != nil {
			return nil, nil, err
		}
		err = stream.Send(&joinpb.JoinRequest{Step: &joinpb.JoinRequest_Offer{Offer: offer}})
		var response *joinpb.JoinResponse
		if err == nil || status.Code(err) == codes.Unknown { // the reason comes with Recv
			response, err = stream.Recv()
		}
		if err == nil && response.GetAnswer() == nil {
			err = errors.New("no answer to the offer came")
		}
		if status.Code(err) == codes.Unavailable && again.Attempts() < busyTries && retry.Sleep(ctx, again.Next()) {
			continue
		}
		return stream, response.GetAnswer(), err
	}
}

// explain says who refused, and lets our own errors be.
func explain(inviter string, err error) error {
	if s, ok := status.FromError(err); ok {
		return fmt.Errorf("%s: %s", inviter, stranger.Clean(s.Message()))
	}
	return err
}

// pendingKey returns the key to join with: that of an earlier attempt with the
// same invitation, which broke off, or a new one.
func (m *Manager) pendingKey(ctx context.Context, inv Invitation) (pending, error) {
	if p := m.book.member(inv.Cluster).Pending; p != nil && p.Invitation == inv.Name() {
		return *p, nil
	}
	key, request, err := pki.NewSigningRequest()
	if err != nil {
		return pending{}, err
	}
	mine := pending{Invitation: inv.Name(), Key: string(key), Request: string(request)}
	err = m.book.update(ctx, inv.Cluster, func(old member) (member, error) {
		if p := old.Pending; p != nil && p.Invitation == mine.Invitation {
			mine = *p // another replica is at it, too: with one key both come to the end
		}
		old.Pending = &mine
		return old, nil
	})
	return mine, err
}

// awaitSession waits until the peer is read, for a while: it goes on by itself.
func (m *Manager) awaitSession(ctx context.Context, name string, step func(string, bool)) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	for {
		p, ok := m.peer(name)
		if ok && string(p.State) == "synced" {
			step(fmt.Sprintf("%s is read: synced", name), false)
			return nil
		}
		if !retry.Sleep(ctx, 100*time.Millisecond) {
			step(fmt.Sprintf("%s is not synced yet (%s %s); it goes on by itself, `causeway status` shows it", name, p.State, p.Reason), true)
			return nil
		}
	}
}

// reach tries addresses of a cluster that is known by the fingerprint of its
// authority, all at once. problems is about the others, in their order.
func reach(ctx context.Context, name string, fingerprint [sha256.Size]byte, addresses []string) (reached, problems []string) {
	errs := make([]error, len(addresses))
	var group sync.WaitGroup
	for i, address := range addresses {
		group.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, reachTimeout)
			defer cancel()
			_, errs[i] = fetchAuthority(ctx, address, name, fingerprint)
		})
	}
	group.Wait()
	for i, address := range addresses {
		if errs[i] == nil {
			reached = append(reached, address)
		} else {
			problems = append(problems, fmt.Sprintf("%s: %v", address, errs[i]))
		}
	}
	return reached, problems
}

// fetchAuthority asks who answers at address; see stranger.FetchAuthority.
func fetchAuthority(ctx context.Context, address, name string, fingerprint [sha256.Size]byte) ([]byte, error) {
	return stranger.FetchAuthority(ctx, address, name, fingerprint, func(ctx context.Context, conn grpc.ClientConnInterface) ([]byte, error) {
		answer, err := joinpb.NewJoinClient(conn).Authority(ctx, &joinpb.AuthorityRequest{})
		return answer.GetAuthority(), err
	})
}
