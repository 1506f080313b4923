package join

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

const (
	// maxTTL bounds how long an invitation is good, defaultTTL is what it is
	// where nothing is said.
	maxTTL     = 30 * 24 * time.Hour
	defaultTTL = 24 * time.Hour
	// remembered is how long after its end an invitation is kept, so that who
	// uses it hears that it ended rather than that nobody knows it.
	remembered = 7 * 24 * time.Hour
	// maxInvitations bounds how many there are at a time.
	maxInvitations = 1000
)

var (
	// errUnknown is for an invitation or a secret that this cluster does not have:
	// whoever guesses is not told which of them was wrong.
	errUnknown = errors.New("this cluster has no such invitation: it was made by another cluster, was altered, was taken back, or ended more than a week ago; " +
		"make a new one with `causeway invite`")
	errEnded     = errors.New("the invitation has ended")
	errUsed      = errors.New("the invitation was used already")
	errOtherPeer = errors.New("the invitation is for another cluster")
)

// invitations keeps those that this cluster made, in etcd.
type invitations struct{ etcd *kvstore.Client }

// issued is one of them, for people.
type issued struct {
	ID string
	offered
	Used *used
}

// make keeps a new invitation. Those that ended long ago are forgotten.
func (s invitations) make(ctx context.Context, inv Invitation, peer string, allow []netip.Prefix, now time.Time) error {
	all, err := s.list(ctx)
	if err != nil {
		return err
	}
	left := 0
	for _, old := range all {
		if now.Before(old.Expires.Add(remembered)) {
			left++
			continue
		}
		if err := s.forget(ctx, old.ID); err != nil {
			return err
		}
	}
	if left >= maxInvitations {
		return fmt.Errorf("there are %d invitations, no more are made until some have ended for a week", left)
	}
	value, err := json.Marshal(offered{
		Hash: sha256.Sum256(inv.Secret[:]), Peer: peer, Allow: allow, Created: now.UTC(), Expires: inv.Expires,
	})
	if err != nil {
		return fmt.Errorf("encode %s: %w", inv, err)
	}
	_, err = s.etcd.Claim(ctx, kvstore.Alone(), []kvstore.Claim{{Key: invitationPath + inv.Name(), Value: value}})
	return err
}

func (s invitations) forget(ctx context.Context, id string) error {
	if err := s.etcd.Delete(ctx, invitationPath+id); err != nil {
		return err
	}
	return s.etcd.Delete(ctx, invitationOfUsed+id)
}

// takeBack forgets the invitations that were made for a cluster, or that it used:
// who was put out does not come back by one of before. It reports whether it used one.
func (s invitations) takeBack(ctx context.Context, peer string) (used bool, err error) {
	all, err := s.list(ctx)
	if err != nil {
		return false, err
	}
	for _, i := range all {
		by := i.Used != nil && i.Used.Peer == peer
		if used = used || by; i.Peer == peer || by {
			if err := s.forget(ctx, i.ID); err != nil {
				return used, err
			}
		}
	}
	return used, nil
}

