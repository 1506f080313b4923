package peer

// Known reports whether what a cluster has not said is not so: all that it said, to
// this run or to an earlier one, is in use, or it is no peer any more. Safe for
// concurrent use.
func (m *Manager) Known(cluster string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, is := m.peers[cluster]
	return !is || p.told()
}

// told reports whether all that the peer said is in use, or none of it by decision.
func (s *session) told() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole || s.facts.complete || s.facts.verdict != nil
}
