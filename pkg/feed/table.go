package feed

import "bytes"

// minTombstones is how many deletions a table of a server remembers at least.
const minTombstones = 1024

// table holds the newest encoding of each resource, in the order of their last
// changes. So what a subscriber has not got yet is the end of a list, the same
// list for all: a subscriber is one number, whatever it misses, and a change
// costs the same for one subscriber and for thousands. A table is not safe for
// concurrent use.
type table struct {
	// n is the revision of the last change.
	n       uint64
	shelves [lastKind + 1]shelf[*cell]
	deleted map[key]*cell
	// live and gone hold the cells, the last changed at the end. Deletions have
	// a list of their own so that old ones can be forgotten.
	live, gone chain
	// forgotten is the newest revision of which a deletion is not known any
	// more: what is older has to be compared by digests.
	forgotten     uint64
	minTombstones int
}

// cell is a resource as it is since revision n.
type cell struct {
	change
	n          uint64
	prev, next *cell
}

func (c *cell) ident() string             { return c.key.text }
func (c *cell) size() int                 { return len(c.encoded) }
func (c *cell) appendTo(to []byte) []byte { return append(to, c.encoded...) }

// change is a new encoding of a resource; for a deletion, one that says so.
// Encodings are shared with every message that carries them and never changed.
type change struct {
	key     key
	encoded []byte
	deleted bool
}

func newTable() *table {
	return &table{deleted: map[key]*cell{}, minTombstones: minTombstones}
}

// apply makes one revision of those changes that change anything and reports
// whether there were any.
func (t *table) apply(changes []change) bool {
	n := t.n + 1
	for _, c := range changes {
		if t.set(c, n) {
			t.n = n
		}
	}
	t.forget()
	return t.n == n
}

func (t *table) set(c change, n uint64) bool {
	shelf := &t.shelves[c.key.kind]
	old, live := shelf.get(c.key.text)
	if c.deleted && !live || live && !c.deleted && bytes.Equal(old.encoded, c.encoded) {
		return false
	}
	made := &cell{change: c, n: n}
	if live {
		t.live.remove(old)
	} else if buried := t.deleted[c.key]; buried != nil {
		t.gone.remove(buried)
		delete(t.deleted, c.key)
	}
	if c.deleted {
		shelf.remove(c.key.text)
		t.deleted[c.key] = made
		t.gone.push(made)
	} else {
		shelf.put(made)
		t.live.push(made)
	}
	return true
}

// forget drops the oldest deletions when there are more of them than of
// resources, so that a state that only turns over does not grow.
func (t *table) forget() {
	for t.gone.length > max(t.minTombstones, t.live.length) {
		oldest := t.gone.first
		t.forgotten = oldest.n
		t.gone.remove(oldest)
		delete(t.deleted, oldest.key)
	}
}

// since adds to u what of some kinds changed after revision n, and reports
// false when not all of that is known any more.
func (t *table) since(n uint64, kinds kindSet, u *update) bool {
	if kinds == 0 {
		return true
	}
	if n < t.forgotten {
		return false
	}
	for _, list := range []*chain{&t.gone, &t.live} {
		for c := list.last; c != nil && c.n > n && u.size <= u.enough; c = c.prev {
			if kinds.has(c.key.kind) {
				u.add(c.encoded)
			}
		}
	}
	return true
}

// all adds to u everything of one kind.
func (t *table) all(kind Kind, u *update) {
	t.shelves[kind].all(func(c *cell) { u.add(c.encoded) })
}

// chain is a list of cells in the order in which they were pushed.
type chain struct {
	first, last *cell
	length      int
}

func (l *chain) push(c *cell) {
	c.prev, c.next = l.last, nil
	if l.last != nil {
		l.last.next = c
	} else {
		l.first = c
	}
	l.last = c
	l.length++
}

func (l *chain) remove(c *cell) {
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		l.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	} else {
		l.last = c.prev
	}
	c.prev, c.next = nil, nil
	l.length--
}
