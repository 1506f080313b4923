package join

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// The keys in our own etcd. Peers can not read them: see the gateway's ranges.
const (
	memberPrefix     = "causeway/members/v1/"
	invitationPath   = "causeway/invitations/v1/"
	invitationOfUsed = "causeway/invitations-used/v1/"
	// admissionKey counts the clusters that were admitted: who admits one compares it
	// with what it was before the look at all others.
	admissionKey = "causeway/admissions/v1"
)

// member is what joining and leaving left of another cluster. It stands in etcd
// for all replicas, and in a file of each, so that a lost etcd loses no peer and
// lets nobody in who was put out.
type member struct {
	// Reads is how we read it; nil when we do not, or by a file of the operator's.
	Reads *reading `json:"reads,omitempty"`
	// Out is since when it is out: certificates for it that are valid from before
	// then are refused. Zero for never. It only grows, but with Resets.
	Out time.Time `json:"out,omitzero"`
	// Resets is how often Out was set back by a person, to the clock: see reset.
	Resets int `json:"resets,omitempty"`
	// Pending is the key of a join that has not come to its end, by which it can
	// be taken up again.
	Pending *pending `json:"pending,omitempty"`
	// Reader is how it reads us, where it did not join for both directions: so its name
	// is nobody else's. Nil when it does not, or by what an operator made by hand.
	Reader *reader `json:"reader,omitempty"`
}

// reader is a cluster's certificate to read this one with.
type reader struct {
	Since time.Time `json:"since"`
	Ends  time.Time `json:"ends"`
	// Invitation is by which it joined one way; "" where it was issued with its key,
	// for a cluster with that ID, which can not renew it.
	Invitation string     `json:"invitation,omitempty"`
	ID         cluster.ID `json:"id,omitempty"`
	// Root is the fingerprint of the authority that an issued one is of; none in records
	// of before that was kept.
	Root []byte `json:"root,omitempty"`
}

func (r *reader) issued() bool { return r != nil && r.Invitation == "" }

// outdates reports whether m was put out later than what n says, so that n is of before.
func (m member) outdates(n member) bool {
	return m.Resets > n.Resets || m.Resets == n.Resets && m.Out.After(n.Out)
}

// reading is a joined peer.
type reading struct {
	Endpoints []string `json:"endpoints"`
	// Said are those of Endpoints that the peer said since, in its config: they go when
	// it does not say them any more. The others are from when it joined.
	Said []string `json:"said,omitempty"`
	// CA, Cert and Key are PEM. The key was made here.
	CA   string `json:"ca"`
	Cert string `json:"cert"`
	Key  string `json:"key"`
	// Origin says which join the record is of, once CA and pair are others than those of
	// the join: see origin.
	Origin string `json:"origin,omitempty"`
	// Since is when it joined, Invitation which one was used.
	Since      time.Time `json:"since"`
	Invitation string    `json:"invitation"`
	// ID and Claims are what it said that it has, agreed at Since; 0 in records of before
	// the id was kept.
	ID     cluster.ID    `json:"id,omitempty"`
	Claims []trust.Claim `json:"claims,omitempty"`
	// OneWay says that it did not join: it was declared by an etcd client's
	// configuration, and the key was made there. Claims are the operator's.
	OneWay bool `json:"one_way,omitempty"`
}

// origin says which join the record is of, whatever was renewed since: each join makes a
// key of its own.
func (r *reading) origin() string {
	if r.Origin != "" {
		return r.Origin
	}
	sum := sha256.Sum256([]byte(r.CA + r.Cert))
	return hex.EncodeToString(sum[:])
}

type pending struct {
	Invitation string `json:"invitation"`
	Key        string `json:"key"`
	Request    string `json:"request"`
}

// parseMember reads what a key or a file says of the cluster that it is named after.
func parseMember(name string, text []byte) (member, error) {
	if err := cluster.ValidateName(name); err != nil {
		return member{}, err
	}
	var m member
	if err := json.Unmarshal(text, &m); err != nil {
		return member{}, fmt.Errorf("member %s: %w", name, err)
	}
	return m, nil
}

func (m member) encode() []byte {
	text, _ := json.Marshal(m) // no field can fail
	return text
}

func memberName(key string) string { return strings.TrimPrefix(key, memberPrefix) }

// offered is an invitation as the cluster that made it keeps it.
type offered struct {
	// Hash is the SHA-256 of the secret, which is kept nowhere. The secret is 32
	// random bytes, so there is nothing to guess that a slow hash would slow down.
	Hash [sha256.Size]byte `json:"hash"`
	// Peer may use it; "" for any cluster that is no peer yet.
	Peer string `json:"peer,omitempty"`
	// Allow are the ranges that it may claim, sorted; empty for any.
	Allow   []netip.Prefix `json:"allow,omitempty"`
	Created time.Time      `json:"created"`
	Expires time.Time      `json:"expires"`
}

// used is by whom an invitation was used. The same key may finish what broke off.
type used struct {
	Peer string            `json:"peer"`
	Key  [sha256.Size]byte `json:"key"`
	Time time.Time         `json:"time"`
}
