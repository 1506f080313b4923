package peer

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/causeway-mesh/causeway/pkg/cluster"
)

// State is where a session with a peer stands.
type State string

// The states of a session.
const (
	// Connecting: nothing has been read from the peer yet.
	Connecting State = "connecting"
	// Waiting: the peer answers, but has not yet published what is needed.
	Waiting State = "waiting"
	// Refused: the peer says something about itself that can not be accepted.
	Refused State = "refused"
	// Listing: the peer's state is being read for the first time.
	Listing State = "listing"
	// Synced: all that the peer publishes is known and followed.
	Synced State = "synced"
	// Disconnected: the peer does not answer; what it said last is in use.
	Disconnected State = "disconnected"
)

// facts are what a session knows. The state follows from them alone.
type facts struct {
	setup     error // the session can not begin: files, certificates
	answered  bool  // the peer has answered since the session began
	trouble   error // what keeps what the peer says about itself from being followed now
	behind    error // the same of what it publishes
	config    *cluster.Config
	malformed error // why there is no config though the peer published one
	verdict   error // why the config is not accepted
	draining  bool  // what was said under another id is being taken out of use
	missing   string
	complete  bool // everything was listed once in this session
}

// state returns where a session stands and why, "" where the state says it all.
func (f facts) state() (State, string) {
	trouble := cmp.Or(f.trouble, f.behind)
	switch {
	case f.setup != nil:
		return Connecting, f.setup.Error()
	case trouble != nil && f.answered:
		return Disconnected, trouble.Error()
	case trouble != nil:
		return Connecting, trouble.Error()
	case !f.answered:
		return Connecting, ""
	case f.draining:
		return Waiting, "the peer has another cluster id; what it said under the old one goes first"
	case f.verdict != nil:
		return Refused, f.verdict.Error()
	case f.config == nil:
		return Waiting, "the peer has published no cluster config yet"
	case f.missing != "":
		return Waiting, fmt.Sprintf("the peer has not published all of its %s yet", f.missing)
	case !f.complete:
		return Listing, ""
	}
	return Synced, ""
}

// Why a peer's cluster config is refused.
var (
	ErrOwnID    = errors.New("the peer has this cluster's id; give each cluster of the mesh its own (--cluster-id)")
	ErrIDTaken  = errors.New("two clusters have one id; give each cluster of the mesh its own (--cluster-id)")
	ErrMeshSize = errors.New("the sizes of the meshes differ; all clusters must agree (--max-connected-clusters)")
)

// accept decides whether a peer that says theirs may be a member of the mesh of
// ours.
func accept(ours, theirs cluster.Config) error {
	if err := theirs.Size.Validate(); err != nil {
		return err
	}
	if theirs.Size != ours.Size {
		return fmt.Errorf("%s counts on %d clusters, %s on %d: %w", theirs.Name, theirs.Size, ours.Name, ours.Size, ErrMeshSize)
	}
	if err := theirs.Size.ValidateID(theirs.ID); err != nil {
		return err
	}
	if theirs.ID == ours.ID {
		return fmt.Errorf("%s says id %d: %w", theirs.Name, theirs.ID, ErrOwnID)
	}
	return nil
}
