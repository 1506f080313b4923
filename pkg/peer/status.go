package peer

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/cluster"
	"github.com/causeway-mesh/causeway/pkg/renewal"
)

// Status is where the session with a peer stands.
type Status struct {
	Name string
	// File is the peer file, "" while it can not be used. Bounds is the one that says
	// what is believed of a peer that joined, "" for none.
	File      string
	Bounds    string
	ID        cluster.ID // 0 while it is not known
	State     State
	Reason    string
	Since     time.Time
	Endpoints []string
	// Certificate is how ours stands, by which the peer is read.
	Certificate renewal.Standing
	// LastChange is when the peer last said something new, Heartbeat when its
	// sign of life last came; zero for never in this process.
	LastChange time.Time
	Heartbeat  time.Time
	// Refused counts the keys that were not taken over by reason; of those of
	// which another cluster has the address, how many there are now. LastRefused
	// is the last one, after its reason, with what is wrong.
	Refused     map[string]int
	LastRefused string
	// Waiting is how many ranges the peer names outside of its claims.
	Waiting int
}

// Problem is a file of the directory of peers that can not be used. File is ""
// when it is about the directory itself.
type Problem struct {
	File    string
	Message string
}

func (s *session) status() Status {
	conflicts, waiting := s.contest.count(), len(s.judge.Growth())
	s.mu.Lock()
	defer s.mu.Unlock()
	state, why := s.facts.state()
	why = cmp.Or(why, heldBack(s.heldAt, time.Now()))
	out := Status{
		Name: s.name, State: state, Reason: why, Since: s.since,
		Endpoints: slices.Clone(s.file.Endpoints), LastChange: s.lastChange, Heartbeat: s.heartbeat,
		Refused: maps.Clone(s.refused), LastRefused: s.lastRefuse, Waiting: waiting,
	}
	if conflicts > 0 {
		out.Refused[reasonConflict] += conflicts
	}
	if s.keeper != nil {
		out.Certificate = s.keeper.Standing()
	}
	if s.facts.config != nil {
		out.ID = s.facts.config.ID
	}
	return out
}
