// Package trust judges what a peer says: whether it may have what it names. It
// knows who claims which addresses, what our import rules leave out, and how much
// a peer may say. It does no I/O; what is kept over a restart is its caller's.
//
// A Book holds the claims of all peers and what is this cluster's own; each peer
// has a Judge. The verdict on a key depends on what the claims, the rules and the
// peer's nodes are, not on the order in which the keys came, but where two claim
// one thing, or a quota is full: then the first has it, until it goes.
package trust

import "fmt"

// Reason is why a key is refused: a closed set, also a metric's label.
type Reason string

// The reasons.
const (
	// WrongCluster: key or value name another cluster, or do not agree.
	WrongCluster Reason = "wrong_cluster"
	// Identity: a number that is not the peer's to give, or not for that address.
	Identity Reason = "identity"
	// AddressRange: an address outside of what the peer claims.
	AddressRange Reason = "address_range"
	// AddressConflict: one that is ours, or another peer's.
	AddressConflict Reason = "address_conflict"
	// ImportRule: what our rules for that peer leave out.
	ImportRule Reason = "import_rule"
	// Quota: more than the peer may say.
	Quota Reason = "quota"
	// TooLarge: over a limit of the protocol.
	TooLarge Reason = "too_large"
	// Malformed: does not parse.
	Malformed Reason = "malformed"
)

// Reasons returns all of them, as the documentation lists them.
func Reasons() []Reason {
	return []Reason{WrongCluster, Identity, AddressRange, AddressConflict, ImportRule, Quota, TooLarge, Malformed}
}

// Refusal is the error of a key that is well formed and not believed.
type Refusal struct {
	Reason Reason
	Detail string
}

// Error implements error.
func (r *Refusal) Error() string { return r.Detail }

func refusef(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
