package feed

import (
	"bytes"
	"container/list"
)

// minTombstones is how many deletions a table of a server remembers at least.
const minTombstones = 1024

// table holds the newest encoding of each resource, in the order of their last
// changes. So what a subscriber has not got yet is the end of a list, the same
// list for all: a subscriber is one number, whatever it misses, and a change
// costs the same for one subscriber and for thousands. A table is not safe for
// concurrent use.
type table struct {
	// n is the revision of the last change.
	n     uint64
	cells map[key]*list.Element
	// live and gone hold *cell, the last changed at the back. Deletions have a
	// list of their own so that old ones can be forgotten.
	live, gone *list.List
	// forgotten is the newest revision of which a deletion is not known any
	// more: to what is older only the whole state is of help.
	forgotten     uint64
	minTombstones int
	// kinds counts what is live.
	kinds map[string]int
}

// cell is a resource as it is since revision n.
type cell struct {
	change
	n uint64
}

// change is a new encoding of a resource; for a deletion, one that says so.
// Encodings are shared with every message that carries them and never changed.
type change struct {
	key     key
	encoded []byte
	deleted bool
}

func newTable() *table {
	return &table{
		cells:         map[key]*list.Element{},
		live:          list.New(),
		gone:          list.New(),
		minTombstones: minTombstones,
		kinds:         map[string]int{},
	}
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
	if e := t.cells[c.key]; e != nil {
		old := e.Value.(*cell)
		if bytes.Equal(old.encoded, c.encoded) {
			return false
		}
		t.drop(e, old)
	} else if c.deleted {
		return false
	}
	to := t.live
	if c.deleted {
		to = t.gone
	} else {
		t.kinds[c.key.kind()]++
	}
	t.cells[c.key] = to.PushBack(&cell{change: c, n: n})
	return true
}

func (t *table) drop(e *list.Element, c *cell) {
	delete(t.cells, c.key)
	if c.deleted {
		t.gone.Remove(e)
		return
	}
	t.live.Remove(e)
	t.kinds[c.key.kind()]--
}

// forget drops the oldest deletions when there are more of them than of
// resources, so that a state that only turns over does not grow.
func (t *table) forget() {
	for t.gone.Len() > max(t.minTombstones, t.live.Len()) {
		oldest := t.gone.Front()
		c := oldest.Value.(*cell)
		t.forgotten = c.n
		t.drop(oldest, c)
	}
}

// since returns what leads a subscriber that is at revision n to t.n: the
// resources that changed, or the whole state when too much was forgotten.
func (t *table) since(n uint64) (resources [][]byte, snapshot bool) {
	if n < t.forgotten {
		return t.all(), true
	}
	resources = after(t.gone, n, resources)
	return after(t.live, n, resources), false
}

// all returns the whole state.
func (t *table) all() [][]byte {
	resources := make([][]byte, 0, t.live.Len())
	for e := t.live.Front(); e != nil; e = e.Next() {
		resources = append(resources, e.Value.(*cell).encoded)
	}
	return resources
}

func after(l *list.List, n uint64, resources [][]byte) [][]byte {
	for e := l.Back(); e != nil && e.Value.(*cell).n > n; e = e.Prev() {
		resources = append(resources, e.Value.(*cell).encoded)
	}
	return resources
}
