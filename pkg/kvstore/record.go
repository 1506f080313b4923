package kvstore

import "time"

const (
	// A refused value is tried again now and then: limits are configuration of the store.
	firstRefusalDelay = 30 * time.Second
	lastRefusalDelay  = 10 * time.Minute
)

// record is what a writer knows of one key. Values in the store are known by
// their hash.
//
// There are hundreds of thousands: fields are in the order that takes least room.
type record struct {
	value   []byte // what it should be, when wanted
	hash    uint64
	seen    version // what following the store showed last
	wrote   version // what our last write left; it counts when it is newer than seen
	refused *refusal
	rank    int32 // of its prefix
	wanted  bool
	drop    bool // was deleted: goes even before Complete
	mark    bool // goes only when it is deleted, by no pruning
	// unsure: a request is under way, or failed and took effect perhaps. The
	// key is written again, whatever it seems to be, and the record stays.
	unsure bool
}

// version is a key's state in the store as of a revision.
type version struct {
	revision int64
	exists   bool
	hash     uint64
}

// refusal is about a value that the store does not take.
type refusal struct {
	delay time.Duration
	due   time.Time // of the next attempt
	again bool      // which is under way
}

// stored returns the newest that is known of the key in the store.
func (r *record) stored() version {
	if r.wrote.revision > r.seen.revision {
		return r.wrote
	}
	return r.seen
}

// needs says whether the key must be written or deleted. Keys that nobody
// asked for are deleted only when pruning.
func (r *record) needs(pruning bool) bool {
	if r.refused != nil && !r.refused.again {
		return false
	}
	s := r.stored()
	if r.wanted {
		return r.unsure || !s.exists || s.hash != r.hash
	}
	return (pruning && !r.mark || r.drop) && (r.unsure || s.exists)
}

// idle says whether nothing is lost by forgetting the record: nobody wants the
// key, the store does not have it, and no write of ours is still to be seen.
func (r *record) idle() bool {
	return !r.wanted && !r.unsure && !r.seen.exists && r.wrote.revision <= r.seen.revision
}

// refuse notes another refusal of the value at now.
func (r *record) refuse(now time.Time) {
	if r.refused == nil {
		r.refused = &refusal{delay: firstRefusalDelay / 2}
	}
	r.refused.again = false
	r.refused.delay = min(2*r.refused.delay, lastRefusalDelay)
	r.refused.due = now.Add(r.refused.delay)
}
