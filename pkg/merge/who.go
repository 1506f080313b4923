package merge

import (
	"net/netip"

	"github.com/causeway-mesh/causeway/pkg/endpoint"
	"github.com/causeway-mesh/causeway/pkg/identity"
)

// Ruling says who has an address that a cluster claims: Holder is the cluster
// itself when its claim counts from now on, else the one that it gives way to.
type Ruling struct {
	Cluster string
	Prefix  netip.Prefix
	Holder  string
}

// meanings keep that the nodes know what each address that they know is: an
// address whose identity is not known waits, and an identity that its cluster
// deleted stays while an address has it. What clusters say arrives kind by kind,
// and not always in the order in which it was said.
type meanings struct {
	// users counts the addresses that the nodes have by identity.
	users map[identity.Number]int
	// kept are identities that were deleted and have users.
	kept map[identity.Number]identity.Identity
	// pending are the addresses that wait, with what the nodes have of them
	// meanwhile: what the same cluster said before, or nil.
	pending map[netip.Prefix]pendingOwner
	waiting map[identity.Number]map[netip.Prefix]struct{} // pending, by what they wait for
	// loose are identities that lost their last user in this pass.
	loose map[identity.Number]struct{}
}

type pendingOwner struct {
	owner *endpoint.Owner
	wants identity.Number
}

func newMeanings() meanings {
	return meanings{
		users: map[identity.Number]int{}, kept: map[identity.Number]identity.Identity{},
		pending: map[netip.Prefix]pendingOwner{}, waiting: map[identity.Number]map[netip.Prefix]struct{}{},
		loose: map[identity.Number]struct{}{},
	}
}

// applyWho takes what a cluster says of identities and addresses.
func (s *State) applyWho(cluster string, m *member, u Update, delta *Delta) {
	lost := map[identity.Number]identity.Identity{}
	for n, value := range u.Identities {
		if c, ok := s.identities.held[n]; ok && value == nil {
			lost[n] = c.value
		}
	}
	delta.Identities = change(s.identities, cluster, m.identities, u.Identities, numbered)
	for n, value := range delta.Identities {
		kept, was := s.means.kept[n]
		switch {
		case value == nil && s.means.users[n] > 0:
			s.means.kept[n] = lost[n]
			delete(delta.Identities, n)
		case value != nil:
			delete(s.means.kept, n)
			if was && kept == *value {
				delete(delta.Identities, n)
			}
			s.release(n, delta)
		}
	}
	made := ownedBy(cluster)
	for prefix, value := range u.Addresses {
		before := s.shown(prefix)
		changed := false
		if value != nil {
			m.addresses[prefix] = struct{}{}
			changed = s.addresses.set(prefix, cluster, made(prefix, value))
		} else if _, had := m.addresses[prefix]; had {
			delete(m.addresses, prefix)
			changed = s.addresses.remove(prefix, cluster)
		}
		if changed {
			s.show(prefix, before, delta)
		}
	}
	for n := range s.means.loose {
		if _, kept := s.means.kept[n]; kept && s.means.users[n] == 0 {
			delete(s.means.kept, n)
			setIdentity(delta, n)
		}
	}
	clear(s.means.loose)
}

// setIdentity notes that the nodes lose an identity.
func setIdentity(delta *Delta, n identity.Number) {
	if delta.Identities == nil {
		delta.Identities = map[identity.Number]*identity.Identity{}
	}
	delta.Identities[n] = nil
}

// shown returns what the nodes have of an address, nil for nothing.
func (s *State) shown(prefix netip.Prefix) *endpoint.Owner {
	if p, waits := s.means.pending[prefix]; waits {
		return p.owner
	}
	if c, ok := s.addresses.held[prefix]; ok {
		return &c.value
	}
	return nil
}

// show gives the nodes what is held of an address now, in place of before, or
// lets it wait.
func (s *State) show(prefix netip.Prefix, before *endpoint.Owner, delta *Delta) {
	s.means.resume(prefix)
	c, held := s.addresses.held[prefix]
	if !held {
		s.swap(prefix, before, nil, delta)
		return
	}
	if s.meant(c.value.Identity) {
		s.swap(prefix, before, &c.value, delta)
		return
	}
	now := before
	if before != nil && before.Cluster != c.value.Cluster {
		now = nil
	}
	s.means.await(prefix, c.value.Identity, now)
	s.swap(prefix, before, now, delta)
}

// meant reports whether the nodes know what a number means, or it needs no
// telling.
func (s *State) meant(n identity.Number) bool {
	if n < identity.MinLocal {
		return true
	}
	if _, ok := s.means.kept[n]; ok {
		return true
	}
	_, ok := s.identities.held[n]
	return ok
}

// swap notes that the nodes have another owner of an address.
func (s *State) swap(prefix netip.Prefix, before, now *endpoint.Owner, delta *Delta) {
	if before == now || before != nil && now != nil && *before == *now {
		return
	}
	if before != nil && before.Identity >= identity.MinLocal {
		if s.means.users[before.Identity]--; s.means.users[before.Identity] == 0 {
			delete(s.means.users, before.Identity)
			s.means.loose[before.Identity] = struct{}{}
		}
	}
	if now != nil && now.Identity >= identity.MinLocal {
		s.means.users[now.Identity]++
	}
	if delta.Addresses == nil {
		delta.Addresses = map[netip.Prefix]*endpoint.Owner{}
	}
	delta.Addresses[prefix] = now
}

// release gives the nodes the addresses that waited for an identity.
func (s *State) release(n identity.Number, delta *Delta) {
	for prefix := range s.means.waiting[n] {
		before := s.means.pending[prefix].owner
		s.means.resume(prefix)
		c := s.addresses.held[prefix]
		s.swap(prefix, before, &c.value, delta)
	}
}

// await lets an address wait for an identity.
func (w *meanings) await(prefix netip.Prefix, n identity.Number, meanwhile *endpoint.Owner) {
	w.pending[prefix] = pendingOwner{meanwhile, n}
	if w.waiting[n] == nil {
		w.waiting[n] = map[netip.Prefix]struct{}{}
	}
	w.waiting[n][prefix] = struct{}{}
}

// resume ends an address' wait.
func (w *meanings) resume(prefix netip.Prefix) {
	p, waits := w.pending[prefix]
	if !waits {
		return
	}
	delete(w.pending, prefix)
	delete(w.waiting[p.wants], prefix)
	if len(w.waiting[p.wants]) == 0 {
		delete(w.waiting, p.wants)
	}
}
