package peer

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/causeway-mesh/causeway/pkg/kvstore"
	"github.com/causeway-mesh/causeway/pkg/merge"
	"github.com/causeway-mesh/causeway/pkg/node"
	"github.com/causeway-mesh/causeway/pkg/peer/trust"
	"github.com/causeway-mesh/causeway/pkg/wire"
)

// entry is a key in use: the attempt that saw it last, and the size of its value.
type entry struct {
	attempt uint32
	size    uint32
}

// Refused addresses with a node's identity are kept until their node comes: so
// many, of values of so many bytes at most, and of so many together with those in
// use. All others are read again.
const (
	maxSpecial      = 100_000
	maxSpecialBytes = 4096
	maxSpecialTotal = 32 << 20
)

// judged puts what is believed of changes, whose keys are of the layout, into an
// Update, and returns it with those changes in the cache's layout. What is not
// believed is counted; the last good value of its key stays.
func (s *session) judged(l wire.Layout, changes []kvstore.Change) (merge.Update, []kvstore.Change) {
	s.judge.Refresh()
	update := newUpdate()
	good := make([]kvstore.Change, 0, len(changes))
	for _, c := range changes {
		kind := kindOf(l, c.Key)
		cached := rename(c.Key, kind, l, s.cache.layout)
		err := s.believe(&update, l, kind, c, cached)
		c.Key = cached
		if kind == wire.Addresses {
			s.remember(c, err)
		}
		if err != nil {
			s.refuse(kind, cached, err)
			s.keep(cached)
			continue
		}
		good = append(good, c)
		if kind == wire.Nodes {
			for _, lost := range s.judge.Dropped() {
				s.refuse(kind, cached, lost)
			}
			good = s.revisit(&update, good)
		}
	}
	if s.judge.Outdated() {
		s.doubt()
	}
	return update, good
}

// believe puts one change into an Update, or says why not. cached is its key in
// the cache's layout.
func (s *session) believe(u *merge.Update, l wire.Layout, kind wire.Kind, c kvstore.Change, cached string) error {
	known, is := s.known[cached]
	had := -1
	if is {
		had = int(known.size)
	}
	if !c.Deleted {
		if err := s.judge.Admit(kind, len(c.Value), had); err != nil {
			return err
		}
	}
	if err := put(u, s.judge, l, s.inUse, kind, c); err != nil {
		return err
	}
	switch {
	case !c.Deleted:
		s.judge.Count(kind, len(c.Value), had)
		s.known[cached] = entry{s.attempt, uint32(len(c.Value))}
	case is:
		s.judge.Discount(kind, had)
		delete(s.known, cached)
	}
	if c.Deleted && kind == wire.Nodes {
		if name, err := l.ParseNodeKey(c.Key); err == nil {
			s.judge.DropNode(name)
		}
	}
	return nil
}

// keep holds on to a key whose new value is refused: it is not gone.
func (s *session) keep(cached string) {
	if e, ok := s.known[cached]; ok {
		s.known[cached] = entry{s.attempt, e.size}
	}
}

// remember keeps an address whose verdict depends on which nodes there are; the
// change's key is in the cache's layout.
func (s *session) remember(c kvstore.Change, err error) {
	special := !c.Deleted && s.judge.WasSpecial() && (err == nil || refusedFor(err, trust.Identity))
	if !special && len(s.special) == 0 {
		return
	}
	prefix, wrong := s.cache.layout.ParseAddressKey(c.Key)
	if wrong != nil || !prefix.IsSingleIP() {
		return
	}
	a := prefix.Addr()
	old, known := s.special[a]
	total := s.specialBytes + len(c.Value) - len(old.Value)
	switch {
	case !special && (err == nil || c.Deleted):
		delete(s.special, a)
		s.specialBytes -= len(old.Value)
	case special && len(c.Value) <= maxSpecialBytes &&
		(err == nil || (known || len(s.special) < maxSpecial) && total <= maxSpecialTotal):
		s.special[a] = c
		s.specialBytes = total
	}
}

func refusedFor(err error, why trust.Reason) bool {
	var refusal *trust.Refusal
	return errors.As(err, &refusal) && refusal.Reason == why
}

// revisit judges the addresses anew that became a node's, or are none's any more.
func (s *session) revisit(u *merge.Update, good []kvstore.Change) []kvstore.Change {
	for _, a := range s.judge.Touched() {
		c, ok := s.special[a]
		if !ok {
			continue
		}
		_, used := s.known[c.Key]
		err := s.believe(u, s.cache.layout, wire.Addresses, c, c.Key)
		if err == nil {
			good = append(good, c)
			continue
		}
		if !used {
			continue
		}
		s.refuse(wire.Addresses, c.Key, err)
		gone := kvstore.Change{Key: c.Key, Deleted: true}
		if s.believe(u, s.cache.layout, wire.Addresses, gone, c.Key) == nil {
			good = append(good, gone)
		}
	}
	return good
}

