// Package token gives agents their first certificate: an operator makes a token for
// a node, and whoever shows it once gets the certificate of that node's agent for a
// key of its own. In Kubernetes the token that it gives to an agent's pod does the
// same, as long as it lasts.
//
// Guarantees: what the certificate says comes from the token alone; a token is good
// for one key, with which what broke off is finished by doing it again; all replicas
// know all tokens; a token's secret is kept nowhere but in its text.
package token

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/stranger"
)

// prefix of the keys in our own etcd. Peers can not read them: see the gateway's
// ranges.
const prefix = "causeway/agent-tokens/v1/"

const (
	// remembered is how long after its end a token is kept, so that who uses it
	// hears that it ended rather than that nobody knows it.
	remembered = 7 * 24 * time.Hour
	// maxTokens bounds how many there are at a time.
	maxTokens = 10_000
	// maxRaces bounds how often a use is tried again that others came before.
	maxRaces = 10
)

var (
	// errUnknown is for a token or a secret that this cluster does not have: whoever
	// guesses is not told which of them was wrong.
	errUnknown = errors.New("this cluster has no such token: it was made by another cluster, was altered, or ended more than a week ago; " +
		"make a new one with `causeway agent token`")
	errEnded   = errors.New("the token has ended")
	errUsed    = errors.New("the token was used already, by another key")
	errRevoked = errors.New("the token was taken back")
)

// record is a token as it is kept.
type record struct {
	// Hash is the SHA-256 of the secret, of which 32 bytes are random: there is
	// nothing to guess that a slow hash would slow down.
	Hash    [sha256.Size]byte `json:"hash"`
	Node    string            `json:"node"`
	Created time.Time         `json:"created"`
	Expires time.Time         `json:"expires"`
	Used    *use              `json:"used,omitempty"`
	// Revoked is since when nobody gets anything for it, zero for never.
	Revoked time.Time `json:"revoked,omitzero"`
}

// use is by which key a token was used.
type use struct {
	Key  [sha256.Size]byte `json:"key"`
	Time time.Time         `json:"time"`
}

// store keeps tokens in etcd.
type store struct{ etcd *kvstore.Client }

// listed is a token for people.
type listed struct {
	ID string
	record
}

// keep adds a token. Those that ended long ago are forgotten.
func (s store) keep(ctx context.Context, p stranger.Pass, now time.Time) error {
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
		if err := s.etcd.Delete(ctx, prefix+old.ID); err != nil {
			return err
		}
	}
	if left >= maxTokens {
		return fmt.Errorf("there are %d tokens, no more are made until some have ended for a week", left)
	}
	value, err := json.Marshal(record{Hash: sha256.Sum256(p.Secret[:]), Node: p.Node, Created: now.UTC(), Expires: p.Expires})
	if err != nil {
		return fmt.Errorf("encode token %s: %w", p.Name(), err)
	}
	return s.etcd.Put(ctx, prefix+p.Name(), value)
}

// list returns the tokens, the newest first.
func (s store) list(ctx context.Context) ([]listed, error) {
	var out []listed
	err := s.etcd.List(ctx, kvstore.Prefix(prefix), func(item kvstore.Item) error {
		one := listed{ID: strings.TrimPrefix(item.Key, prefix)}
		err := json.Unmarshal(item.Value, &one.record)
		out = append(out, one)
		return err
	})
	slices.SortFunc(out, func(a, b listed) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	return out, err
}

// prove returns the token that id and secret are of, and its text; errUnknown when
// there is none. The comparison takes the same time whatever was wrong.
func (s store) prove(ctx context.Context, id, secret []byte) (r record, text []byte, err error) {
	if len(id) != stranger.IDBytes || len(secret) != stranger.SecretBytes { // not even of the form
		return record{}, nil, errUnknown
	}
	hash := sha256.Sum256(secret)
	text, found, err := s.etcd.Get(ctx, prefix+hex.EncodeToString(id))
	if err != nil {
		return record{}, nil, err
	}
	if found {
		if err := json.Unmarshal(text, &r); err != nil {
			return record{}, nil, fmt.Errorf("read token %x: %w", id, err)
		}
	}
	right := subtle.ConstantTimeCompare(r.Hash[:], hash[:]) == 1
	if !found || !right {
		return record{}, nil, errUnknown
	}
	return r, text, nil
}

// open refuses a key that may not use a proven token, or no longer.
func (r record) open(key [sha256.Size]byte, now time.Time) error {
	if !r.Revoked.IsZero() {
		return fmt.Errorf("%w, at %s; make a new one with `causeway agent token %s`", errRevoked, r.Revoked.UTC().Format(time.RFC3339), r.Node)
	}
	if now.After(r.Expires) {
		return fmt.Errorf("%w: it was good until %s, and it is %s here; make a new one with `causeway agent token %s`",
			errEnded, r.Expires.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), r.Node)
	}
	if r.Used != nil && r.Used.Key != key {
		return fmt.Errorf("%w, at %s; make a new one with `causeway agent token %s`, and find out who has it if it was not node %s",
			errUsed, r.Used.Time.UTC().Format(time.RFC3339), r.Node, r.Node)
	}
	return nil
}

// take uses a proven token, of which text is the record, for a key. The same key may
// come again until the token ends.
func (s store) take(ctx context.Context, id, secret []byte, r record, text []byte, key [sha256.Size]byte, now time.Time) error {
	for range maxRaces {
		if err := r.open(key, now); err != nil || r.Used != nil {
			return err
		}
		next := r
		next.Used = &use{Key: key, Time: now.UTC().Truncate(time.Second)}
		value, err := json.Marshal(next)
		if err != nil {
			return fmt.Errorf("encode token %x: %w", id, err)
		}
		done, err := s.etcd.CompareAndPut(ctx, prefix+hex.EncodeToString(id), text, true, value)
		if err != nil || done {
			return err
		}
		if r, text, err = s.prove(ctx, id, secret); err != nil {
			return err
		}
	}
	return fmt.Errorf("use token %x: others change it all the time", id)
}

// revoke takes back what is still good of a node's tokens, and returns them. A token that
// was used is one of them: its key could come again until its end.
func (s store) revoke(ctx context.Context, node string, now time.Time) (out []listed, err error) {
	all, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if t.Node != node || now.After(t.Expires) || !t.Revoked.IsZero() {
			continue
		}
		if t.record, err = s.revokeOne(ctx, t.ID, now); err != nil {
			return out, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (s store) revokeOne(ctx context.Context, id string, now time.Time) (r record, err error) {
	for range maxRaces {
		text, found, err := s.etcd.Get(ctx, prefix+id)
		if err != nil {
			return r, err
		}
		if r = (record{}); found {
			err = json.Unmarshal(text, &r)
		}
		if err != nil {
			return r, fmt.Errorf("read token %s: %w", id, err)
		}
		r.Revoked = now.UTC().Truncate(time.Second)
		if !found { // forgotten meanwhile: it ended long ago
			return r, nil
		}
		value, err := json.Marshal(r)
		if err != nil {
			return r, fmt.Errorf("encode token %s: %w", id, err)
		}
		if done, err := s.etcd.CompareAndPut(ctx, prefix+id, text, true, value); err != nil || done {
			return r, err
		}
	}
	return r, fmt.Errorf("take token %s back: others change it all the time", id)
}
