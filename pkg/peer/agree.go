package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/causeway-mesh/causeway/pkg/peer/trust"
)

// Errors of Approve.
var (
	// ErrNoPeer is returned for a cluster that is no peer.
	ErrNoPeer = errors.New("not a peer of this cluster")
	// ErrNothingWaits is returned when a peer names nothing outside of its claims.
	ErrNothingWaits = errors.New("nothing of it waits for approval")
	// ErrNotWaiting is returned when others of its ranges wait than those that are named.
	ErrNotWaiting = errors.New("no such range waits for approval")
	// ErrDeclared is returned for a peer whose file says what it may claim.
	ErrDeclared = errors.New("its file says what it may claim: add the range there")
	// ErrNotWriter is returned by a replica that does not write.
	ErrNotWriter = errors.New("this replica does not write")
)

// regard takes what a peer's file says about what is believed. Nothing else of the
// session runs meanwhile.
func (s *session) regard(file File) {
	s.agreeing.Lock()
	s.declared, s.joined = file.Claims, file.Agreed
	s.agreeing.Unlock()
	rules := file.rules()
	s.judge.Rules(rules)
	s.mu.Lock()
	s.rules = rules
	s.mu.Unlock()
}

// agree puts in effect what a peer may claim: what its file says, else what was
// agreed when it joined or later; of what neither speaks, the peer's own word is taken
// once. All that the peer said is judged anew.
func (s *session) agree() {
	s.agreeing.Lock()
	defer s.agreeing.Unlock()
	if s.gone {
		return
	}
	claims, open := s.agreed()
	s.book.Claims(s.name, claims, open, s.doubt)
	s.doubt()
}

// part ends all agreement: who asks for one later, and has not heard yet that the
// peer is removed, changes nothing.
func (s *session) part() {
	s.agreeing.Lock()
	defer s.agreeing.Unlock()
	s.gone = true
}

// agreed returns what a peer may claim, and of which classes nothing is agreed.
// The caller holds agreeing.
func (s *session) agreed() (claims []trust.Claim, open []trust.Class) {
	kept := s.ledger.get(s.name).Claims
	if s.declared == nil {
		claims = withJoined(kept, s.joined)
		if !slices.Equal(claims, kept) {
			s.ledger.put(s.name, record{Claims: claims})
		}
		return claims, openClasses(claims)
	}
	changed := len(kept) != len(s.declared)
	now := time.Now().UTC()
	for _, c := range s.declared {
		c.Since = now
		i := slices.IndexFunc(kept, func(k trust.Claim) bool { return k.Class == c.Class && k.Range == c.Range })
		if i >= 0 {
			c.Since = kept[i].Since
		}
		changed = changed || i < 0 || kept[i].Origin != c.Origin
		claims = append(claims, c)
	}
	if changed {
		s.ledger.put(s.name, record{Claims: claims})
	}
	return claims, nil
}

// withJoined returns what is agreed with a peer that said joined when it joined, which
// is not nil when it said nothing, and nil when it did not join by claims. That
// counts from when it was first agreed. What was observed of the classes that it speaks
// of counts no more, nor what it said when it joined before; what a person approved does.
func withJoined(kept, joined []trust.Claim) []trust.Claim {
	if joined == nil {
		return kept
	}
	same := func(a trust.Claim) func(trust.Claim) bool {
		return func(b trust.Claim) bool { return a.Class == b.Class && a.Range == b.Range }
	}
	var out []trust.Claim
	for _, c := range joined {
		if i := slices.IndexFunc(kept, same(c)); i >= 0 && (kept[i].Origin == trust.Agreed || kept[i].Origin == trust.Declared) {
			c.Since = kept[i].Since
		}
		out = append(out, c)
	}
	for _, k := range kept {
		spoken := slices.ContainsFunc(joined, func(c trust.Claim) bool { return c.Class == k.Class })
		stays := k.Origin == trust.Approved || k.Origin == trust.Observed && !spoken
		if stays && !slices.ContainsFunc(out, same(k)) {
			out = append(out, k)
		}
	}
	return out
}