// list returns the invitations, the newest first.
func (s invitations) list(ctx context.Context) ([]issued, error) {
	uses := map[string]*used{}
	err := s.etcd.List(ctx, kvstore.Prefix(invitationOfUsed), func(item kvstore.Item) error {
		u := new(used)
		uses[strings.TrimPrefix(item.Key, invitationOfUsed)] = u
		return json.Unmarshal(item.Value, u)
	})
	if err != nil {
		return nil, err
	}
	var out []issued
	err = s.etcd.List(ctx, kvstore.Prefix(invitationPath), func(item kvstore.Item) error {
		i := issued{ID: strings.TrimPrefix(item.Key, invitationPath)}
		i.Used = uses[i.ID]
		err := json.Unmarshal(item.Value, &i.offered)
		out = append(out, i)
		return err
	})
	slices.SortFunc(out, func(a, b issued) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	return out, err
}

// prove returns the invitation that id and secret are of; errUnknown when there is
// none. The comparison takes the same time whatever was wrong.
func (s invitations) prove(ctx context.Context, id, secret []byte) (offered, error) {
	if len(id) != stranger.IDBytes || len(secret) != stranger.SecretBytes { // not even of the form
		return offered{}, errUnknown
	}
	hash := sha256.Sum256(secret)
	text, found, err := s.etcd.Get(ctx, invitationPath+hex.EncodeToString(id))
	if err != nil {
		return offered{}, err
	}
	var o offered
	if found {
		if err := json.Unmarshal(text, &o); err != nil {
			return offered{}, fmt.Errorf("read invitation %x: %w", id, err)
		}
	}
	right := subtle.ConstantTimeCompare(o.Hash[:], hash[:]) == 1
	if !found || !right {
		return offered{}, errUnknown
	}
	return o, nil
}

// fits refuses a cluster that a proven invitation is not for, or no longer.
func (o offered) fits(peer string, now time.Time) error {
	if o.Peer != "" && o.Peer != peer {
		return fmt.Errorf("%w: it is for %s, not for %s", errOtherPeer, o.Peer, peer)
	}
	if now.After(o.Expires) {
		return fmt.Errorf("%w: it was good until %s, and it is %s here; make a new one with `causeway invite`",
			errEnded, o.Expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// parseAllowed reads what an operator allows another cluster to claim.
func parseAllowed(texts []string) (out []netip.Prefix, err error) {
	if len(texts) > maxClaims {
		return nil, fmt.Errorf("%d ranges are allowed, more than %d", len(texts), maxClaims)
	}
	for _, text := range texts {
		r, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || r != r.Masked() || r.Addr().Is4In6() {
			return nil, fmt.Errorf("%.100q is not a range like 10.1.0.0/16", text)
		}
		out = append(out, r)
	}
	return tidy(out), nil
}

// exceeds returns what a cluster claims beyond what the invitation allows. What it says
// nothing of would be agreed as it names it, so it has to say that.
func (o offered) exceeds(theirs Facts) (out []string) {
	if len(o.Allow) == 0 {
		return nil
	}
	for _, c := range theirs.Claims {
		holds := func(r netip.Prefix) bool { return r.Bits() <= c.Range.Bits() && r.Contains(c.Range.Addr()) }
		if !slices.ContainsFunc(o.Allow, holds) {
			out = append(out, fmt.Sprintf("%s of %s is more than the invitation allows, which is %s", claimText(c), theirs.Name, rangesText(o.Allow)))
		}
	}
	if silent := silentOf(theirs.Claims); len(silent) > 0 {
		out = append(out, fmt.Sprintf("%s does not say what it claims of %s, and the invitation allows %s only: give its API server --pod-cidr, --mesh-cidr and --node-cidr",
			theirs.Name, strings.Join(silent, " and "), rangesText(o.Allow)))
	}
	return out
}

// open refuses what use would, and changes nothing: whoever may not use an
// invitation makes no work.
func (s invitations) open(ctx context.Context, id []byte, o offered, peer string, key [sha256.Size]byte, now time.Time) error {
	if err := o.fits(peer, now); err != nil {
		return err
	}
	text, found, err := s.etcd.Get(ctx, invitationOfUsed+hex.EncodeToString(id))
	if err != nil || !found {
		return err
	}
	return sameUse(id, text, peer, key)
}

// use takes a proven invitation for a cluster and the key that it shows. The same
// cluster may come again with the same key until the invitation ends.
func (s invitations) use(ctx context.Context, id []byte, o offered, peer string, key [sha256.Size]byte, now time.Time) error {
	if err := o.fits(peer, now); err != nil {
		return err
	}
	use := used{Peer: peer, Key: key, Time: now.UTC().Truncate(time.Second)}
	value, err := json.Marshal(use)
	if err != nil {
		return fmt.Errorf("encode the use of invitation %x: %w", id, err)
	}
	path := invitationOfUsed + hex.EncodeToString(id)
	created, invited, text, err := s.etcd.CreateBeside(ctx, invitationPath+hex.EncodeToString(id), path, value)
	if err != nil || created {
		return err
	}
	if !invited { // taken back since it was proven
		return errUnknown
	}
	return sameUse(id, text, peer, key)
}

// sameUse refuses another cluster or key than those of the use in text.
func sameUse(id, text []byte, peer string, key [sha256.Size]byte) error {
	var first used
	if err := json.Unmarshal(text, &first); err != nil {
		return fmt.Errorf("read the use of invitation %x: %w", id, err)
	}
	if first.Peer != peer || first.Key != key {
		return fmt.Errorf("%w, by cluster %s at %s; make a new one with `causeway invite`",
			errUsed, first.Peer, first.Time.Format(time.RFC3339))
	}
	return nil
}
