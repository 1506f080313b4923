package trust

import "github.com/causeway-mesh/causeway/pkg/wire"

// usage is how much of a peer is in use.
type usage struct {
	keys  map[wire.Kind]int
	bytes int
	// short are the kinds of which some keys were kept out, with what was in use
	// when it happened last.
	short map[wire.Kind]level
}

type level struct{ keys, bytes int }

func (q *Quotas) of(kind wire.Kind) int {
	switch kind {
	case wire.Nodes:
		return q.Nodes
	case wire.Addresses:
		return q.Addresses
	case wire.Identities:
		return q.Identities
	case wire.Services:
		return q.Services
	default:
		return q.Slices
	}
}

func (u *usage) admit(q *Quotas, kind wire.Kind, size, had int) error {
	limit := q.of(kind)
	switch {
	case had < 0 && u.keys[kind] >= limit:
		u.lacks(kind)
		return refusef(Quota, "%d %s of the peer are in use already", limit, kind)
	case u.bytes+size-max(had, 0) > q.Bytes:
		u.lacks(kind)
		return refusef(Quota, "values of the peer take %d bytes already, at most %d", u.bytes, q.Bytes)
	}
	return nil
}

func (u *usage) lacks(kind wire.Kind) {
	if u.short == nil {
		u.short = map[wire.Kind]level{}
	}
	u.short[kind] = level{u.keys[kind], u.bytes}
}

func (u *usage) count(kind wire.Kind, size, had int) {
	if u.keys == nil {
		u.keys = map[wire.Kind]int{}
	}
	if had < 0 {
		u.keys[kind]++
	}
	u.bytes += size - max(had, 0)
}

func (u *usage) discount(kind wire.Kind, size int) {
	u.keys[kind]--
	u.bytes -= size
}

// room waits for a tenth to become free: what was kept out is read again then.
func (u *usage) room(q *Quotas) bool {
	for kind, then := range u.short {
		if then.keys-u.keys[kind] >= max(q.of(kind)/10, 1) || then.bytes-u.bytes >= max(q.Bytes/10, 1) {
			u.short = nil
			return true
		}
	}
	return false
}