// openClasses are those of which nothing is agreed. Backends outside of a peer's
// pods and nodes are agreed with the first of these, or not at all.
func openClasses(kept []trust.Claim) (open []trust.Class) {
	has := func(class trust.Class) bool {
		return slices.ContainsFunc(kept, func(c trust.Claim) bool { return c.Class == class })
	}
	for _, class := range trust.Classes() {
		late := class == trust.External && (has(trust.Pods) || has(trust.Nodes))
		if !has(class) && !late {
			open = append(open, class)
		}
	}
	return open
}

// pin makes what the peer named, where nothing was agreed, what it claims.
func (s *session) pin() {
	s.agreeing.Lock()
	defer s.agreeing.Unlock()
	if s.gone || s.declared != nil { // its file says all
		return
	}
	claims, open := s.agreed()
	if len(open) == 0 {
		return
	}
	n := len(claims)
	now := time.Now().UTC()
	for _, c := range s.judge.Observed() {
		if slices.Contains(open, c.Class) {
			c.Since = now
			claims = append(slices.Clip(claims), c)
		}
	}
	if len(claims) == n {
		return
	}
	s.ledger.put(s.name, record{Claims: claims})
	s.book.Claims(s.name, claims, openClasses(claims), s.doubt)
	s.judge.Refresh()
	s.log.Info("what the peer named first is agreed as its claims", "ranges", len(claims)-n)
}

// approve adds what waits for approval to a peer's claims; ranges narrow it, nil
// is all.
func (s *session) approve(ranges []netip.Prefix) ([]trust.Claim, error) {
	s.agreeing.Lock()
	defer s.agreeing.Unlock()
	if s.gone {
		return nil, ErrNoPeer
	}
	if self, who := s.ledger.writes(); !self {
		return nil, fmt.Errorf("%w: ask %q, which does", ErrNotWriter, who)
	}
	if s.declared != nil {
		return nil, ErrDeclared
	}
	claims, _ := s.agreed()
	var added []trust.Claim
	now, waiting := time.Now().UTC(), s.judge.Growth()
	for _, c := range waiting {
		if ranges == nil || slices.Contains(ranges, c.Range) {
			c.Origin, c.Since = trust.Approved, now
			added = append(added, c)
		}
	}
	if len(added) == 0 && len(waiting) > 0 {
		return nil, fmt.Errorf("%w: what waits is %s", ErrNotWaiting, rangesOf(waiting))
	}
	if len(added) == 0 {
		return nil, ErrNothingWaits
	}
	claims = slices.Concat(claims, added)
	s.ledger.put(s.name, record{Claims: claims})
	s.book.Claims(s.name, claims, openClasses(claims), s.doubt)
	s.doubt()
	return added, nil
}

// shownRanges is how many ranges an error names.
const shownRanges = 8

func rangesOf(claims []trust.Claim) string {
	var out []string
	for _, c := range claims[:min(len(claims), shownRanges)] {
		out = append(out, fmt.Sprintf("%s (%s)", c.Range, c.Class))
	}
	if more := len(claims) - shownRanges; more > 0 {
		out = append(out, fmt.Sprintf("%d more", more))
	}
	return strings.Join(out, ", ")
}

// Approve agrees to what a peer names outside of its claims, or to those ranges of
// it that are given. Errors wrap one of this package's. Safe for concurrent use.
func (m *Manager) Approve(peer string, ranges []netip.Prefix) ([]trust.Claim, error) {
	m.mu.Lock()
	p := m.peers[peer]
	m.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("approve the claims of %s: %w", peer, ErrNoPeer)
	}
	added, err := p.approve(ranges)
	if err != nil {
		return nil, fmt.Errorf("approve the claims of %s: %w", peer, err)
	}
	m.cfg.Logger.Info("claims of the peer are approved", "cluster", peer, "ranges", len(added))
	return added, nil
}
