package peer

import (
	"slices"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// Belief is what is believed of a peer, and why.
type Belief struct {
	// Declared says that the peer's file says what it may claim.
	Declared bool
	Claims   []trust.Claim
	// Lost are those of the claims that another peer, which is named, had first.
	Lost map[trust.Claim]string
	// Waiting are ranges that the peer names outside of its claims.
	Waiting []trust.Claim
	Rules   trust.Rules
	// Offences are the last keys that were refused, the oldest first.
	Offences []Offence
}

func (s *session) belief() Belief {
	s.agreeing.Lock()
	out := Belief{Declared: s.declared != nil, Claims: s.ledger.get(s.name).Claims}
	s.agreeing.Unlock()
	out.Claims = slices.Clone(out.Claims)
	slices.SortFunc(out.Claims, trust.CompareClaims)
	out.Lost, out.Waiting = s.book.Lost(s.name), s.judge.Growth()
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Rules, out.Offences = s.rules, slices.Clone(s.offences)
	return out
}

// Beliefs returns what is believed of each peer. Safe for concurrent use.
func (m *Manager) Beliefs() map[string]Belief {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]Belief, len(m.peers))
	for name, p := range m.peers {
		out[name] = p.belief()
	}
	return out
}