// deliver puts changes in use: memory first, then the cache.
func (s *session) deliver(l wire.Layout, changes []kvstore.Change) {
	update, good := s.judged(l, changes)
	if update.Len() > 0 {
		s.engine.Apply(s.name, update)
	}
	for _, c := range good {
		s.contest.cache(c)
	}
	if s.judge.Room() {
		s.doubt()
	}
	if n, more := s.judge.Grown(); more {
		s.metrics.waits(s.name, n)
		s.log.Warn("peer names addresses outside of its claims, see causeway peers", "ranges", n)
	}
}

// rejudge takes out of use what is not believed any more, after claims, rules, or
// what is our own changed. What was refused and is believed now comes when the
// peer is read again.
func (s *session) rejudge() {
	s.judge.Anew()
	s.judge.Settle()
	s.metrics.waits(s.name, 0)
	keys := map[wire.Kind][]string{}
	for key := range s.known {
		kind := kindOf(s.cache.layout, key)
		keys[kind] = append(keys[kind], key)
	}
	var gone [][]kvstore.Change
	for _, kind := range inOrder() {
		var refused []kvstore.Change
		update := newUpdate()
		for _, key := range keys[kind] {
			value := s.contest.value(key)
			err := errForgotten
			if value != nil {
				err = put(&update, s.judge, s.cache.layout, s.inUse, kind, kvstore.Change{Key: key, Value: value})
			}
			if err != nil {
				s.refuse(kind, key, err)
				refused = append(refused, kvstore.Change{Key: key, Deleted: true})
			} else if kind == wire.Nodes {
				s.trimmed(key, &update)
			}
		}
		gone = append(gone, refused)
	}
	if s.judge.Outdated() {
		s.doubt()
	}
	slices.Reverse(gone)
	for _, piece := range cut(gone) {
		s.deliver(s.cache.layout, piece)
	}
}

// trimmed puts a node in use, which is in u, as it was judged, if it lost some of
// what it named. What it has again comes when the peer is read again.
func (s *session) trimmed(key string, u *merge.Update) {
	lost := s.judge.Dropped()
	if len(lost) == 0 {
		return
	}
	for _, err := range lost {
		s.refuse(wire.Nodes, key, err)
	}
	if name, err := s.cache.layout.ParseNodeKey(key); err == nil {
		s.engine.Apply(s.name, merge.Update{Nodes: map[string]*node.Node{name: u.Nodes[name]}})
	}
}

// errForgotten is about an address that another cluster has, of which only that is
// known: it is read again.
var errForgotten = fmt.Errorf("%w; what this peer says of it is not known any more", errConflict)

// doubt says that verdicts may be other ones from now on. It blocks on nothing.
func (s *session) doubt() {
	s.mu.Lock()
	s.doubted = true
	s.mu.Unlock()
	s.wake()
}

// doubtPace is how often all of a peer is judged anew at most.
const doubtPace = 2 * time.Second

// due reports whether all is to be judged anew now, and else when, nil for never.
func (s *session) due(now time.Time) (bool, <-chan time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := s.judgedAt.Add(doubtPace).Sub(now)
	switch {
	case !s.doubted:
		return false, nil
	case wait > 0:
		return false, time.After(wait)
	}
	s.doubted, s.judgedAt = false, now
	return true, nil
}

// Offence is a key of a peer that was refused.
type Offence struct {
	Time   time.Time
	Key    string
	Reason trust.Reason
	Detail string
}

// maxOffences is how many are remembered of a peer.
const maxOffences = 20

// refuse counts a key that is not taken over; what it said before stays.
func (s *session) refuse(kind wire.Kind, key string, err error) {
	why := reason(kind, err)
	s.metrics.refused(s.name, why)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(err, errConflict) { // those are counted while they last
		s.refused[string(why)]++
	}
	s.lastRefusedKey, s.lastRefuse = key, fmt.Sprintf("%s: %s: %v", why, key, err)
	if len(s.offences) == maxOffences {
		s.offences = slices.Delete(s.offences, 0, 1)
	}
	s.offences = append(s.offences, Offence{Time: time.Now(), Key: key, Reason: why, Detail: err.Error()})
	s.log.Debug("key of the peer is refused", "key", key, "error", err)
}
